"""``advise``: shares, what pays, what is claimed, on a small program that mostly waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support import Ran, snapshot
from toy import NAME, OLD, TARGET, Toy

from apply_opt.commands import advise
from apply_opt.model.measurement import FASTER, NO_DIFFERENCE, SLOWER, Interval, Verdict

Run = Callable[..., Ran]
pytestmark = pytest.mark.usefixtures("quicker")
SLOW = '''\
"""A program that waits."""
import time


class Toy:
    def total(self, values):
        self.short()
        self.long()
        return sum(values)

    def short(self):
        time.sleep(0.004)

    def long(self):
        time.sleep(0.012)

    def never(self):
        return 1
'''
SHORT, LONG, NEVER = "        time.sleep(0.004)\n", "        time.sleep(0.012)\n", "        return 1\n"
STAGES = """
def stages(subject):
    cls = type(subject)
    return {"short": (cls, "short"), "long": (cls, "long"), "all": (cls, "total"), "never": (cls, "never")}
WRONG = {}
"""
CLAIMS = """
[[claim]]
says = "the long wait is most of it"
says_zh = "长的等待占大部分"
stage = "long"
said = [0.55, 0.85]

[[claim]]
says = "the short wait is most of all"
stage = "short"
of = "all"
said = [0.5, 0.6]

[[claim]]
says = "the short wait is nothing"
stage = "short"
of = "all"
said = [0.0, 0.01]

[[claim]]
says = "no long wait: 1.1 times as fast"
unit = "toy_no_long"
said = [1.0, 1.1]

[[claim]]
says = "other numbers: ten times as fast"
unit = "toy_other"
said = [10, 11]

[[claim]]
says = "of ten numbers"
unit = "toy_no_long"
options = { size = 10 }
said = [1, 2]

[[claim]]
says = "of nine numbers"
unit = "toy_no_long"
case = "9$"
ask = "--option size=9"
said = [1, 2]

[[claim]]
says = "of eight numbers"
unit = "toy_no_short"
case = "8$"
options = { size = 8 }
said = [1.15, 1.6]

[[claim]]
says = "of what never runs"
stage = "never"
said = [0, 1]

[[claim]]
says = "of a part of what never runs"
stage = "long"
of = "never"
said = [0, 1]

