"""What follows from a look at ``torch.compile``: after how many calls it has paid for itself, and whether to turn it on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from apply_opt.model.measurement import FASTER, SLOWER

PAYS, LEAVE, DEPENDS, CHANGES = "pays", "leave it off", "depends", "changes results"
FAILS, NOTHING, UNTIMED = "does not compile", "nothing to compile", "not timed"


class Judged(NamedTuple):
    """One word, and a sentence."""

    word: str
    sentence: str


class Case(NamedTuple):
    """A case: whether its calls are faster and how much (``bench``'s word and interval), seconds and number of its calls."""

    word: str
    speedup: Sequence[float]
    seconds: float
    calls: int


def calls_to_break_even(case: Case, compiling: float) -> int | None:
    """Calls like this case's until ``compiling`` seconds are saved; ``None`` where nothing is shown to be saved.

    Quoted, as the gain is, is the lower end of the interval: it takes this many at most.
    """
    if case.word != FASTER:
        return None
    saved = case.seconds / case.calls * (1 - 1 / case.speedup[1])
    return math.ceil(compiling / saved)


def judge(found: Mapping[str, Any], cases: Mapping[str, Case], break_even: Mapping[str, int | None]) -> Judged:
    """What to do. ``found`` is what the worker tells; without ``cases`` nothing was timed."""
    if found["failed"]:
        return Judged(FAILS, f"leave it off: it does not compile ({found['failed']})")
    parity = [case["parity"] for case in found["cases"].values() if case["steady"] and "parity" in case]
    wrong = sum(one["discrete"] - one["same"] for one in parity)
    if wrong:
        total = sum(one["discrete"] for one in parity)
        return Judged(
            CHANGES, f"leave it off: it changes results ({wrong} of {total} texts, whole numbers and the like differ)"
        )
    other = next((one["other"] for one in parity if one["other"]), "")
    if other:
        return Judged(CHANGES, f"leave it off: it changes results ({other} is of another type, dtype or shape)")
    if not found["graphs"]:
        return Judged(NOTHING, "leave it off: there is nothing in it that is compiled")
    beside = _beside(parity, found)
    if not cases:
        return Judged(UNTIMED, f"whether it pays is not known: nothing was timed{beside}")
    faster = [name for name in cases if break_even[name] is not None]
    if len(faster) == len(cases):
        return Judged(PAYS, f"it pays {_after([n for n in break_even.values() if n is not None])}{beside}")
    if faster:
        return Judged(DEPENDS, f"it depends on the input: it pays in {len(faster)} of {len(cases)} cases{beside}")
    ratios = ", ".join(f"{case.speedup[0]:.2f}x" for case in cases.values())
    gain = "is slower" if all(case.word == SLOWER for case in cases.values()) else "is not shown to be faster"
    return Judged(LEAVE, f"leave it off: it {gain} ({ratios}), so that it never pays{beside}")


def _after(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    most = f"{high:,}" if low == high else f"{low:,} to {high:,}"
    return f"after at most {most} call{'s' * (high != 1)}"


def _beside(parity: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    """What of the results is to be known besides."""
    unsteady = any(not case["steady"] for case in found["cases"].values())
    if unsteady or not parity:
        return "; its results cannot be compared everywhere, since the program does not agree with itself" * unsteady
    largest = max(one["largest"] for one in parity)
    return f"; its numbers differ by up to {largest:.2g}" if largest else "; its results are identical"
