"""Over a thousand made-up forks: a change lands where the mark is and nowhere else, or is refused.

The judge here knows nothing of the codemods. It takes the new code out of the result by its own means and compares what is
left with the variant; then it looks whether what was taken out stood at the mark.
"""

from __future__ import annotations

import ast
import difflib
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases import UNITS, plan
from hypothesis import given, settings
from hypothesis import strategies as st
from support import REFERENCE, copy
from variants import (
    DECOYS,
    DRIFT,
    ENCODER,
    INTRA,
    MADE,
    MODEL,
    SESSION,
    Fork,
    Variant,
    grown,
    variant,
)

from apply_opt.io.checkout import has_markers
from apply_opt.model.plan import ALREADY, NOT_NEEDED, PLANNED, REFUSED, Outcome

pytestmark = pytest.mark.no_cover
"""Hundreds of times the same lines, which each codemod's own tests cover; the tracer would double their time."""

TF32, THREADS, LIGHT, BATCHED = NAMES = (
    "tokenizer_tf32",
    "tokenizer_ort_threads",
    "tokenizer_light_model",
    "tokenizer_vq02_batched",
)
TURNS = (THREADS, TF32, THREADS, LIGHT, BATCHED)
CHUNK = 30
DRIFTED, DECOYED, HALVED = range(0, 16), range(16, 25), range(25, 26)
"""Chunks of so many variants each."""
LEAST = 0.97
"""The share of forks without decoys that the optimizations have to land on."""


class Judge:
    """Compares an outcome with its variant."""

    def __init__(self, fork: Variant, outcome: Outcome) -> None:
        self.fork = fork
        self.after = ast.parse(outcome.after)
        self.lines_before = fork.data.splitlines(keepends=True)
        self.lines_after = outcome.after.splitlines(keepends=True)

    def take_helper(self, name: str) -> None:
        """Take our function out; it has to stand once, right above the statement that holds the marked class or options."""
        found = [s for s in self.after.body if isinstance(s, ast.FunctionDef) and s.name == name]
        assert len(found) == 1
        assert not [
            n for n in ast.walk(self.after) if isinstance(n, ast.FunctionDef) and n.name == name and n is not found[0]
        ]
        self.after.body.remove(found[0])

    def twin(self, node: ast.AST) -> ast.AST:
        """The node of the result where the variant has ``node``; the trees have to have the same shape by now."""
        pairs = zip(ast.walk(self.fork.tree), ast.walk(self.after))
        return next(after for before, after in pairs if before is node)

    def kept_lines(self, most: int) -> None:
        """All lines are there as they were, byte for byte, but for ``most`` of them."""
        lost = 0
        for tag, first, last, _, _ in difflib.SequenceMatcher(
            None, self.lines_before, self.lines_after, False
        ).get_opcodes():
            lost += (last - first) if tag in ("replace", "delete") else 0
        assert lost <= most, f"{lost} lines changed"


