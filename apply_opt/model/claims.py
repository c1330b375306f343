"""What others have said of a target's speed, to be held against a measurement: ``claims.toml`` in the target's folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from apply_opt.model.measurement import Interval

HOLDS, MORE, LESS = "holds", "it is more", "it is less"
BOTH = "it depends on the inputs"
OTHER_INPUTS, NOT_MEASURED, SEE = "about other inputs", "not measured here", "see"
WHOLE = ""
"""The stage that is all of a run."""


class Claim(NamedTuple):
    """One ``[[claim]]``: the share of a ``stage`` in another one (``of``), or how many times as fast a ``unit`` makes a run.

    ``said`` is the range of what is claimed, each end included; ``options`` are those of the workload that it is claimed for.
    What neither a stage nor a unit tells has ``see``: how to find out, and what was found.
    """

    says: str
    says_zh: str
    options: Mapping[str, str]
    stage: str
    of: str
    unit: str
    said: tuple[float, float]
    see: str

    def is_about(self, options: Mapping[str, str]) -> bool:
        """Whether the claim is about runs with ``options``."""
        return all(options.get(key) == value for key, value in self.options.items())


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
    return Claim(
        says=table["says"],
        says_zh=table.get("says_zh", table["says"]),
        options={key: str(value) for key, value in table.get("options", {}).items()},
        stage=table.get("stage", ""),
        of=table.get("of", WHOLE),
        unit=table.get("unit", ""),
        said=(float(low), float(high)),
        see=table.get("see", ""),
    )


def judge(claim: Claim, measured: Interval) -> str:
    """Whether what is claimed lies within what was measured, below it or above it."""
    low, high = claim.said
    return MORE if measured.low > high else LESS if measured.high < low else HOLDS
