"""A logarithmic axis: equal factors are equal lengths, as in the statistics; and round numbers to mark on it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PAD = 0.04
MOST_TICKS = 7


class Axis(NamedTuple):
    """From ``low`` to ``high``."""

    low: float
    high: float

    def share(self, value: float) -> float:
        """Where ``value`` is, from 0 (at ``low``) to 1."""
        part = math.log(value / self.low) / math.log(self.high / self.low)
        return min(1.0, max(0.0, part))

    def ticks(self) -> list[float]:
        """A few round numbers within."""
        steps = _even(self) if self.high / self.low < 5 else _decades(self)
        return steps[:: math.ceil(len(steps) / MOST_TICKS)]


def around(values: Iterable[float]) -> Axis:
    """An axis that holds ``values``, with some room at both ends."""
    found = list(values)
    low, high = min(found), max(found)
    room = max((high / low) ** PAD, 1.005)
    return Axis(low / room, high * room)


def _even(axis: Axis) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (axis.high - axis.low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first, last = math.ceil(axis.low / step), math.floor(axis.high / step)
    return [number * step for number in range(first, last + 1)]


def _decades(axis: Axis) -> list[float]:
    """1, 2 and 5 times a power of ten; only powers of ten, where there are many."""
    span = math.log10(axis.high / axis.low)
    digits: Sequence[int] = (1, 2, 5) if span < 2.5 else (1,)
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    values = [digit * 10.0**power for power in powers for digit in digits]
    return [value for value in values if axis.low <= value <= axis.high]
