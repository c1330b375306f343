"""What ``verify`` and ``bench`` write is what ``report`` reads: their own records, of workers that only pretend to run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_records
import pretended
import pytest
from support import THREADS, Ran

from apply_opt.io import workers

Run = Callable[..., Ran]


@pytest.fixture
def kept(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The records of both commands, by kind."""
    monkeypatch.setattr(workers, "run", pretended.run)
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