def judge_tf32(fork: Variant, outcome: Outcome) -> None:
    judge = Judge(fork, outcome)
    judge.take_helper("_with_tf32_matmul")
    functions = [n for n in ast.walk(judge.after) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    decorated = [f for f in functions if any(ast.unparse(d) == "_with_tf32_matmul" for d in f.decorator_list)]
    for function in decorated:
        assert ast.unparse(function.decorator_list.pop()) == "_with_tf32_matmul", "not next to the def"
    assert ast.dump(judge.after) == ast.dump(fork.tree)
    assert {judge.twin(n) for n in fork.marks[ENCODER]} == set(decorated), "not on the marked methods alone"
    judge.kept_lines(0)


def judge_threads(fork: Variant, outcome: Outcome) -> None:
    judge = Judge(fork, outcome)
    judge.take_helper("_ort_intra_op_threads")
    found = [
        n for n in ast.walk(judge.after) if isinstance(n, ast.Call) and ast.unparse(n.func) == "_ort_intra_op_threads"
    ]
    assert len(found) == 1
    block, new = next((b, s) for b, s in statements(judge.after) if found[0] in ast.walk(s) and not hasattr(s, "body"))
    assert isinstance(new, ast.Assign)
    target = new.targets[0]
    assert isinstance(target, ast.Attribute) and target.attr == "intra_op_num_threads"
    check_known(judge.after, found[0])
    marks = fork.marks.get(INTRA, [])
    if marks and len(list(statements(judge.after))) == len(list(statements(fork.tree))):
        old = marks[0]
        assert isinstance(old, ast.Assign)
        place = block.index(new)
        if judge_in_place(judge, old, new):
            return judge.kept_lines(1)
        # Moved down to where the session is built.
        assert is_session(block[place + 1], fork), "moved to another place than the session's"
        block.remove(new)
        before = next(b for b, s in statements(fork.tree) if s is old)
        at = before.index(old)
        before.remove(old)
        try:
            assert ast.dump(judge.after) == ast.dump(fork.tree)
            assert ast.unparse(target) == ast.unparse(old.targets[0])
        finally:
            before.insert(at, old)
        return judge.kept_lines(1)
    assert not marks, "a setting was added beside the one that is there"
    place = block.index(new)
    after, before_it = block[place + 1 :], block[:place]
    block.remove(new)
    assert ast.dump(judge.after) == ast.dump(fork.tree)
    made, sessions = judge.twin(fork.marks[MADE][0]), [judge.twin(n) for n in fork.marks[SESSION]]
    near = [
        s for s in (made, *sessions) if any(s is n for b in (before_it[-1:], after[:1]) for x in b for n in ast.walk(x))
    ]
    assert near, "neither after the options are made nor before they are used"
    assert ast.unparse(target.value) in names_of_options(fork)
    judge.kept_lines(0)
    return None


def check_known(tree: ast.Module, call: ast.Call) -> None:
    """What our function is given has its value already: names that are only given one further down are an error."""
    used = {n.id for n in ast.walk(call) if isinstance(n, ast.Name)}
    stores = [n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.id in used]
    late = {n.id for n in stores} - {n.id for n in stores if n.lineno < call.lineno}
    assert not late, f"{late} not known yet"


def judge_in_place(judge: Judge, old: ast.Assign, new: ast.Assign) -> bool:
    """Whether ``new`` stands where ``old`` did; the trees are compared with its value put back."""
    value, new.value = new.value, old.value
    same = ast.dump(judge.after) == ast.dump(judge.fork.tree) and judge.twin(old) is new
    new.value = value
    return same


def is_session(statement: ast.stmt, fork: Variant) -> bool:
    return ast.dump(statement) in {ast.dump(n) for n in fork.marks[SESSION]}


def names_of_options(fork: Variant) -> set[str]:
    """What the marked statements call the options."""
    made = fork.marks[MADE][0]
    names = {ast.unparse(t) for t in (made.targets if isinstance(made, ast.Assign) else [made.target])}  # type: ignore[attr-defined]
    for session in fork.marks[SESSION]:
        for call in (n for n in ast.walk(session) if isinstance(n, ast.Call)):
            names |= {ast.unparse(k.value) for k in call.keywords if k.arg == "sess_options"}
            names |= {ast.unparse(a) for a in call.args[1:2]}
    return names


def judge_light(fork: Variant, outcome: Outcome) -> None:
    judge = Judge(fork, outcome)
    value = str(outcome.parameters["model_id"])
    new = [n for n in ast.walk(judge.after) if isinstance(n, ast.Constant) and n.value == value]
    (old,) = fork.marks[MODEL]
    pairs = [(b, a) for b, a in zip(ast.walk(fork.tree), ast.walk(judge.after)) if b is old]
    assert pairs and pairs[0][1] in new, "not the marked string"
    pairs[0][1].value = old.value  # type: ignore[attr-defined]
    assert ast.dump(judge.after) == ast.dump(fork.tree)
    judge.kept_lines(1)


def judge_batched(fork: Variant, outcome: Outcome) -> None:
    judge = Judge(fork, outcome)
    (ours,) = (s for s in judge.after.body if isinstance(s, ast.ClassDef) and s.name == "_AllChunksAtOnce")
    place = judge.after.body.index(ours)
    judge.after.body.remove(ours)
    if len(judge.after.body) > len(fork.tree.body):
        assert ast.unparse(judge.after.body.pop(place - 1)) == "import torch"
    changed = []
    for call in (n for n in ast.walk(judge.after) if isinstance(n, ast.Call)):
        added = [k for k in call.keywords if k.arg is None and ast.unparse(k.value).startswith("_AllChunksAtOnce.")]
        if added:
            assert call.keywords[-1:] == added
            call.keywords.remove(added[0])
            changed.append((call, ast.unparse(added[0].value)))
    assert ast.dump(judge.after) == ast.dump(fork.tree)
    marked_methods = [judge.twin(n) for n in fork.marks[ENCODER]]
    for call, code in changed:
        assert any(call in ast.walk(method) for method in marked_methods), "not in a marked method"
        names = {ast.unparse(n) for n in ast.walk(judge.after) if isinstance(n, ast.Attribute)}
        assert code.removeprefix("_AllChunksAtOnce.option(")[:-1] + ".infer_encoder" in names
    assert all(any(call in ast.walk(method) for call, _ in changed) for method in marked_methods), (
        "a method is left out"
    )
    judge.kept_lines(len(changed))


def statements(tree: ast.AST) -> list[tuple[list[ast.stmt], ast.stmt]]:
    """Each statement with the list that it is in."""
    found = []
    for node in ast.walk(tree):
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                found += [(value, s) for s in value if isinstance(s, ast.stmt)]
    return found


NEEDED = {TF32: (ENCODER,), THREADS: (MADE, SESSION), LIGHT: (MODEL,), BATCHED: (ENCODER,)}
JUDGES: dict[str, Callable[[Variant, Outcome], None]] = {
    TF32: judge_tf32,
    THREADS: judge_threads,
    LIGHT: judge_light,
    BATCHED: judge_batched,
}


def check(fork: Variant, name: str, again: bool = False) -> Outcome:
    """Plan ``name`` on a variant; where that gives anything, it has to be right, and final."""
    outcome = plan(name, fork.data)
    try:
        if outcome.kind == PLANNED:
            assert all(fork.marks.get(mark) for mark in NEEDED[name]), "landed although the site is gone"
            JUDGES[name](fork, outcome)
            if again:
                second = plan(name, outcome.after)
                assert second.kind == ALREADY, second.message
        elif outcome.kind == NOT_NEEDED:
            assert name == THREADS and "conditional_setting" in fork.steps
        else:
            assert outcome.kind == REFUSED, outcome.kind
            assert type(outcome.error).__name__ in ("NoSite", "Ambiguous", "Conflict"), repr(outcome.error)
            assert outcome.message.startswith("tokenizer.py")
    except AssertionError as error:
        raise AssertionError(f"{name}, by {fork.steps}: {error}\n{fork.text}") from error
    return outcome


def seeds(chunk: int) -> range:
    return range(chunk * CHUNK, (chunk + 1) * CHUNK)


@pytest.mark.parametrize("chunk", DRIFTED)
def test_drifted_forks(chunk: int, record_property: Callable[[str, object], None]) -> None:
    planned, refused = 0, Counter[str]()
    for seed in seeds(chunk):
        fork = variant(seed)
        name = TURNS[seed % 5]
        outcome = check(fork, name, again=seed % 8 == 0)
        planned += outcome.kind == PLANNED
        if outcome.kind != PLANNED:
            refused[f"{name}: {outcome.message} (seed {seed}: {fork.steps})"] += 1
    record_property("landed", f"{planned} of {planned + refused.total()}")
    assert planned >= LEAST * (planned + refused.total()), refused


@pytest.mark.parametrize("chunk", DECOYED)
def test_forks_with_decoys(chunk: int, record_property: Callable[[str, object], None]) -> None:
    kinds = Counter(check(variant(seed, drift=2, decoys=2), TURNS[seed % 5]).kind for seed in seeds(chunk))
    record_property("landed", f"{kinds[PLANNED]} of {kinds.total()}")
    assert kinds[PLANNED] >= kinds.total() / 3
    assert kinds[REFUSED] >= 1


@pytest.mark.parametrize("chunk", HALVED)
def test_half_of_it_is_there(chunk: int) -> None:
    for seed in seeds(chunk)[::2]:
        fork = variant(seed, drift=2)
        for name, helper, use in (
            (TF32, "_with_tf32_matmul", rb"(?m)^[ \t]*@_with_tf32_matmul\r?\n"),
            (THREADS, "_ort_intra_op_threads", rb"(?<== )_ort_intra_op_threads\([^;\n]*\)"),
        ):
            whole = plan(name, fork.data).after
            if not whole:
                continue
            lines = whole.splitlines(keepends=True)
            (function,) = (n for n in ast.parse(whole).body if getattr(n, "name", "") == helper)
            start, end = function.lineno - 1, function.end_lineno or 0
            without_helper = b"".join(lines[:start] + lines[end:])
            without_use, count = re.subn(use, b"" if name == TF32 else b"1", whole)
            doubled = b"".join(lines[:end] + lines[start:])
            assert count == 1
            for half in (without_helper, without_use, doubled):
                ast.parse(half)
                outcome = plan(name, half)
                assert outcome.kind == REFUSED, (outcome.kind, fork.steps)
                assert "partly applied" in outcome.message or "more than once" in outcome.message


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(DRIFT), max_size=8, unique=True),
    st.lists(st.sampled_from(DECOYS), max_size=2, unique=True),
)
@settings(max_examples=30)
def test_any_changes(seed: int, drift: list[Any], decoys: list[Any]) -> None:
    fork = grown(Fork(seed), [*drift, *sorted(decoys, key=DECOYS.index)])
    for name in NAMES:
        outcome = check(fork, name)
        if not decoys:
            assert outcome.kind == PLANNED, (outcome.message, fork.steps)


@pytest.mark.parametrize("seed", range(100_000, 100_006))
def test_in_and_out_by_the_command_line(seed: int, run: Callable[..., Any], tmp_path: Path) -> None:
    """The very bytes come back, whatever was put in."""
    tree = copy(REFERENCE, tmp_path / "tree")
    fork = next(
        fork
        for fork in (variant(n, drift=3, decoys=seed % 2) for n in itertools.count(seed, 1000))
        if has_markers(fork.data, UNITS.targets["step_audio_editx"])
    )
    (tree / "tokenizer.py").write_bytes(fork.data)
    expected = {name: plan(name, fork.data).kind for name in NAMES}
    for name in NAMES:
        ran = run(name, "--allow", "lossy", *(["--set", "unchecked=true"] if name == LIGHT else []), cwd=tree)
        assert ran.code == (0 if expected[name] == PLANNED else 3), ran.err
    assert ((tree / "tokenizer.py").read_bytes() == fork.data) is (PLANNED not in expected.values())
    random.Random(seed).shuffle(landed := [name for name in NAMES if expected[name] == PLANNED])
    for name in landed:
        assert run("revert", name, cwd=tree).code == 0
    assert (tree / "tokenizer.py").read_bytes() == fork.data
