"""Where things are in the two plots: the ratio with its interval, and the raw samples.

Across, places are given in per cent, so that a plot is as wide as there is room while its letters keep their size. The raw
samples are drawn in a square of ``SQUARE`` units that is stretched, thousands of them as a single path.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from apply_opt.model import measurement
from apply_opt.model.measurement import AFTER, BEFORE, COMPARED
from apply_opt.page import axis
from apply_opt.page.axis import Axis
from apply_opt.page.record import Bench, Sample, Timings

SQUARE = 1000
MOST_DOTS = 60
"""Of one process; of more timings, these many are drawn, evenly by rank, the fastest and the slowest among them."""
COLUMN = 0.7
"""The part of its column that a process fills."""
Format = Callable[[float], str]


class Tick(NamedTuple):
    """A mark on an axis: its place in per cent, and what it says."""

    at: float
    text: str


class RatioRow(NamedTuple):
    """One case: in per cent, the interval, the blocks, and what the same code gives against itself."""

    low: float
    estimate: float
    high: float
    noise: tuple[float, float]
    blocks: Sequence[float]


class Ratios(NamedTuple):
    """The ratios of all cases on one axis; ``one`` is where nothing changes."""

    rows: Mapping[str, RatioRow]
    ticks: Sequence[Tick]
    one: float


class Column(NamedTuple):
    """One block: where it begins and how wide it is, in per cent; whether it is the same code against itself."""

    at: float
    width: float
    is_same: bool


class Raw(NamedTuple):
    """One case: a path of dots and one of medians for each side."""

    dots: Mapping[str, str]
    medians: Mapping[str, str]
    columns: Sequence[Column]
    ticks: Sequence[Tick]
    is_thinned: bool


def ratios(record: Bench, spelled: Format) -> Ratios:
    """The plot of the ratios."""
    blocks = {case: block_ratios(record, case) for case in record.cases}
    values = [value for found in blocks.values() for value in found]
    for verdict in record.verdicts.values():
        values += [*verdict.speedup, verdict.noise, 1 / verdict.noise]
    scale = axis.around([*values, 1.0])

    def at(value: float) -> float:
        return round(100 * scale.share(value), 2)

    rows = {
        case: RatioRow(
            at(record.verdicts[case].speedup[1]),
            at(record.verdicts[case].speedup[0]),
            at(record.verdicts[case].speedup[2]),
            _sorted(at(1 / record.verdicts[case].noise), at(record.verdicts[case].noise)),
            [at(value) for value in found],
        )
        for case, found in blocks.items()
    }
    return Ratios(rows, [Tick(at(value), spelled(value)) for value in scale.ticks()], at(1.0))


def _sorted(one: float, other: float) -> tuple[float, float]:
    return min(one, other), max(one, other)


def block_ratios(record: Bench, case: str) -> list[float]:
    """How many times as fast ``after`` was in each block that has both sides."""
    return [math.exp(block.log_ratio()) for block in measurement.blocks_of(record.of_case(case), COMPARED)]


def raw(record: Bench, case: str, spelled: Format) -> Raw:
    """The plot of a case's raw samples, processes in the order in which they ran."""
    scale = axis.around(t for sample in record.samples for t in (*sample.cases[case].times, sample.cases[case].median))
    width = SQUARE / len(record.samples)
    dots: dict[str, list[str]] = {BEFORE: [], AFTER: []}
    medians: dict[str, list[str]] = {BEFORE: [], AFTER: []}
    for number, sample in enumerate(record.samples):
        timings, left, side = sample.cases[case], (number + (1 - COLUMN) / 2) * width, _code(sample)
        dots[side] += _dots(timings, left, width * COLUMN, scale)
        medians[side].append(f"M{left:.0f} {_down(scale, timings.median)}h{width * COLUMN:.0f}")
    return Raw(
        {side: "".join(found) for side, found in dots.items()},
        {side: "".join(found) for side, found in medians.items()},
        _columns(record.samples),
        [Tick(round(100 - 100 * scale.share(value), 2), spelled(value)) for value in scale.ticks()],
        any(len(sample.cases[case].times) > MOST_DOTS for sample in record.samples),
    )


def _code(sample: Sample) -> str:
    """Which code ran: in a block of the same code against itself, the one from before."""
    return sample.side if sample.kind == COMPARED else BEFORE


def _dots(timings: Timings, left: float, width: float, scale: Axis) -> Iterable[str]:
    """Each timing, from left to right as it was taken."""
    count = len(timings.times)
    for index in _chosen(timings.times):
        yield f"M{left + (index + 0.5) * width / count:.0f} {_down(scale, timings.times[index])}h1"


def _chosen(times: Sequence[float]) -> list[int]:
    order = sorted(range(len(times)), key=times.__getitem__)
    if len(order) <= MOST_DOTS:
        return list(range(len(order)))
    return sorted(order[round(i * (len(order) - 1) / (MOST_DOTS - 1))] for i in range(MOST_DOTS))


def _down(scale: Axis, value: float) -> int:
    return round(SQUARE * (1 - scale.share(value)))


def _columns(samples: Sequence[Sample]) -> list[Column]:
    """The blocks, which are processes one after the other."""
    found: list[Column] = []
    last = None
    width = 100 / len(samples)
    for number, sample in enumerate(samples):
        if sample.block != last:
            found.append(Column(round(number * width, 2), 0.0, sample.kind != COMPARED))
            last = sample.block
        found[-1] = found[-1]._replace(width=round((number + 1) * width - found[-1].at, 2))
    return found