[[claim]]
says = "the compiler does nothing"
see = "apply-opt compile-check"
"""


@pytest.fixture
def slow(toy: Toy) -> Toy:
    """Waits in two places, each of which an optimization takes out; others do nothing, do it never, or change results."""
    toy.source(SLOW)
    toy.workload(STAGES)
    toy.optimization("toy_no_short", SHORT, "        time.sleep(0.0)\n")
    toy.optimization("toy_no_long", LONG, "        time.sleep(0.0 + 0.0)\n")
    toy.optimization("toy_longer", LONG, "        time.sleep(0.024)\n")
    toy.optimization("toy_nothing", "        return sum(values)\n", "        return sum(list(values))\n")
    toy.optimization("toy_never", NEVER, "        return 1 + 0\n")
    toy.optimization("toy_lossy", "        return sum(values)\n", "        return sum(values) + 1\n", "lossy")
    toy.optimization("toy_other", "        self.long()\n", "        pass\n", "lossy")
    (toy.pack / "target_repos" / TARGET / "claims.toml").write_text(CLAIMS)
    return toy


def advised(run: Run, toy: Toy, *words: object) -> dict[str, Any]:
    ran = run(
        "advise", TARGET, "--quick", "--blocks", 5, "--json", "--seed", "1", "--option", "size=8", *words, cwd=toy.tree
    )
    assert ran.code == 0, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document


def test_what_takes_the_time_and_what_pays(slow: Toy, run: Run) -> None:
    before = snapshot(slow.tree)
    found = advised(run, slow)
    assert snapshot(slow.tree) == before
    shares = {stage: share for stage, (share, _, _) in found["shares"]["8"].items()}
    assert 0.6 < shares["long"] < 0.85 and 0.15 < shares["short"] < 0.4 and shares["all"] > 0.8
    assert "never" not in shares
    units = {unit["name"]: unit for unit in found["units"]}
    assert set(units) == {"toy_no_short", "toy_no_long", "toy_longer", "toy_nothing", "toy_other"}
    words = {name: unit["word"] for name, unit in units.items()}
    assert (words["toy_no_short"], words["toy_no_long"], words["toy_longer"]) == (FASTER, FASTER, SLOWER)
    assert words["toy_nothing"] not in (FASTER, SLOWER)
    assert units["toy_no_long"]["low"] > 2 > units["toy_no_short"]["low"] > 1.1
    assert set(found["not_measured"]) == {"toy_never", NAME}
    assert "none of the lines that toy_never changes ran" in found["not_measured"]["toy_never"]
    assert found["not_measured"][NAME] == "there is no such place"
    assert found["advised"] == ["toy_no_long", "toy_no_short"]
    assert (
        found["together"]["8"]["word"] == FASTER and found["together"]["8"]["speedup"][1] > units["toy_no_long"]["low"]
    )
    assert found["kind"] == "advise" and found["seed"] == 1 and found["options"] == {"size": "8"}
    assert len(found["rounds"]) == 5 and set(found["rounds"][0]) == {"original", "original again", *units}


def test_claims(slow: Toy, run: Run) -> None:
    held = {claim["says"]: claim for claim in advised(run, slow)["claims"]}
    assert {says: claim["word"] for says, claim in held.items()} == {
        "the long wait is most of it": "holds",
        "the short wait is most of all": "it is less",
        "the short wait is nothing": "it is more",
        "no long wait: 1.1 times as fast": "it is more",
        "other numbers: ten times as fast": "it is less",
        "of ten numbers": "about other inputs",
        "of nine numbers": "about other inputs",
        "of eight numbers": "holds",
        "of what never runs": "not measured here",
        "of a part of what never runs": "not measured here",
        "the compiler does nothing": "see",
    }
    assert 0.5 < held["the long wait is most of it"]["measured"]["8"][0] < 0.85


def test_what_changes_results_is_advised_where_it_is_allowed(slow: Toy, run: Run) -> None:
    found = advised(run, slow, "--allow", "lossy")
    assert "toy_lossy" in {unit["name"] for unit in found["units"]}
    assert set(found["advised"]) & {"toy_other"}, "faster, and allowed"
    assert "toy_lossy" not in found["advised"], "nothing is gained"


def test_what_is_said(slow: Toy, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("advise", "--quick", "--blocks", 5, "--seed", "1", "--option", "size=8")
    ran = run(*words, cwd=slow.tree)
    assert ran.code == 0, ran.err
    assert "8: " in ran.out and "without it at most" in ran.out
    assert "\n  toy_no_long  (exact)\n    8: faster " in ran.out
    assert "\n  toy_other  (lossy; changes results)\n" in ran.out
    assert "together: toy_no_long toy_no_short\n" in ran.out and " minutes of an hour" in ran.out
    assert "\napply-opt toy_no_long toy_no_short --prove --option size=8\n" in ran.out
    assert "\n  the long wait is most of it\n    holds; 8: " in ran.out
    assert "\n    about other inputs: --option size=10\n" in ran.out
    assert "\n    about other inputs: --option size=9\n" in ran.out
    assert "\n    see apply-opt compile-check\n" in ran.out
    monkeypatch.setenv("APPLY_OPT_LANG", "zh")
    assert "\n  长的等待占大部分\n" in run(*words, cwd=slow.tree).out


def test_nothing_pays(toy: Toy, run: Run) -> None:
    toy.optimization(NAME, OLD, "        (scale) = self.scale\n")
    ran = run("advise", "--quick", "--option", "size=8", cwd=toy.tree)
    assert ran.code == 0 and "nothing is shown to pay for these inputs\n" in ran.out
    assert "what is said about it" not in ran.out


def test_what_fails_is_left_out(slow: Toy, run: Run) -> None:
    """What breaks the program, or has it give other outputs the longer it runs, is no advice."""
    slow.optimization("toy_breaks", "        return sum(values)\n", "        raise OSError('broken')\n")
    worse = "        self.calls = getattr(self, 'calls', 0) + 1\n        return sum(values) + self.calls\n"
    slow.optimization("toy_drifts", "        return sum(values)\n", worse)
    found = advised(run, slow)
    assert "broken" in found["not_measured"]["toy_breaks"]
    assert "with the change the same inputs give other outputs" in found["not_measured"]["toy_drifts"]
    assert found["advised"] == ["toy_no_long", "toy_no_short"]


def test_what_is_applied_is_not_advised_again(slow: Toy, run: Run) -> None:
    assert run("toy_no_long", cwd=slow.tree).code == 0
    found = advised(run, slow)
    assert found["not_measured"]["toy_no_long"].startswith("already: applied at 20")
    assert found["advised"] == ["toy_no_short"]


def test_what_goes_wrong(slow: Toy, run: Run) -> None:
    ran = run("advise", "toy_targt", cwd=slow.tree)
    assert ran.code == 2 and "did you mean toy_target?" in ran.err
    (slow.pack / "target_repos" / TARGET / "claims.toml").write_text('[[claim]]\nsays = "x"\n')
    ran = run("advise", "--quick", cwd=slow.tree)
    assert ran.code == 1 and "claims.toml lacks or misspells" in ran.err
    slow.workload("WRONG = {}\ndef run(subject, inputs):\n    raise OSError('no disk')\n")
    (slow.pack / "target_repos" / TARGET / "claims.toml").unlink()
    ran = run("advise", "--quick", cwd=slow.tree)
    assert ran.code == 4 and "no disk" in ran.out + ran.err


def verdict(word: str, low: float) -> Verdict:
    return Verdict(word, Interval(low, low, low), 1.0, 1.0)


def test_one_word_for_several_cases() -> None:
    fast, slow, same = verdict(FASTER, 2.0), verdict(SLOWER, 0.5), verdict(NO_DIFFERENCE, 1.0)
    assert advise._word({"a": fast, "b": same}) == FASTER
    assert advise._word({"a": fast, "b": slow}) == SLOWER
    assert advise._word({"a": same}) == NO_DIFFERENCE
    assert advise._low({"a": fast, "b": same}) == 1.0


def test_what_does_not_go_together(slow: Toy, run: Run) -> None:
    """The better one of two that exclude each other is advised, and the other one is named with the reason."""
    manifest = slow.pack / "patches" / "toy_no_short" / "optimization.toml"
    manifest.write_text(manifest.read_text() + 'conflicts = ["toy_no_long"]\n')
    found = advised(run, slow)
    assert found["advised"] == ["toy_no_long"]
    assert found["apart"] == {"toy_no_short": "does not go together with toy_no_long"}


def test_what_is_typed_next_names_the_checkout(slow: Toy, run: Run) -> None:
    words = (
        "advise",
        "--quick",
        "--blocks",
        5,
        "--seed",
        "1",
        "--option",
        "size=8",
        "--repo",
        slow.tree,
        "--threads",
        2,
    )
    assert f"--prove --option size=8 --repo {slow.tree} --threads 2\n" in run(*words, cwd=slow.folder).out


def test_of_no_gain_together_nothing_is_typed() -> None:
    """Where both together are slower, or cannot be told, there is no command."""
    gain = {"word": SLOWER, "speedup": (0.9, 0.8, 0.95)}
    document: dict[str, Any] = {"advised": ["a", "b"], "together": {"8": gain}, "apart": {}, "failed": {}, "units": []}
    document |= {"options": {}, "place": []}
    lines = [text for _, text in advise._together_lines(document)]
    assert lines[-1].startswith("together they are not shown to pay") and not any("apply-opt" in line for line in lines)
    failed = {**document, "together": {}, "failed": {"together": "broken"}}
    assert "  broken" in [text for _, text in advise._together_lines(failed)]


def test_a_share_of_more_than_all() -> None:
    document: dict[str, Any] = {"target": "t", "options": {}, "threads": 2, "machine": {"cpu": "c"}, "level": 0.95}
    document |= {"seconds": {"8": 0.1}, "shares": {"8": {"all": (1.01, 0.99, 1.03)}}}
    document |= {"units": [], "not_measured": {}, "advised": [], "together": {}, "claims": []}
    lines = [text for _, text in advise._lines(document)]
    assert lines[0] == "t: where the time goes, as it is (the workload's own inputs; 2 threads; c)"
    assert lines[2].endswith("all of it, as far as can be told")
