"""``advise``: shares, what pays, what is claimed, on a small program that mostly waits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support import Ran, snapshot
from toy import NAME, OLD, TARGET, Toy

from apply_opt.commands import advice, advise
from apply_opt.model.claims import BOTH, HOLDS, LESS, MORE, NOT_MEASURED, OTHER_INPUTS, UNKNOWN, parse_claims
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
SOONER = """import time as clock


class time:
    @staticmethod
    def sleep(seconds):
        return seconds > 0.01 or clock.sleep(seconds)
"""
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


UNITS = {
    "toy_no_short": (SHORT, "        time.sleep(0.0)\n", "exact"),
    "toy_no_long": (LONG, "        time.sleep(0.0 + 0.0)\n", "exact"),
    "toy_longer": (LONG, "        time.sleep(0.024)\n", "exact"),
    "toy_nothing": ("        return sum(values)\n", "        return sum(list(values))\n", "exact"),
    "toy_never": (NEVER, "        return 1 + 0\n", "exact"),
    "toy_lossy": ("        return sum(values)\n", "        return sum(values) + 1\n", "lossy"),
    "toy_other": ("        self.long()\n", "        pass\n", "lossy"),
}
PAYING = ("toy_no_short", "toy_no_long")


def waiting(toy: Toy, *names: str) -> Toy:
    """Waits in two places, and these optimizations of it."""
    toy.source(SLOW)
    toy.workload(STAGES)
    for name in names:
        toy.optimization(name, *UNITS[name])
    return toy


@pytest.fixture
def slow(toy: Toy) -> Toy:
    """With all of them, and claims about some."""
    (toy.pack / "target_repos" / TARGET / "claims.toml").write_text(CLAIMS)
    return waiting(toy, *UNITS)


def advised(run: Run, toy: Toy, *words: object) -> dict[str, Any]:
    ran = run(
        "advise", TARGET, "--quick", "--blocks", 5, "--json", "--seed", "1", "--option", "size=8", *words, cwd=toy.tree
    )
    assert ran.code == 0, ran.err
    document: dict[str, Any] = json.loads(ran.out)
    return document


FOUND: list[dict[str, Any]] = []


@pytest.fixture
def found(slow: Toy, run: Run) -> dict[str, Any]:
    """What is advised for it, beside two that break it, or have it give other outputs the longer it runs: measured once."""
    if not FOUND:
        slow.optimization("toy_breaks", "        return sum(values)\n", "        raise OSError('broken')\n")
        worse = "        self.calls = getattr(self, 'calls', 0) + 1\n        return sum(values) + self.calls\n"
        slow.optimization("toy_drifts", "        return sum(values)\n", worse)
        before = snapshot(slow.tree)
        FOUND.append(advised(run, slow))
        assert snapshot(slow.tree) == before
    return FOUND[0]


def test_what_takes_the_time_and_what_pays(found: dict[str, Any]) -> None:
    shares = {stage: share for stage, (share, _, _) in found["shares"]["8"].items()}
    assert 0.6 < shares["long"] < 0.85 and 0.15 < shares["short"] < 0.4 and shares["all"] > 0.8
    assert "never" not in shares
    units = {unit["name"]: unit for unit in found["units"]}
    assert set(units) == {"toy_no_short", "toy_no_long", "toy_longer", "toy_nothing", "toy_other"}
    words = {name: unit["word"] for name, unit in units.items()}
    assert (words["toy_no_short"], words["toy_no_long"], words["toy_longer"]) == (FASTER, FASTER, SLOWER)
    assert words["toy_nothing"] not in (FASTER, SLOWER)
    assert units["toy_no_long"]["low"] > 2 > units["toy_no_short"]["low"] > 1.1
    assert set(found["not_measured"]) == {"toy_never", "toy_breaks", "toy_drifts", NAME}
    assert "none of the lines that toy_never changes ran" in found["not_measured"]["toy_never"]
    assert found["not_measured"][NAME] == "there is no such place"
    assert found["advised"] == ["toy_no_long", "toy_no_short"]
    assert (
        found["together"]["8"]["word"] == FASTER and found["together"]["8"]["speedup"][1] > units["toy_no_long"]["low"]
    )
    assert found["kind"] == "advise" and found["seed"] == 1 and found["options"] == {"size": "8"}
    rounds = found["rounds"]
    assert len(rounds) == 5 and set(rounds[0]["seconds"]) == {*advise.ORIGINAL, "toy_drifts", *units}
    assert 0.6 < rounds[0]["shares"][0]["8"]["long"] < 0.85
    assert found["left"] == [] and found["adds"]["toy_no_short"]["8"]["word"] == FASTER


def test_claims(found: dict[str, Any]) -> None:
    held = {claim["says"]: claim for claim in found["claims"]}
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


def test_what_changes_results_is_advised_where_it_is_allowed(toy: Toy, run: Run) -> None:
    found = advised(run, waiting(toy, "toy_lossy", "toy_other"), "--allow", "lossy")
    assert "toy_lossy" in {unit["name"] for unit in found["units"]}
    assert set(found["advised"]) & {"toy_other"}, "faster, and allowed"
    assert "toy_lossy" not in found["advised"], "nothing is gained"


def test_what_is_said(found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    out = "".join(f"{text}\n" for _, text in advice.lines(found))
    assert "8: " in out and "without it at most" in out
    assert "\n  toy_no_long  (exact)\n    8: faster " in out
    assert "\n  toy_other  (lossy; changes results)\n" in out
    assert "together: toy_no_long toy_no_short\n" in out and " minutes of an hour" in out
    assert "\n  toy_no_short: adds: 8: faster " in out
    assert "\napply-opt toy_no_long toy_no_short --prove --option size=8\n" in out
    assert "\n  the long wait is most of it\n    holds; 8: " in out
    assert "\n    about other inputs: --option size=10\n" in out
    assert "\n    about other inputs: --option size=9\n" in out
    assert "\n    see apply-opt compile-check\n" in out
    monkeypatch.setenv("APPLY_OPT_LANG", "zh")
    assert "  长的等待占大部分" in [text for _, text in advice.lines(found)]


def test_nothing_pays(toy: Toy, run: Run) -> None:
    toy.optimization(NAME, OLD, "        (scale) = self.scale\n")
    ran = run("advise", "--quick", "--option", "size=8", cwd=toy.tree)
    assert ran.code == 0 and "nothing is shown to pay for these inputs" in ran.out and "worth doing" not in ran.out
    assert "what is said about it" not in ran.out


def test_what_fails_is_left_out(found: dict[str, Any]) -> None:
    """What breaks the program, or has it give other outputs the longer it runs, is no advice."""
    assert "broken" in found["not_measured"]["toy_breaks"]
    assert "with the change the same inputs give other outputs" in found["not_measured"]["toy_drifts"]
    assert found["advised"] == ["toy_no_long", "toy_no_short"]


def test_what_is_applied_is_not_advised_again(toy: Toy, run: Run) -> None:
    slow = waiting(toy, *PAYING)
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


def test_what_does_not_go_together(toy: Toy, run: Run) -> None:
    """The better one of two that exclude each other is advised, and the other one is named with the reason."""
    slow = waiting(toy, "toy_no_long")
    slow.source(SLOW.replace("0.004", "0.010"))
    slow.optimization("toy_no_short", "        time.sleep(0.010)\n", "        time.sleep(0.0)\n")
    manifest = slow.pack / "patches" / "toy_no_short" / "optimization.toml"
    manifest.write_text(manifest.read_text() + 'conflicts = ["toy_no_long"]\n')
    found = advised(run, slow)
    (name,), (other,) = found["advised"], found["apart"]
    assert {name, other} == {*PAYING} and found["apart"][other] == f"does not go together with {name}"


def test_what_is_typed_next_names_the_checkout(toy: Toy, run: Run) -> None:
    waiting(toy)
    toy.optimization(NAME, LONG, "        time.sleep(0.0 + 0.0)\n")
    words = ("advise", "--quick", "--seed", "1", "--option", "size=8", "--threads", 2)
    ran = run(*words, "--repo", toy.tree, cwd=toy.folder)
    assert f"\napply-opt {NAME} --prove --option size=8 --repo {toy.tree} --threads 2\n" in ran.out
    assert "what is said about it" not in ran.out


def test_what_another_one_has_done_is_left(toy: Toy, run: Run) -> None:
    """Two take out the same wait, each of which pays alone: one of them does."""
    slow = waiting(toy, *PAYING)
    slow.optimization("toy_sooner", "import time\n", SOONER)
    found = advised(run, slow)
    units = {unit["name"]: unit["low"] for unit in found["units"]}
    assert min(units["toy_sooner"], units["toy_no_long"]) > 1
    (left,) = found["left"]
    assert left in ("toy_sooner", "toy_no_long") and found["adds"][left]["8"]["word"] != FASTER
    assert set(found["advised"]) == {"toy_sooner", "toy_no_long", "toy_no_short"} - {left}
    assert found["adds"]["toy_no_short"]["8"]["word"] == FASTER
    assert found["together"]["8"]["speedup"][1] > max(units.values())


def test_what_fails_beside_others_is_left(toy: Toy, run: Run) -> None:
    """What runs alone, and not on top of the one before it, is not advised, and it is told why."""
    slow = waiting(toy)
    slow.source(SLOW.replace("0.004", "0.008"))
    slow.optimization("toy_no_long", LONG, "        self.done = True\n")
    slow.optimization("toy_no_short", "        time.sleep(0.008)\n", "        assert not vars(self), 'touched'\n")
    found = advised(run, slow)
    assert found["advised"] == ["toy_no_long"] and "touched" in found["failed"]["toy_no_short"]
    assert found["together"]["8"]["word"] == FASTER


def test_of_no_gain_together_nothing_is_typed() -> None:
    """Where both together are slower, or cannot be told, there is no command."""
    gain = {"word": SLOWER, "speedup": (0.9, 0.8, 0.95)}
    document: dict[str, Any] = {"advised": ["a", "b"], "together": {"8": gain}, "adds": {}, "left": [], "apart": {}}
    document |= {"failed": {}, "units": [], "options": {}, "place": [], "own_options": {}}
    lines = [text for _, text in advice._together_lines(document)]
    assert lines[-1].startswith("together they are not shown to pay") and not any("apply-opt" in line for line in lines)
    failed = {**document, "together": {}, "failed": {"together": "broken"}}
    assert "  broken" in [text for _, text in advice._together_lines(failed)]


def test_what_is_needed_by_another_one(toy: Toy, run: Run) -> None:
    """It is there with that, and nothing is said of it alone; and what a proof runs besides is told, where that is something else."""
    slow = waiting(toy, *PAYING)
    manifest = slow.pack / "patches" / "toy_no_long" / "optimization.toml"
    manifest.write_text(manifest.read_text() + 'requires = ["toy_no_short"]\n[workload]\nsize = "6"\n')
    words = ("advise", "--quick", "--blocks", 5, "--seed", "1", "--cores", 1, "--timeout", 60)
    ran = run(*words, cwd=slow.tree)
    assert "together: toy_no_short toy_no_long\n" in ran.out and "left out" not in ran.out and " adds: " not in ran.out
    assert "the same (with inputs of its own: size=6), and applies it:\n" in ran.out
    assert "\napply-opt toy_no_short toy_no_long --prove --cores 1 --timeout 60\n" in ran.out


def test_a_share_of_more_than_all() -> None:
    document: dict[str, Any] = {"target": "t", "options": {}, "threads": 2, "machine": {"cpu": "c"}, "level": 0.95}
    document |= {"seconds": {"8": 0.1}, "shares": {"8": {"all": (1.01, 0.99, 1.03)}}}
    document |= {"units": [], "not_measured": {}, "advised": [], "together": {}, "claims": [], "adds": {}, "left": []}
    document |= {"apart": {}, "failed": {}}
    lines = [text for _, text in advice.lines(document)]
    assert lines[0] == "t: where the time goes, as it is (the workload's own inputs; 2 threads; c)"
    assert lines[2].endswith("all of it, as far as can be told")


def rounds_of(*gains: dict[str, float]) -> list[advise.Round]:
    """Rounds in which ``toy`` makes each case so many times as fast, and ``stage`` takes half of the first and all of the others."""
    found = []
    for number, gain in enumerate(gains):
        seconds = {name: dict.fromkeys(gain, 1 + number / 1000) for name in advise.ORIGINAL}
        seconds["toy"] = {case: (1 + number / 1000) / faster for case, faster in gain.items()}
        shares = {case: {"stage": 0.5 if case == "8" else 0.99} for case in gain}
        found.append(advise.Round(seconds, [shares, shares], {name: [] for name in seconds}))
    return found


def test_a_claim_about_several_cases() -> None:
    rounds = rounds_of(*[{"8": 2.0 + d, "9": 4.0 + d} for d in (0.0, 0.01, 0.02, 0.01)])
    verdicts = advise._verdicts(rounds, ["toy"])
    told = {"says": "x", "unit": "toy"}

    def word(**claim: object) -> str:
        (parsed,) = parse_claims({"claim": [claim]})
        held: str = advise._held(parsed, {}, rounds, verdicts)["word"]
        return held

    assert word(**told, said=[1.9, 4.2]) == HOLDS
    assert word(**told, said=[1.9, 2.2]) == BOTH, "it holds in one, and is more in the other"
    assert word(**told, said=[1.9, 2.2], case="8") == HOLDS
    assert word(**told, said=[5, 6]) == LESS and word(**told, said=[1, 1.5]) == MORE
    assert word(says="x", stage="stage", said=[0.4, 0.6]) == BOTH
    assert word(says="x", stage="stage", said=[0.4, 0.6], case="8") == HOLDS
    assert word(says="x", unit="other", said=[1, 2]) == NOT_MEASURED
    assert word(says="x", stage="nowhere", said=[1, 2], options={"size": 3}) == NOT_MEASURED, "whatever the inputs"
    of_others = parse_claims({"claim": [{"says": "x", "unit": "other", "said": [1, 2], "options": {"size": 3}}]})[0]
    assert advise._held(of_others, {}, rounds, verdicts)["word"] == OTHER_INPUTS
    assert advise._held(of_others, {}, rounds, verdicts, ["other"])["word"] == NOT_MEASURED
    noisy = rounds_of(*[{"8": gain} for gain in (0.2, 9.0, 0.3, 7.0)])
    claim = parse_claims({"claim": [{**told, "said": [1.0, 1.2]}]})[0]
    assert advise._held(claim, {}, noisy, advise._verdicts(noisy, ["toy"]))["word"] == UNKNOWN


def test_what_is_too_little() -> None:
    document: dict[str, Any] = {"target": "t", "options": {}, "threads": 1, "machine": {"cpu": "c"}, "level": 0.95}
    document |= {"seconds": {"8": 0.1}, "shares": {"8": {"small": (0.01, 0.0, 0.04), "large": (0.1, 0.04, 0.2)}}}
    document |= {"units": [], "not_measured": {}, "advised": [], "adds": {}, "left": [], "together": {}, "apart": {}}
    lines = [text for _, text in advice.lines({**document, "failed": {}, "claims": []})]
    assert lines[2].endswith("without it at most 1.25x") and lines[3].endswith("at most 1.04x: not worth your time")
    assert lines[-1] == "nothing is shown to pay for these inputs: leave it as it is"
