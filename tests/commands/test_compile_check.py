"""``compile-check``: what is counted, timed, compared and said of a small program, and what is no answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Ran, snapshot
from toy import TARGET, Toy

from apply_opt.commands import compile_check
from apply_opt.io import machine
from apply_opt.worker.__main__ import HERE

pytest.importorskip("torch")
Run = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("quicker")
QUICKLY = ("--backend", "eager")
SOURCE = '''\
"""A program of tensors."""
import torch


class Toy:
    """Two steps."""

    def total(self, values):
        return {"total": self.scaled(values).sum(), "way": self.way(values)}

    def scaled(self, values):
        return torch.relu(values) * 2

    def way(self, values):
        print("on the way")
        if values.sum() > 0:
            return "up"
        return "down"

    def compiled(self, values):
        return values.sum() + torch.compiler.is_compiling()
'''
WORKLOAD = """
LIBRARIES = ("torch",)
OPTIONS = {}

def cases(options):
    return ["8"]

def more_cases(options):
    return ["7"]

def inputs(case, seed):
    import torch
    return torch.arange(float(case)) + seed

def run(subject, inputs):
    return subject.total(inputs)

def stages(subject):
    return {name: (type(subject), name) for name in ("scaled", "way", "compiled")}

def entry(subject):
    return type(subject), "total"
