"""The same for scripts: figures as numbers."""

from __future__ import annotations

import statistics
from typing import Any

from apply_opt.model.measurement import AFTER, BEFORE
from apply_opt.page.facts import Found, Group, Report
from apply_opt.page.record import Bench, Verify


def document(report: Report, groups: list[Group]) -> dict[str, Any]:
    """One object: for each set its conclusion, and what the records behind it say."""
    return {
        "sets": [_set(pair.header().optimizations, pair.found(), group) for pair, group in zip(report.pairs, groups)],
        "applied": None if report.applied is None else [item._asdict() for item in report.applied],
        "left_out": list(report.left_out),
    }


def _set(optimizations: dict[str, Any], found: list[Found], group: Group) -> dict[str, Any]:
    by_kind = {"verify" if isinstance(each.record, Verify) else "bench": each for each in found}
    return {
        "optimizations": optimizations,
        "conclusion": group.headline,
        "notes": [text for _, text in group.notes],
        "commands": list(group.commands),
        "verify": _part(by_kind.get("verify")),
        "bench": _part(by_kind.get("bench")),
    }


def _part(found: Found | None) -> dict[str, Any] | None:
    if found is None:
        return None
    code = {"state": found.code.state, "changed": list(found.code.files)}
    begin = {"record": found.path, "date": found.record.date.isoformat(), "code": code}
    if isinstance(found.record, Bench):
        return {**begin, "cases": {case: _case(found.record, case) for case in found.record.cases}}
    record = found.record
    figures = {"verdict": record.verdict, "class": record.safety, "observations": record.observations}
    return {**begin, **figures, "differences": len(record.differences)}


def _case(record: Bench, case: str) -> dict[str, Any]:
    verdict = record.verdicts[case]
    sides: dict[str, dict[str, Any]] = {}
    for side in (BEFORE, AFTER):
        median, counts = statistics.median(record.of_side(case, side)), record.counts[side][case]
        sides[side] = {"median_seconds": median, "requests_per_minute": 60 * record.requests.get(case, 1) / median}
        if case in record.amounts:
            amount, unit = record.amounts[case]
            sides[side]["amount_per_second"] = {"value": amount / median, "unit": unit}
        sides[side] |= {"operators": counts.operators, "synchronisations": counts.synchronisations}
        sides[side] |= {"kept_for_backward_bytes": counts.kept_for_backward}
        sides[side]["stages"] = record.stages.get(side, {}).get(case, {})
    estimate, low, high = verdict.speedup
    interval = {"estimate": estimate, "low": low, "high": high, "level": record.level}
    return {"verdict": verdict.word, "speedup": interval, "noise": verdict.noise, "smallest": verdict.smallest, **sides}
