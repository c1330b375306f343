"""What others have said of a target's speed, to be held against a measurement: ``claims.toml`` in the target's folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from apply_opt.model.measurement import Interval

HOLDS, MORE, LESS, UNKNOWN = "holds", "it is more", "it is less", "cannot be told"
BOTH = "it depends on the inputs"
OTHER_INPUTS, NOT_MEASURED, SEE = "about other inputs", "not measured here", "see"
WHOLE = ""
"""The stage that is all of a run."""


class Claim(NamedTuple):
    """One ``[[claim]]``: the share of a ``stage`` in another one (``of``), or how many times as fast a ``unit`` makes a run.

    ``said`` is the range of what is claimed, each end included. It is claimed for cases whose names ``case`` (a regular expression)
    matches from their beginning, run with these ``options``; ``ask`` is what to type for that. What neither a stage nor a unit
    tells has ``see``: how to find out.
    """

    says: str
    says_zh: str
    case: str
    options: Mapping[str, str]
    stage: str
    of: str
    unit: str
    said: tuple[float, float]
    see: str
    ask: str

    def is_about(self, case: str, options: Mapping[str, str]) -> bool:
        """Whether the claim is about ``case``, run with ``options``."""
        return bool(re.match(self.case, case)) and all(options.get(key) == value for key, value in self.options.items())


def parse_claims(table: Mapping[str, Any]) -> list[Claim]:
    """The claims of a ``claims.toml``. Raises :class:`ValueError` or :class:`KeyError` for one that cannot be held against anything."""
    return [_parse(claim) for claim in table["claim"]]


def _parse(table: Mapping[str, Any]) -> Claim:
    kinds = [kind for kind in ("stage", "unit", "see") if kind in table]
    if len(kinds) != 1:
        raise ValueError(f"stage, unit or see (one of them, in the claim {table['says']!r})")
    low, high = table["said"] if kinds != ["see"] else (0.0, 0.0)
    if low > high:
        raise ValueError(f"said (from the lower end to the higher, in the claim {table['says']!r})")
    options = {key: str(value) for key, value in table.get("options", {}).items()}
    return Claim(
        says=table["says"],
        says_zh=table.get("says_zh", table["says"]),
        case=table.get("case", ""),
        options=options,
        stage=table.get("stage", ""),
        of=table.get("of", WHOLE),
        unit=table.get("unit", ""),
        said=(float(low), float(high)),
        see=table.get("see", ""),
        ask=table.get("ask", " ".join(f"--option {key}={value}" for key, value in options.items())),
    )


def judge(claim: Claim, measured: Interval) -> str:
    """Whether what is claimed lies within what was measured, below it or above it.

    Where it lies within, it holds only if the truth cannot be twice or half as far from no effect as what is claimed: an interval
    that has room for everything says nothing.
    """
    low, high = claim.said
    if measured.low > high or measured.high < low:
        return MORE if measured.low > high else LESS
    none = 1.0 if claim.unit else 0.0
    is_narrow = (measured.low - none) >= (low - none) / 2 and (measured.high - none) <= (high - none) * 2
    return HOLDS if is_narrow else UNKNOWN