"""


@pytest.fixture
def torch_toy(toy: Toy) -> Toy:
    """The toy, with tensors."""
    toy.source(SOURCE)
    toy.workload(WORKLOAD)
    return toy


def checked(run: Run, toy: Toy, *words: object) -> dict[str, Any]:
    """The document."""
    ran = run("compile-check", *words, "--json", cwd=toy.tree)
    assert ran.code == 0, ran.out + ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document


def test_document(torch_toy: Toy, run: Run) -> None:
    """The whole, with nothing timed; and the checkout as it was."""
    before = snapshot(torch_toy.tree)
    found = checked(run, torch_toy, *QUICKLY)
    assert snapshot(torch_toy.tree) == before
    conditions = (
        "kind apply_opt date target head options threads cpus machine environment stage backend seed level versions"
    )
    counted = "stages failed first graphs again operators breaks fullgraph seconds cases"
    assert set(found) == {*f"{conditions} {counted} verdicts calls_to_break_even verdict sentence samples".split()}
    assert (found["kind"], found["target"], found["stage"]) == ("compile-check", TARGET, "whole")
    assert found["stages"] == ["whole", "scaled", "way", "compiled"]
    places = {place["place"]: place["reason"] for place in found["breaks"]}
    assert list(places) == ["toy.py:15", "toy.py:16"] and all(places.values())
    assert found["versions"]["torch"] and found["first"]["breaks"] >= 2
    assert (found["verdict"], found["verdicts"], found["samples"]) == ("not timed", {}, [])
    assert {case: c["parity"]["identical"] for case, c in found["cases"].items()} == {"8": True, "7": True}


def test_for_people(torch_toy: Toy, run: Run) -> None:
    ran = run("compile-check", TARGET, "--repo", torch_toy.tree, *QUICKLY, cwd=torch_toy.folder)
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].startswith("torch.compile (torch ") and lines[0].endswith(
        f"backend eager) of {TARGET}, stage whole"
    )
    assert lines[1].startswith("first call      ") and " breaks; " in lines[1]
    assert lines[3].startswith("fullgraph=True  does not work: ")
    assert lines[4] == "breaks, in the first call and in all cases:" and lines[5].split()[2:] == ["toy.py:15"]
    assert "\n8: identical; " in ran.out and "\n7: identical" in ran.out
    assert lines[-1] == "whether it pays is not known: nothing was timed; its results are identical"


def test_a_stage_that_is_one_graph(torch_toy: Toy, run: Run) -> None:
    found = checked(run, torch_toy, "--stage", "scaled", *QUICKLY)
    assert (found["first"]["graphs"], found["breaks"], found["fullgraph"]["works"]) == (1, [], True)


def test_other_results(torch_toy: Toy, run: Run) -> None:
    torch_toy.workload(WORKLOAD + "\n\ndef run(subject, inputs):\n    return subject.compiled(inputs)")
    ran = run("compile-check", "--stage", "compiled", *QUICKLY, cwd=torch_toy.tree)
    assert ran.code == 0
    assert "8: largest difference 1" in ran.out


def test_words_that_differ(torch_toy: Toy, run: Run) -> None:
    torch_toy.source(
        SOURCE.replace("values.sum() + torch.compiler.is_compiling()", "int(torch.compiler.is_compiling())")
    )
    torch_toy.workload(
        WORKLOAD + "\n\ndef run(subject, inputs):\n    return {'a': subject.compiled(inputs), 'b': inputs.sum()}"
    )
    found = run("compile-check", "--stage", "compiled", *QUICKLY, cwd=torch_toy.tree).out
    assert "8: 6 of 6 texts, whole numbers and the like differ" in found
    assert "leave it off: it changes results" in found


def test_timed(torch_toy: Toy, run: Run) -> None:
    """With a C++ compiler: the one test that generates code."""
    if machine.compiler() is None:
        pytest.skip("there is no C++ compiler")
    found = checked(run, torch_toy, "--stage", "scaled", "--quick", "--seed", "1")
    assert (found["seed"], found["failed"]) == (1, None)
    assert len(found["samples"]) == 20 and {sample["case"] for sample in found["samples"]} == {"8"}
    verdict = found["verdicts"]["8"]
    assert verdict["word"] in ("faster", "slower", "no difference", "inconclusive") and len(verdict["speedup"]) == 3
    assert found["seconds"] > 0.1
    is_faster = verdict["word"] == "faster"
    assert (found["calls_to_break_even"]["8"] is not None) == is_faster == (found["verdict"] == "pays")


def test_what_is_said_of_times() -> None:
    """Both ways."""
    verdict = {"word": "faster", "speedup": [2.0, 1.5, 2.5], "noise": 1.01}
    case = {
        "calls": 1,
        "steady": True,
        "parity": {"identical": True, "largest": 0.0, "same": 1, "discrete": 1, "other": ""},
    }
    document = {"verdicts": {"8": verdict}, "calls_to_break_even": {"8": 1}}
    lines = [text for _, text in compile_check._case_lines(document, "8", case)]
    assert lines[0] == "8: identical"
    assert lines[1].startswith("  faster 2.000x (95 % interval 1.500 to 2.500; ") and lines[1].endswith(
        "after at most 1 call"
    )
    document["calls_to_break_even"]["8"] = None
    assert [text for _, text in compile_check._case_lines(document, "8", case)][1].endswith("never pays")


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ({}, "not compared, for lack of time"),
        ({"steady": False}, "not comparable: the program does not agree with itself"),
        ({"other": "a"}, "a is of another kind"),
        ({"largest": 0.5, "same": 1}, "1 of 2 texts, whole numbers and the like differ; largest difference 0.5"),
    ],
)
def test_what_is_said_of_parity(case: dict[str, Any], text: str) -> None:
    parity = {"identical": False, "largest": 0.0, "same": 2, "discrete": 2, "other": "", **case}
    assert compile_check._parity({"steady": True, "parity": parity, **case} if case else {}) == text


class TestNoAnswer:
    """What is asked for cannot be had."""

    def test_no_compiler(self, torch_toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        ran = run("compile-check", cwd=torch_toy.tree)
        assert ran.code == 1
        assert "no-such-compiler is not found here" in ran.err and "--backend aot_eager" in ran.err

    def test_no_such_target(self, torch_toy: Toy, run: Run) -> None:
        ran = run("compile-check", "toy_targt", cwd=torch_toy.tree)
        assert (ran.code, ran.err) == (2, f"apply-opt: there is no target called toy_targt\n  did you mean {TARGET}?\n")
        assert "  there are: " in run("compile-check", "x", cwd=torch_toy.tree).err

    def test_no_such_stage(self, torch_toy: Toy, run: Run) -> None:
        ran = run("compile-check", "--stage", "wavelets", *QUICKLY, cwd=torch_toy.tree)
        assert ran.code == 2
        assert "no stage called wavelets\n  --stage NAME: whole, scaled, way, compiled\n" in ran.err

    def test_a_stage_that_does_not_run(self, torch_toy: Toy, run: Run) -> None:
        ran = run("compile-check", "--stage", "compiled", *QUICKLY, cwd=torch_toy.tree)
        assert ran.code == 4
        assert "unused: compiled did not run" in ran.out

    def test_not_a_checkout_of_it(self, torch_toy: Toy, run: Run) -> None:
        assert run("compile-check", "time_llm", *QUICKLY, cwd=torch_toy.tree).code == 3

    def test_a_program_that_fails_anyway(self, torch_toy: Toy, run: Run) -> None:
        torch_toy.workload(WORKLOAD + "\n\ndef run(subject, inputs):\n    raise ValueError('no numbers')")
        ran = run("compile-check", *QUICKLY, cwd=torch_toy.tree)
        assert ran.code == 4
        assert "failed to run: crashed: ValueError: no numbers" in ran.out


class TestCompilersThatFail:
    """That is an answer, not an error."""

    def broken(self, toy: Toy, how: str) -> None:
        """A backend that does ``how``."""
        load = f"""
        def load(folder, options):
            import os, time, toy, torch
            import torch._dynamo
            lookup = torch._dynamo.lookup_backend
            torch._dynamo.lookup_backend = lambda name: (lambda graph, inputs: {how}) if name == "aot_eager" else lookup(name)
            return toy.Toy()
        """
        toy.workload(WORKLOAD + "\n" + "\n".join(line[8:] for line in load.splitlines()))

    @pytest.mark.parametrize(
        ("how", "limit", "reason"),
        [
            ("1 / 0", 300, "ZeroDivisionError: division by zero"),
            ("os._exit(3)", 300, "the workload ended with code 3"),
            ("time.sleep(300)", 20, "the workload did not end within 20 s; --timeout SECONDS for more"),
        ],
    )
    def test_how(self, torch_toy: Toy, run: Run, how: str, limit: int, reason: str) -> None:
        self.broken(torch_toy, how)
        ran = run("compile-check", "--backend", "aot_eager", "--timeout", limit, cwd=torch_toy.tree)
        assert ran.code == 0, ran.out + ran.err
        assert ran.out.splitlines()[-1] == f"leave it off: it does not compile ({reason})"

    def test_a_compiler_that_compiles_nothing(self, torch_toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "false")
        found = checked(run, torch_toy, "--stage", "scaled", "--quick")
        assert found["verdict"] == "does not compile" and found["failed"]


def test_the_worker_says_the_same_words() -> None:
    """By which the command tells the compiler's faults from the program's."""
    text = (Path(HERE) / "compiling.py").read_text("utf-8")
    assert f'COMPILING = "{compile_check.COMPILING}"\n' in text
    assert f'WHOLE = "{compile_check.WHOLE}"\n' in text
