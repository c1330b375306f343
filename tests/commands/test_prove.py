"""``apply --prove``: what is written, and what is not, on a small target whose processes start in a moment."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from support import Ran, snapshot
from toy import FILE, NAME, NEW, Toy
from toy import OLD as SCALE
from toy import SOURCE as WITHOUT_WAITING

from apply_opt.commands import prove
from apply_opt.commands.planning import Plan
from apply_opt.io import records

Run = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("quicker")
OTHER = "toy_other"
OTHER_OLD, OTHER_NEW = "    return LIMIT\n", "    return (LIMIT)\n"
OLD = "        time.sleep(0.002); scale = self.scale\n"
SOURCE = WITHOUT_WAITING.replace("import random", "import random, time").replace(SCALE, OLD)


@pytest.fixture
def toy(toy: Toy) -> Toy:
    """It waits, until it is changed: of what changes nothing, so few samples would say "slower" once in forty runs."""
    toy.source(SOURCE)
    toy.optimization(NAME, OLD, NEW)
    return toy


@pytest.fixture
def two(toy: Toy) -> Toy:
    """A second optimization, elsewhere in the file, and a workload that comes by there."""
    toy.optimization(OTHER, OTHER_OLD, OTHER_NEW)
    toy.workload(
        """
        def run(subject, inputs):
            import toy
            return {"total": subject.total(inputs["values"]), "other": toy.other()}
        """
    )
    return toy


def proved(run: Run, toy: Toy, *words: object) -> Ran:
    return run("apply", *(words or [NAME]), "--prove", "--quick", cwd=toy.tree)


def applied(run: Run, toy: Toy) -> list[str]:
    """What the ledger says."""
    document = json.loads(run("status", "--json", cwd=toy.tree).out)
    return [name for name, found in document["optimizations"].items() if found["state"] == "applied"]


class TestWrites:
    """What keeps its promise is applied."""

    def test_one(self, toy: Toy, run: Run) -> None:
        ran = run(NAME, "--prove", "--quick", "--json", cwd=toy.tree)
        assert ran.code == 0, ran.err
        proof: dict[str, Any] = json.loads(ran.out)["proof"]
        assert (proof["verify"]["verdict"], proof["dropped"]) == ("parity", [])
        assert len(proof["bench"]["samples"]) == 20
        assert NEW in (toy.tree / FILE).read_text()
        assert applied(run, toy) == [NAME]
        assert run("revert", cwd=toy.tree).code == 0
        assert (toy.tree / FILE).read_text() == SOURCE

    def test_evidence_is_kept(self, toy: Toy, run: Run) -> None:
        assert proved(run, toy).code == 0
        found = [records.read(path)["kind"] for path in records.paths(os.path.realpath(toy.tree))]
        assert sorted(found) == ["bench", "verify"]

    def test_for_people(self, toy: Toy, run: Run) -> None:
        out = proved(run, toy).out
        assert "parity  toy_change" in out and "the same code against itself" in out and "toy.py changed in" in out

    def test_gain_that_was_asked_for(self, toy: Toy, run: Run) -> None:
        assert proved(run, toy, NAME, "--min-speedup", "2").code == 0
        assert NEW in (toy.tree / FILE).read_text()

    def test_two(self, two: Toy, run: Run) -> None:
        assert proved(run, two, NAME, OTHER).code == 0
        assert applied(run, two) == [NAME, OTHER]


class TestLeavesOut:
    """Of several, those that keep their promise by themselves."""

    @pytest.mark.parametrize(
        "wrong",
        [
            "    return LIMIT + 1\n",
            "    raise ValueError\n",
            "    import os\n    os._exit(3)\n",
            "    import time\n    return time.perf_counter()\n",
        ],
    )
    def test_one_that_fails(self, two: Toy, run: Run, wrong: str) -> None:
        two.optimization(OTHER, OTHER_OLD, wrong)
        ran = proved(run, two, NAME, OTHER)
        assert ran.code == 0, ran.err
        assert f"{OTHER}  left out" in ran.out
        assert applied(run, two) == [NAME]
        assert (two.tree / FILE).read_text() == SOURCE.replace(OLD, NEW)

    def test_two_that_fail_together(self, two: Toy, run: Run) -> None:
        """Each of them is right where the other is not."""
        two.optimization(NAME, OLD, "        scale = self.scale + hasattr(other, 'mark')\n")
        two.optimization(OTHER, OTHER_OLD, OTHER_OLD + "\n\nother.mark = 1\n")
        before = snapshot(two.tree)
        ran = proved(run, two, NAME, OTHER)
        assert ran.code == 4
        assert "parity failed" in ran.err
        assert snapshot(two.tree) == before

    def test_what_another_one_needs(self, two: Toy, run: Run) -> None:
        """By itself it cannot be had: it is tried with what it needs, and goes where that goes."""
        two.optimization(OTHER, OTHER_OLD, "    return LIMIT + 1\n")
        manifest = two.pack / "patches" / OTHER / "optimization.toml"
        manifest.write_text(manifest.read_text() + f'requires = ["{NAME}"]\n')
        assert proved(run, two, NAME, OTHER, "--strict").code == 4
        ran = proved(run, two, NAME, OTHER)
        assert (ran.code, applied(run, two)) == (0, [NAME]), ran.err

    def test_what_another_one_needs_and_cannot_have(self, two: Toy, run: Run) -> None:
        manifest = two.pack / "patches" / OTHER / "optimization.toml"
        manifest.write_text(manifest.read_text() + f'requires = ["{NAME}"]\n')
        two.optimization(NAME, OLD, "        scale = self.scale + 1\n")
        before = snapshot(two.tree)
        ran = proved(run, two, NAME, OTHER)
        assert (ran.code, "parity failed" in ran.err) == (4, True)
        assert snapshot(two.tree) == before


class TestRefuses:
    """Then the checkout is as it was."""

    @pytest.mark.parametrize(
        ("new", "code", "reason"),
        [
            ("        scale = self.scale + 1\n", 4, "parity failed"),
            ("        return float('nan')\n", 4, "parity failed"),
            ("        import os; os._exit(0)\n", 4, "the workload ended"),
            ("        time.sleep(0.02); scale = self.scale\n", 5, "it is slower"),
        ],
    )
    def test_what_breaks_its_promise(self, toy: Toy, run: Run, new: str, code: int, reason: str) -> None:
        toy.optimization(NAME, OLD, new)
        before = snapshot(toy.tree)
        ran = proved(run, toy)
        assert (ran.code, reason in ran.err) == (code, True), ran.err
        assert snapshot(toy.tree) == before

    def test_less_than_was_asked_for(self, toy: Toy, run: Run) -> None:
        before = snapshot(toy.tree)
        ran = proved(run, toy, NAME, "--min-speedup", "100000")
        assert ran.code == 5
        assert "a speed-up of at least 100000 is not shown" in ran.err and f"apply-opt {NAME}" in ran.err
        assert snapshot(toy.tree) == before

    def test_for_scripts(self, toy: Toy, run: Run) -> None:
        toy.optimization(NAME, OLD, "        scale = self.scale + 1\n")
        ran = proved(run, toy, NAME, "--json")
        assert (ran.code, json.loads(ran.out)["error"]["kind"]) == (4, "not_proven")

    def test_baseline_that_cannot_be_compared(self, toy: Toy, run: Run) -> None:
        toy.source(SOURCE.replace("self.offset = 0", "self.offset = time.time()"))
        before = snapshot(toy.tree)
        ran = proved(run, toy)
        assert ran.code == 4
        assert snapshot(toy.tree) == before

    def test_lossy_still_has_to_be_allowed(self, toy: Toy, run: Run) -> None:
        toy.optimization(NAME, OLD, "        scale = self.scale + 1\n", "lossy")
        assert proved(run, toy).code == 3
        assert (toy.tree / FILE).read_text() == SOURCE
        assert proved(run, toy, NAME, "--allow", "lossy").code == 0


def test_another_file_is_edited_meanwhile(toy: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was proven is no longer what is there."""
    real = prove._measured

    def measured(plan: Plan, arguments: argparse.Namespace) -> dict[str, Any]:
        (toy.tree / "more.py").write_text("MORE = 1\n")
        return real(plan, arguments)

    monkeypatch.setattr(prove, "_measured", measured)
    ran = proved(run, toy)
    assert (ran.code, "were edited while copies of it were run" in ran.err) == (3, True), ran.err
    assert (toy.tree / FILE).read_text() == SOURCE


def test_inputs_that_tell_nothing(two: Toy, run: Run) -> None:
    """Each optimization by itself would fare no better; and what to type has the option."""
    ran = proved(run, two, NAME, OTHER, "--option", "size=7")
    assert (ran.code, "one shape of input only" in ran.err) == (4, True), ran.err
    assert f"apply-opt verify {NAME} {OTHER} --option size=7" in ran.err
    assert "observations" not in ran.err, "nothing was compared"
    assert len(records.paths(os.path.realpath(two.tree))) == 1


def test_cases_that_are_compared_and_not_timed(two: Toy, run: Run) -> None:
    two.workload("def more_cases(options): return ['9', '7']\n")
    ran = run("apply", NAME, "--prove", "--quick", "--json", "--option", "size=7", cwd=two.tree)
    proof = json.loads(ran.out)["proof"]
    assert (proof["verify"]["cases"], proof["bench"]["cases"]) == (["7", "9"], ["7"])
