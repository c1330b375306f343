"""Numbers as they are printed."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"
TIMES = "\N{MULTIPLICATION SIGN}"
EXACT = 9
"""Digits enough to tell round numbers apart, and not what a sum of them is off by."""


def seconds(value: float, count: int = 4) -> str:
    """A time, in the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1 or unit == "µs" or not value:
            return f"{digits(value * factor, count)} {unit}"
    raise AssertionError


def digits(value: float, count: int = 3) -> str:
    """``value`` with ``count`` digits that count, never as a power of ten."""
    if not value:
        return "0"
    places = max(0, count - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ratio(value: float) -> str:
    """How many times."""
    return f"{value:.{_places(value)}f}{TIMES}"


def ratio_down(value: float) -> str:
    """How many times at least: rounded down, so that no more is said than was shown."""
    factor = 10 ** _places(value)
    return f"{math.floor(value * factor) / factor:.{_places(value)}f}{TIMES}"


def _places(value: float) -> int:
    return 3 if value < 2 else 2 if value < 100 else 0


def change(before: float, after: float) -> str:
    """From ``before`` to ``after``, in per cent of ``before``."""
    if before == after:
        return "0 %"
    if not before:
        return ""
    part = 100 * (after / before - 1)
    text = f"{abs(part):,.0f}" if abs(part) >= 100 else f"{abs(part):.1f}"
    sign = "+" if part > 0 else MINUS
    return f"{sign}{text} %" if float(text.replace(",", "")) else "0 %"


def count(value: int) -> str:
    """A whole number."""
    return f"{value:,}"


def size(value: int) -> str:
    """Bytes, as MiB."""
    return f"{value / 2**20:,.0f} MiB"


def share(part: int, whole: int) -> str:
    """In per cent, rounded down: 100 only where it is all."""
    return f"{math.floor(10000 * part / whole) / 100:.2f} %"


def mark_seconds(value: float) -> str:
    """A round time on an axis, with all its digits."""
    return seconds(value, EXACT)


def mark_ratio(value: float) -> str:
    """A round number of times on an axis, with all its digits."""
    return f"{digits(value, EXACT)}{TIMES}"
