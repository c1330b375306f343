"""All optimizations of the tokenizer go in on top of one another, in any order, and come out again in any other.

In any order in which each comes after those that it needs.
"""

from __future__ import annotations

import ast
import itertools
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cases import FILE, UNITS, codemod, plan, reference, with_tabs

from apply_opt.model.parameters import resolve
from apply_opt.model.plan import ALREADY, PLANNED, Planner
from apply_opt.model.target import MAIN

pytestmark = pytest.mark.no_cover
"""Hundreds of times the same lines, which each codemod's own tests cover; the tracer would double their time."""


def after_its_needs(names: Sequence[str]) -> list[str]:
    """``names``, but each after those of them that it needs."""
    found: list[str] = []
    for name in names:
        found += [n for n in (*UNITS.optimizations[name].requires, name) if n in names and n not in found]
    return found


NAMES = sorted(o.name for o in UNITS.optimizations.values() if (o.target, o.part) == ("step_audio_editx", MAIN))
PAIRS = [pair for pair in itertools.permutations(NAMES, 2) if list(pair) == after_its_needs(pair)]
SHUFFLED = random.Random(0).sample(NAMES, len(NAMES))
ORDERS = [after_its_needs(SHUFFLED), after_its_needs(SHUFFLED[::-1])]
"""Of any two that need not follow each other, each comes first in one of them."""
# Forms that forks have: providers in the call, soundfile, one kind of tokens after the other, tabs.
FORK = (
    reference()
    .replace('        providers = ["CUDAExecutionProvider"]\n', "")
    .replace("sess_options=session_option, providers=providers", 'session_option, providers=["CUDAExecutionProvider"]')
    .replace(
        "vq02, vq06 = self.get_vq02_code(audio), self.get_vq06_code(audio)",
        "vq02 = self.get_vq02_code(audio)\n        vq06 = self.get_vq06_code(audio)",
    )
    .replace(
        "write_wav(file, audio.cpu().numpy(), self.SAMPLE_RATE)",
        "sf.write(file, audio[0].numpy(), 16000, format='WAV')",
    )
)
TEXTS = {"reference": reference(), "fork": FORK, "tabs and crlf": with_tabs(FORK)}


def applied(text: str, order: Sequence[str]) -> bytes:
    """``text`` after one plan for each; all of them are recognised in the result, and it is Python."""
    data = text.encode()
    for name in order:
        outcome = plan(name, data)
        assert outcome.kind == PLANNED, f"{name} in {order}: {outcome.message}"
        data = outcome.after
    for name in order:
        again = plan(name, data)
        assert again.kind == ALREADY, f"{name} after {order}: {again.message}"
    compile(data, FILE, "exec")
    return data


@pytest.mark.parametrize("part", range(4))
def test_two_by_themselves(part: int) -> None:
    for pair in random.Random(0).sample(PAIRS, 40)[part::4]:
        applied(reference(), pair)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("order", ORDERS, ids=range(len(ORDERS)))
def test_all_in_any_order_one_by_one_and_at_once(text: str, order: list[str]) -> None:
    data = applied(text, order)
    planner = Planner(text.encode(), FILE)
    for name in order:
        unit = UNITS.optimizations[name]
        assert planner.plan(unit, codemod(name), resolve(unit.parameters, {}, name)).kind == PLANNED
    planner.finish()
    if text == reference():
        assert planner.data == data
    else:  # a function of ours may be told of the same providers with options or without
        assert all(plan(name, planner.data).kind == ALREADY for name in order)


@pytest.mark.parametrize("seed", range(len(ORDERS)))
def test_in_and_out_by_the_command_line(run: Callable[..., Any], checkout: Path, seed: int) -> None:
    path, order = checkout / FILE, ORDERS[seed]
    before = path.read_bytes()
    for name in order:
        unchecked = ["--set", "unchecked=true"] if name == "tokenizer_light_model" else []
        assert run(name, "--allow", "lossy", *unchecked, cwd=checkout).code == 0
    assert path.read_text() == applied(before.decode(), order).decode()
    left = random.Random(seed).sample(order, len(order))
    while left:
        ran = run("revert", left[0], cwd=checkout)
        if ran.code:  # two of them rewrite the line of the providers: the later one comes out first, as it is told
            _, names = re.findall(r"apply-opt revert (\S+) (\S+),", ran.err)[0]
            assert names == left[0] and path.read_bytes() != before
            ran = run("revert", *re.findall(r"apply-opt revert (\S+ \S+),", ran.err)[0].split(), cwd=checkout)
        assert ran.code == 0, ran.err
        left = [name for name in left if f"{name} is taken out" not in ran.out]
    assert path.read_bytes() == before


def reformatted(data: bytes) -> bytes:
    """As a formatter leaves it: other blank lines, other spaces, other indentation."""
    text = re.sub(r"(?m)^( +)(return|if|for) ", r"\1\2  ", data.decode().replace("\n\n\n", "\n\n\n\n"))
    text = text.replace("providers = [", "providers  =  [").replace("lambda", "lambda ").replace("(audio)", "( audio )")
    return re.sub(r"(?m)^(?:    )+", lambda found: "  " * (len(found[0]) // 4), text).encode()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [reference(), FORK], ids=["reference", "fork"])
def test_out_again_after_a_formatter(run: Callable[..., Any], checkout: Path, name: str, text: str) -> None:
    path = checkout / FILE
    path.write_text(text)
    needs = UNITS.optimizations[name].requires
    assert not needs or run(*needs, cwd=checkout).code == 0
    before = path.read_bytes()
    words = ["--set", "unchecked=true"] if name == "tokenizer_light_model" else []
    assert run(name, "--allow", "lossy", *words, cwd=checkout).code == 0
    path.write_bytes(reformatted(path.read_bytes()))
    assert path.read_bytes() != reformatted(before)
    ran = run("revert", name, cwd=checkout)
    assert ran.code == 0, ran.err
    assert meaning(path.read_bytes()) == meaning(before)


def meaning(data: bytes) -> str:
    """What a file says, whatever its layout."""
    tree = ast.parse(data)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and (text := ast.get_docstring(node)) is not None:
            node.body[0] = ast.Expr(ast.Constant(text))
    return ast.unparse(tree)
