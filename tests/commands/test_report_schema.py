"""What ``verify`` and ``bench`` write is what ``report`` reads: their own records, of workers that only pretend to run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_records
import pytest
from support import THREADS, Ran

from apply_opt.io import workers

Run = Callable[..., Ran]


def pretended(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
    """What a worker gives for a job; the changed program is half as fast again."""
    if job == "prepare":
        return {"cases": ["3 s"], "wrong": ["w"], "amounts": {"3 s": [3.0, "s of audio"]}, "has_referee": False}
    is_after = "_ort_intra_op_threads" in Path(arm.checkout, "tokenizer.py").read_text("utf-8")
    result: dict[str, Any] = {"identity": {name: identity(Path(arm.checkout, name)) for name in arm.files}}
    if job == "observe":
        return {**result, "values": {"3 s | seed 0 | output tokens": [1, 2, 4 if more.get("wrong") else 3]}}
    seconds = 0.1 if is_after else 0.15
    if job == "time":
        return {**result, "cases": {"3 s": {"times": [seconds] * 3, "median": seconds}}, "memory": {"process": 1 << 28}}
    counts = {"operators": 7, "synchronisations": 1, "by_operator": {"add": 7}, "by_synchronisation": {"cpu": 1}}
    return {**result, "versions": {"python": "3"}, "counts": {"3 s": counts}, "stages": {"3 s": {"encode": seconds}}}


def identity(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    lines = {str(number): 1 for number in range(1, data.count(b"\n") + 1)}
    return {"modules": ["tokenizer"], "sha256": hashlib.sha256(data).hexdigest(), "lines": lines}


@pytest.fixture
def kept(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The records of both commands, by kind."""
    monkeypatch.setattr(workers, "run", pretended)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = {}
    for kind, words in (("verify", ()), ("bench", ("--quick",))):
        ran = run(kind, THREADS, *words, "--option", "size=tiny", "--json", cwd=checkout)
        assert ran.code == 0, ran
        found[kind] = json.loads(ran.out)
    return found


def test_a_report_of_what_they_write(kept: dict[str, dict[str, Any]], checkout: Path, run: Run) -> None:
    ran = run("report", cwd=checkout)
    assert ran.code == 0, ran
    assert f"{THREADS}: at least 1.499× as fast; same results" in ran.out  # rounded down
    page = (checkout / "report.html").read_text("utf-8")
    for text in (
        "150 ms",
        "100 ms",
        "400",
        "600",
        "s of audio per second",
        "20",
        "30",
        "256 MiB",
        "encode",
        "size=tiny",
    ):
        assert f">{text}<" in page or f"{text}</code>" in page or text == "size=tiny" in page, text
    assert f"apply-opt bench {THREADS} --option size=tiny --quick" in page


def test_made_records_have_the_shape_of_theirs(kept: dict[str, dict[str, Any]]) -> None:
    for kind, made in (("verify", made_records.verify()), ("bench", made_records.bench())):
        assert list(made) == list(kept[kind])
        theirs = kept[kind]
        for name in ("machine", "effort", "agreement"):
            assert name not in made or made[name].keys() == theirs[name].keys(), name
    assert made["samples"][0].keys() == theirs["samples"][0].keys()
    assert made["verdicts"]["3 s"].keys() == theirs["verdicts"]["3 s"].keys()
