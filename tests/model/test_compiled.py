"""What follows from a look at ``torch.compile``."""

from __future__ import annotations

from typing import Any

import pytest

from apply_opt.model import compiled
from apply_opt.model.compiled import Case

SAME = {"identical": True, "largest": 0.0, "same": 3, "discrete": 3, "other": ""}
FASTER = Case("faster", (2.1, 2.0, 2.2), 0.4, 4)
SLOWER = Case("slower", (0.6, 0.5, 0.7), 0.4, 4)


def found(steady: bool = True, **parity: Any) -> dict[str, Any]:
    case = {"steady": steady, "parity": {**SAME, **parity}}
    return {"failed": None, "graphs": 3, "cases": {"a": case, "b": {"steady": True, "parity": SAME}}}


def judged(what: dict[str, Any], **cases: Case) -> tuple[str, str]:
    even = {name: compiled.calls_to_break_even(case, 30.0) for name, case in cases.items()}
    return compiled.judge(what, cases, even)


def test_calls_to_break_even() -> None:
    """A call takes 0.1 s, and half of that compiled: 0.05 s are saved."""
    assert compiled.calls_to_break_even(FASTER, 30.0) == 600
    assert compiled.calls_to_break_even(FASTER, 0.0) == 0
    assert compiled.calls_to_break_even(SLOWER, 30.0) is None
    assert compiled.calls_to_break_even(FASTER._replace(word="inconclusive"), 30.0) is None


@pytest.mark.parametrize(
    ("what", "cases", "word", "sentence"),
    [
        ({"failed": "no"}, {}, "does not compile", "leave it off: it does not compile (no)"),
        ({**found(), "graphs": 0}, {}, "nothing to compile", "there is nothing in it that is compiled"),
        (found(same=1), {"a": FASTER}, "changes results", "(2 of 6 texts"),
        (found(other="total"), {"a": FASTER}, "changes results", "(total is of another type"),
        (found(), {}, "not timed", "nothing was timed; its results are identical"),
        (found(), {"a": FASTER}, "pays", "it pays after at most 600 calls; its results are identical"),
        (found(largest=2e-6), {"a": FASTER}, "pays", "its numbers differ by up to 2e-06"),
        (found(), {"a": FASTER, "b": FASTER._replace(calls=40)}, "pays", "after at most 600 to 6,000 calls"),
        (found(), {"a": FASTER, "b": SLOWER}, "depends", "it pays in 1 of 2 cases"),
        (found(), {"a": SLOWER}, "leave it off", "it is slower (0.60x), so that it never pays"),
        (found(), {"a": SLOWER._replace(word="inconclusive")}, "leave it off", "it is not shown to be faster (0.60x)"),
        (found(steady=False, same=0), {"a": FASTER}, "pays", "its results cannot be compared everywhere"),
    ],
)
def test_verdicts(what: dict[str, Any], cases: dict[str, Case], word: str, sentence: str) -> None:
    said = judged(what, **cases)
    assert said[0] == word and sentence in said[1]


def test_pays_at_once() -> None:
    assert "after at most 1 call;" in compiled.judge(found(), {"a": FASTER}, {"a": 1}).sentence


def test_parity_that_is_not_known() -> None:
    """Of a case that there was no time for nothing is said; nor of any, where there was none."""
    what = found()
    del what["cases"]["b"]["parity"]
    assert judged(what, a=FASTER)[1].endswith("; its results are identical")
    del what["cases"]["a"]["parity"]
    assert judged(what, a=FASTER)[1].endswith(" calls")
