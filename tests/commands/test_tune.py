"""``tune``: the search among an optimization's values, on a small target whose processes start in a moment."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support import Ran, snapshot
from toy import FILE, NAME, OLD, SOURCE, Toy

Run = Callable[..., Ran]
MANIFEST = """
[parameters.delay]
type = "int"
default = 4
tune = ["0", "4", "8"]
help = "milliseconds"
help_zh = "毫秒"

[parameters.mark]
type = "int"
default = 0
help = "changes nothing, but fails if it is 7"
help_zh = "无作用，但为 7 时出错"
"""
CODEMOD = f"""
from apply_opt.errors import NoSite
from apply_opt.model.codemod import OURS, TODO, Site
from apply_opt.model.source import Edit


def find(source, parameters):
    text = source.data.decode()
    for place, state in [({OLD!r}, TODO), ("time.sleep", OURS)]:
        if place in text:
            return [Site("place", text[: text.index(place)].count("\\n") + 1, state)]
    raise NoSite("there is no such place")


def edit(source, parameters, sites):
    line, wait = sites[0].line, "import time; time.sleep({{}} / 1000 + 0 % (7 - {{}}))"
    text = "        " + wait.format(parameters["delay"], parameters["mark"]) + "; scale = self.scale\\n"
    return [Edit(line, line, text)]
"""


@pytest.fixture
def tuned(toy: Toy, quicker: None) -> Toy:
    """An optimization that waits as long as it is told to, and a ``--quick`` that is quicker still."""
    manifest = toy.pack / "patches" / NAME / "optimization.toml"
    manifest.write_text(manifest.read_text() + MANIFEST)
    (toy.pack / "codemods" / f"{NAME}.py").write_text(CODEMOD)
    return toy


def found(run: Run, toy: Toy, *words: object) -> dict[str, Any]:
    ran = run("tune", NAME, "--quick", "--json", *words, cwd=toy.tree)
    assert ran.code == 0, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document


def test_best_of_the_manifests_values(tuned: Toy, run: Run) -> None:
    before = snapshot(tuned.tree)
    document = found(run, tuned)
    assert [c["values"] for c in document["candidates"]] == [{"delay": "0"}, {"delay": "8"}]
    words = [[v["word"] for v in c["bench"]["verdicts"].values()] for c in document["candidates"]]
    assert words == [["faster", "faster"], ["slower", "slower"]]
    assert (document["best"], document["command"]) == ({"delay": "0"}, f"apply-opt {NAME} --set delay=0")
    assert snapshot(tuned.tree) == before
    assert run(*document["command"].split()[1:], cwd=tuned.tree).code == 0
    assert "time.sleep(0 / 1000" in (tuned.tree / FILE).read_text()


def test_level_is_shared_by_the_candidates(tuned: Toy, run: Run) -> None:
    """Two at 97.5 %, so that one of both is wrong in at most 5 % of all searches."""
    levels = [c["bench"]["level"] for c in found(run, tuned)["candidates"]]
    assert levels == [pytest.approx(0.975)] * 2


def test_nothing_better_than_the_defaults(tuned: Toy, run: Run) -> None:
    document = found(run, tuned, "--values", "delay=8,12")
    assert (document["best"], document["command"]) == ({}, f"apply-opt {NAME}")
    ran = run("tune", NAME, "--quick", "--values", "delay=8", cwd=tuned.tree)
    assert ran.code == 0 and "leave them" in ran.out


def test_values_in_pairs(tuned: Toy, run: Run) -> None:
    """Of two parameters, every combination but the defaults."""
    document = found(run, tuned, "--values", "delay=0,4", "--values", "mark=0,1")
    pairs = [tuple(c["values"].values()) for c in document["candidates"]]
    assert pairs == [("0", "0"), ("0", "1"), ("4", "1")]


def test_what_is_set_is_not_varied(tuned: Toy, run: Run) -> None:
    document = found(run, tuned, "--set", "delay=8", "--values", "mark=1")
    assert [c["values"] for c in document["candidates"]] == [{"mark": "1"}]
    patch = document["candidates"][0]["bench"]["patch"]
    assert "sleep(8 / 1000 + 0 % (7 - 0))" in patch and "sleep(8 / 1000 + 0 % (7 - 1))" in patch


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--values", "delays=1"], "has no parameter called delays"),
        (["--values", "delay=x"], "takes a whole number"),
        (["--values", "delay=4"], "no values to try but the defaults"),
        (["--values", "delay=" + ",".join(map(str, range(30)))], "30 combinations are more than 24"),
        (["--set", "delay=4"], "no values to try but the defaults"),
        ([NAME], "one optimization at a time"),
    ],
)
def test_wrong_usage(tuned: Toy, run: Run, words: list[str], reason: str) -> None:
    ran = run("tune", NAME, *words, cwd=tuned.tree)
    assert (ran.code, reason in ran.err) == (2, True), ran.err


def test_already_there(tuned: Toy, run: Run) -> None:
    assert run(NAME, cwd=tuned.tree).code == 0
    ran = run("tune", NAME, cwd=tuned.tree)
    assert ran.code == 3
    assert f"apply-opt revert {NAME}" in ran.err


def test_workload_that_fails_with_a_value(tuned: Toy, run: Run) -> None:
    """The reason is given; nothing is written."""
    before = snapshot(tuned.tree)
    tuned.workload("def run(subject, inputs):\n    raise SystemExit(3)\n")
    ran = run("tune", NAME, "--quick", cwd=tuned.tree)
    assert ran.code in (4, 5) and "SystemExit" in ran.err
    assert snapshot(tuned.tree) == before


def test_a_value_that_the_program_fails_with(tuned: Toy, run: Run) -> None:
    """It is named with its reason, and costs no other value its measurement."""
    document = found(run, tuned, "--values", "delay=0", "--values", "mark=7,1")
    assert [c["values"] for c in document["candidates"]] == [{"delay": "0", "mark": "1"}]
    ((values, error),) = [failed.values() for failed in document["failed"]]
    assert (values, "ZeroDivisionError" in error) == ({"delay": "0", "mark": "7"}, True)
    ran = run("tune", NAME, "--quick", "--values", "mark=7,1", cwd=tuned.tree)
    assert (ran.code, "--set mark=7 " in ran.out, "ZeroDivisionError" in ran.out) == (0, True, True)


def test_no_such_place(tuned: Toy, run: Run) -> None:
    tuned.source(SOURCE.replace(OLD, "        scale = 2\n"))
    assert run("tune", NAME, cwd=tuned.tree).code == 3
