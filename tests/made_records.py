"""Small records that nobody measured, in the form that ``verify`` and ``bench`` give."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from apply_opt.commands import bench as measuring
from apply_opt.io import records
from apply_opt.model import measurement, patch
from apply_opt.model.digest import sha256
from apply_opt.model.effort import QUICK, Effort
from apply_opt.model.measurement import AFTER, BEFORE, COMPARED, SAME
from apply_opt.model.parity import Agreement, Difference

CODE = b"one\ntwo\nthree\n", b"one\n2 & <2>\nthree\n"
"""A file before and after."""
DATE = "2026-11-21T09:30:14+00:00"
CASES = {"3 s": 0.045, "0.6 s": 0.011}
"""The inputs, and the seconds that each takes before."""


def header(kind: str, **more: Any) -> dict[str, Any]:
    """What both begin with."""
    return {
        "format": records.FORMAT,
        "kind": kind,
        "apply_opt": "0.1.0",
        "date": DATE,
        "target": "step_audio_editx",
        "head": None,
        "options": {},
        "threads": 1,
        "cpus": 2,
        "machine": {
            "python": "3.11.7",
            "system": "Linux x86_64",
            "cpu": "A processor",
            "cores": {"present": 2, "affinity": 2, "quota": None, "usable": 2},
            "load": 0.25,
        },
        "environment": {},
        "optimizations": {"tokenizer_ort_threads": {"intra_op": "auto"}},
        "sha256": {"tokenizer.py": [sha256(text) for text in CODE]},
        "patch": patch.make(*CODE, "tokenizer.py").decode(),
        "cases": list(CASES),
        **more,
    }


def verify(verdict: str = "parity", differences: Sequence[Difference] = (), **more: Any) -> dict[str, Any]:
    """The record of a comparison."""
    return {
        **header("verify"),
        "class": "exact",
        "seeds": [0, 1, 2],
        "verdict": verdict,
        "why": "",
        "differences": [difference._asdict() for difference in differences],
        "agreement": Agreement(998, 1000, 3e-7)._asdict(),
        "observations": 92,
        "changed_lines_ran": 34,
        "wrong_variants_caught": ["another codebook row"],
        **more,
    }


def bench(
    factor: float = 1.5, effort: Effort = QUICK, noise: float = 0.01, timings: int = 5, **more: Any
) -> dict[str, Any]:
    """The record of a measurement in which the change makes everything ``factor`` times as fast."""
    samples = _samples(factor, effort, noise, timings)
    counts = {
        case: {"operators": 1763, "synchronisations": 8, "by_operator": {}, "kept_for_backward": 0} for case in CASES
    }
    stages = {case: {"encode": 0.8 * seconds, "decode": 0.1 * seconds} for case, seconds in CASES.items()}
    faster = {case: {name: value / factor for name, value in found.items()} for case, found in stages.items()}
    return {
        **header("bench"),
        "seed": 1,
        "effort": effort._asdict(),
        "level": 0.95,
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "amounts": {case: [float(case.split()[0]), "s of audio"] for case in CASES},
        "requests": {},
        "counts": {BEFORE: counts, AFTER: {case: {**found, "operators": 1200} for case, found in counts.items()}},
        "stages": {BEFORE: stages, AFTER: faster},
        "verdicts": {case: measuring._judged(samples, case, measurement.LEVEL)._asdict() for case in CASES},
        "samples": samples,
        **more,
    }


def _samples(factor: float, effort: Effort, noise: float, timings: int) -> list[dict[str, Any]]:
    generator = random.Random(0)
    orders = [(COMPARED, order) for order in measurement.schedule(effort.blocks, 0)]
    orders += [(SAME, order) for order in measurement.schedule(effort.same, 1)]
    found = []
    for number, (kind, order) in enumerate(measurement.shuffled(orders, 0)):
        for side in order:
            faster = factor if (kind, side) == (COMPARED, AFTER) else 1.0
            cases = {case: _timed(generator, seconds / faster, noise, timings) for case, seconds in CASES.items()}
            found.append({"block": number, "kind": kind, "side": side, "changed_lines_ran": 1, "cases": cases})
            found[-1]["memory"] = {"process": 300 << 20}
            found[-1]["stages"] = {case: {} for case in CASES}
            found[-1] |= {"load": 0.5, "unsteady": []}
    return found


def _timed(generator: random.Random, seconds: float, noise: float, timings: int) -> dict[str, Any]:
    drift = generator.lognormvariate(0, noise)
    times = [seconds * drift * generator.lognormvariate(0, 2 * noise) for _ in range(timings)]
    return {"times": times, "median": sorted(times)[timings // 2]}
