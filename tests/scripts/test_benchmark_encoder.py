"""``scripts/benchmark_encoder.py``: what it asks apply-opt for, a port beside, and tables of a real run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pretended
import pytest
from support import ENCODER, ROOT, Ran, complaints, contents, copy

from apply_opt.io import workers

SCRIPT = ROOT / "scripts" / "benchmark_encoder.py"
KINDS = [(part, mode) for part in ("subsampling", "encoder") for mode in ("inference", "training")]
Try = Callable[..., Ran]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the reference encoder; torch need not be there."""
    _pretend(monkeypatch, object())
    return copy(ENCODER, tmp_path / "encoder")


def _pretend(monkeypatch: pytest.MonkeyPatch, torch: object) -> None:
    """That torch is installed, or that it is not."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: torch if name == "torch" else find(name, *more)
    )


def test_results_first_then_times_then_a_page(encoder: Path, attempt: Try, jobs: list[Any]) -> None:
    before = contents(encoder)
    ran = attempt("--compare", "--quick", "--size", "tiny", "--frames", "64,32", "--threads", "2", cwd=encoder)
    assert (ran.code, complaints(ran.err)) == (0, "")
    kinds = [job for job, _ in jobs]
    assert kinds.index("observe") < kinds.index("time")
    assert "parity" in ran.out and "at least 1.499x" in ran.out
    setting = jobs[-1][1]
    given = {key: value for key, value in setting.options.items() if key not in ("file", "here", "parts")}
    assert given == {"size": "tiny", "batch": "4", "frames": "64,32", "lengths": "mixed,full"}
    assert setting.threads == 2
    assert (encoder / "report.html").is_file()
    (encoder / "report.html").unlink()
    assert contents(encoder) == before


def test_named_ones(encoder: Path, attempt: Try, jobs: list[Any]) -> None:
    ran = attempt("--compare", "--quick", "--optimizations", "conformer_inplace_scores", cwd=encoder)
    assert ran.code == 0, ran.err
    assert "conformer_relative_shift" not in ran.out
    ran = attempt("--compare", "--optimizations", "conformer_inplace_skores", cwd=encoder)
    assert (ran.code, "did you mean conformer_inplace_scores?" in ran.err) == (2, True)


def test_nothing_is_measured_of_wrong_results(
    encoder: Path, attempt: Try, jobs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
        jobs.append((job, setting))
        found = pretended.run(arm, setting, job, **more)
        if job == "observe" and pretended.is_after(arm):
            found["values"] = {name: [0, 0, 0] for name in found["values"]}
        return found

    monkeypatch.setattr(workers, "run", run)
    ran = attempt("--compare", "--port", SCRIPT, cwd=encoder)
    assert ran.code == 4
    assert "time" not in [job for job, _ in jobs]
    assert not (encoder / "report.html").exists()


def test_a_port_in_the_place_of_the_encoder(encoder: Path, attempt: Try, jobs: list[Any], tmp_path: Path) -> None:
    port = tmp_path / "port.py"
    port.write_text("# a port, with _scaled_sum\nX = 1\n")
    ran = attempt("--compare", "--quick", "--port", port, cwd=encoder)
    assert ran.code == 0, ran.err
    _, beside = ran.out.split(f"{port} in the place of nemo/collections/asr/modules/conformer_encoder.py:\n")
    assert "6 observations, of which 0 differ" in beside
    assert "at least 1.499x" in beside


def test_the_target_is_a_port_itself(attempt: Try, jobs: list[Any], encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    names = ("causal_convs", "subsampling", "multi_head_attention", "conformer_modules")
    parts = [(encoder / f"nemo/collections/asr/parts/submodules/{name}.py").read_text() for name in names]
    parts.append((encoder / "nemo/collections/asr/modules/conformer_encoder.py").read_text())
    (folder / "encoder.py").write_text("\n".join(parts))
    ran = attempt("--compare", "--quick", "--port", SCRIPT, cwd=folder)
    assert (ran.code, "it is a port itself" in ran.err) == (3, True), ran.out + ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "there is nothing to do"),
        (("--compare", "--port", "missing.py"), 2, "--port missing.py is not a file"),
        (("--profile", "--optimizations", "conformer_unknown"), 2, "conformer_unknown"),
    ],
)
def test_wrong_words(words: tuple[str, ...], code: int, said: str, encoder: Path, attempt: Try) -> None:
    ran = attempt(*words, cwd=encoder)
    assert (ran.code, said in ran.err) == (code, True), ran.err


def test_torch_is_missing(encoder: Path, attempt: Try, monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, None)
    ran = attempt("--profile", cwd=encoder)
    assert (ran.code, "pip install torch" in ran.err) == (1, True)


@pytest.mark.parametrize("is_applied", [False, True], ids=["planned", "applied"])
def test_where_the_time_goes(is_applied: bool, tmp_path: Path, run: Callable[..., Ran]) -> None:
    """In a process of its own, since the operators' table goes to its standard output."""
    pytest.importorskip("torch")
    folder = copy(ENCODER, tmp_path / "encoder")
    if is_applied:
        run("conformer_masks", cwd=folder)
    words = ("--profile", "--size", "tiny", "--frames", "32", "--optimizations", "conformer_masks")
    ran = subprocess.run([sys.executable, SCRIPT, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    heads = [f"{part}, {mode}, 4 x 32, mixed, {side}:" for side in ("before", "after") for part, mode in KINDS]
    assert [line for line in ran.stdout.splitlines() if line.endswith((", before:", ", after:"))] == heads
    tables = ran.stdout.split("\nSelf CPU time total")[:-1]
    assert len(tables) == len(heads)
    assert all("aten::mkldnn_convolution" in table for table in tables)
    assert ran.stderr == ""
