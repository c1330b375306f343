"""Claims: what can be read, and what a measurement makes of them."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from apply_opt.io import catalog, targets
from apply_opt.model.claims import HOLDS, LESS, MORE, UNKNOWN, judge, parse_claims
from apply_opt.model.measurement import Interval

CLAIM: dict[str, Any] = {"says": "twice as fast", "unit": "unit", "said": [1.8, 2.2], "options": {"batch": 32}}


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (1.0, 1.7, LESS),
        (1.41, 1.8, HOLDS),
        (1.3, 1.8, UNKNOWN),
        (1.9, 2.0, HOLDS),
        (2.2, 3.4, HOLDS),
        (2.2, 3.5, UNKNOWN),
        (2.3, 9.0, MORE),
        (1.0, 9.0, UNKNOWN),
        (0.6, 1.9, UNKNOWN),
    ],
)
def test_judge(low: float, high: float, word: str) -> None:
    (claim,) = parse_claims({"claim": [CLAIM]})
    assert judge(claim, Interval((low + high) / 2, low, high)) == word


def test_a_share_is_judged_against_none_at_all() -> None:
    (claim,) = parse_claims({"claim": [{"says": "a fifth", "stage": "part", "said": [0.2, 0.2]}]})
    assert judge(claim, Interval(0.2, 0.1, 0.3)) == HOLDS
    assert judge(claim, Interval(0.2, 0.05, 0.3)) == UNKNOWN


def test_is_about() -> None:
    (claim,) = parse_claims({"claim": [CLAIM]})
    assert claim.is_about("any", {"batch": "32", "file": "x"})
    assert not claim.is_about("any", {"batch": "8"}) and not claim.is_about("any", {})
    assert claim.says_zh == claim.says and claim.ask == "--option batch=32"
    (claim,) = parse_claims({"claim": [{**CLAIM, "case": "forecast, 32 x", "ask": "--option a=b"}]})
    assert claim.is_about("forecast, 32 x 7", {"batch": "32"})
    assert not claim.is_about("forecast, 8 x 7", {"batch": "32"})
    assert not claim.is_about("a forecast, 32 x 7", {"batch": "32"}) and claim.ask == "--option a=b"


def folders() -> list[Path]:
    return sorted(path.parent for path in (ROOT / "target_repos").glob("*/claims.toml"))


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_the_claims_of_a_target(folder: Path) -> None:
    """Each is about units, options and stages that there are."""
    units, found = catalog.load(), targets.load_claims(str(folder))
    workload = (folder / "workload.py").read_text("utf-8")
    options = {
        key
        for node in ast.parse(workload).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OPTIONS"
        for key in ast.literal_eval(node.value)
    }
    assert found and len({claim.says for claim in found}) == len({claim.says_zh for claim in found}) == len(found)
    for claim in found:
        assert not claim.unit or units.unit(claim.unit).target == folder.name
        assert all(stage.split()[-1] in workload for stage in (claim.stage, claim.of) if stage), claim.says
        assert set(claim.options) <= options, claim.says
        assert claim.says_zh != claim.says and any(letter >= "\u4e00" for letter in claim.says_zh)


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
