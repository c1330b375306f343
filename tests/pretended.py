"""Workers that only pretend to run: what ``verify`` and ``bench`` would get from a target, at once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from apply_opt.io import workers

MARKS = ("_ort_intra_op_threads", "_scaled_sum")
"""What a changed file has in it."""
CASES, SEEDS = ("3 s", "1 s"), (0, 1, 2)


def run(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
    """What a worker gives for a job; the changed program is half as fast again, and gives the same."""
    if job == "prepare":
        amounts = {case: [float(case.split()[0]), "s of audio"] for case in CASES}
        return {
            "cases": list(CASES),
            "compared": list(CASES),
            "wrong": ["w"],
            "amounts": amounts,
            "requests": {},
            "has_referee": False,
        }
    result: dict[str, Any] = {"identity": {name: _identity(Path(arm.checkout, name)) for name in arm.files}}
    if job == "observe":
        tokens = [1, 2, 4 if more.get("wrong") else 3]
        values = {f"{case} | seed {seed} | output tokens": tokens for case in CASES for seed in SEEDS}
        return {**result, "values": values, "sizes": dict(zip(CASES, ([48000], [16001])))}
    seconds = 0.1 if is_after(arm) else 0.15
    stages = {case: {"encode": seconds} for case in CASES}
    if job == "time":
        cases = {case: {"times": [seconds] * 3, "median": seconds} for case in CASES}
        return {**result, "cases": cases, "memory": {"process": 1 << 28}, "stages": stages, "load": 1.0, "unsteady": []}
    counts = {"operators": 7, "synchronisations": 1, "by_operator": {"add": 7}, "by_synchronisation": {"cpu": 1}}
    return {**result, "versions": {"python": "3"}, "counts": dict.fromkeys(CASES, counts), "stages": stages}


def is_after(arm: workers.Arm) -> bool:
    """Whether an arm is the changed program."""
    return any(mark in Path(arm.checkout, name).read_text("utf-8") for mark in MARKS for name in arm.files)


def _identity(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    lines = {str(number): 1 for number in range(1, data.count(b"\n") + 1)}
    return {"modules": ["tokenizer"], "sha256": hashlib.sha256(data).hexdigest(), "lines": lines}
