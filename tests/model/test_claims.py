"""Claims: what can be read, and what a measurement makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from apply_opt.model.claims import HOLDS, LESS, MORE, judge, parse_claims
from apply_opt.model.measurement import Interval

CLAIM: dict[str, Any] = {"says": "twice as fast", "unit": "unit", "said": [1.8, 2.2], "options": {"batch": 32}}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(1.0, 1.7, LESS), (1.0, 1.8, HOLDS), (1.9, 2.0, HOLDS), (2.2, 9.0, HOLDS), (2.3, 9.0, MORE), (1.0, 9.0, HOLDS)],
)
def test_judge(low: float, high: float, word: str) -> None:
    (claim,) = parse_claims({"claim": [CLAIM]})
    assert judge(claim, Interval((low + high) / 2, low, high)) == word


def test_is_about() -> None:
    (claim,) = parse_claims({"claim": [CLAIM]})
    assert claim.is_about({"batch": "32", "file": "x"})
    assert not claim.is_about({"batch": "8"}) and not claim.is_about({})
    assert claim.says_zh == claim.says


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "wavelets"},
        {"unit": None},
        {"said": [2.0, 1.0]},
        {"said": None},
        {"says": None},
        {"see": "elsewhere"},
    ],
)
def test_what_cannot_be_held_against_anything(change: dict[str, Any]) -> None:
    table = {key: value for key, value in {**CLAIM, **change}.items() if value is not None}
    with pytest.raises((ValueError, KeyError)):
        parse_claims({"claim": [table]})
