"""``scripts/quick_optimize.py``: what it asks apply-opt for, what it says of the answer, and what to type where it cannot go on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pretended
import pytest
from support import LIGHT, REFERENCE, ROOT, THREADS, Ran, complaints, contents, copy

from apply_opt.io import machine, workers
from apply_opt.io.workers import WorkerFailed

SCRIPT = ROOT / "scripts" / "quick_optimize.py"
Try = Callable[..., Ran]


def test_what_is_measured_is_told_and_what_to_type(checkout: Path, attempt: Try, jobs: list[Any]) -> None:
    before = contents(checkout)
    ran = attempt("--benchmark-runs", 4, cwd=checkout)
    assert (ran.code, complaints(ran.err)) == (0, "")
    assert f"{THREADS}  would be applied\n" in ran.out
    assert "tokenizer_tf32  left out: changes results (class lossy)" in ran.out
    assert "a small model with random weights is built; its times are not those of your model" in ran.out
    assert "Conclusion: at least 1.499× as fast; same results" in ran.out
    assert "3 s: faster, at least 1.499×  (1.500×, 95" in ran.out
    assert "requests per minute: 400 → 600\n" in ran.out and "encode: 150 ms → 100 ms\n" in ran.out
    assert ran.out.endswith("Next:\n  apply-opt tokenizer_quick\n  apply-opt report\n")
    assert [job for job, _ in jobs].count("time") == 4 * (4 + 2)  # blocks, and two of the same code
    assert contents(checkout) == before


def test_in_chinese(checkout: Path, attempt: Try, jobs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [attempt("--lang", "zh", cwd=checkout)]
    monkeypatch.setenv("APPLY_OPT_LANG", "zh")
    asked.append(attempt(cwd=checkout))
    for ran in asked:
        assert ran.code == 0
        for text in ("结论：速度至少为原来的 1.499×；结果相同", "每分钟请求数: 400 → 600", "下一步：\n", "将应用"):
            assert text in ran.out
    assert "Conclusion" in attempt("--lang", "en", cwd=checkout).out


def test_model_and_recording_go_to_the_workload(attempt: Try, jobs: list[Any], checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    (tmp_path / "talk.wav").touch()
    words = ("--repo", "checkout", "--encoder-path", "my model", "--test-audio", "talk.wav")
    ran = attempt(*words, cwd=tmp_path)
    assert ran.code == 0, ran
    for _, setting in jobs:
        assert setting.options["model"] == str(tmp_path / "my model")
        assert setting.options["audio"] == str(tmp_path / "talk.wav")
        assert setting.threads == machine.cores()["usable"]
    assert "random weights" not in ran.out and "synthetic" not in ran.out
    assert "  apply-opt tokenizer_quick --repo checkout\n  apply-opt report --repo checkout\n" in ran.out


# The light model


def test_a_light_model_that_does_not_fit_is_left_out_and_the_rest_is_tried(
    attempt: Try, jobs: list[Any], checkout: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    ran = attempt("--test-lightweight", "--encoder-path", "../model", cwd=checkout)
    assert ran.code == 3
    assert f"{LIGHT}  left out: the model's folder is missing: ../model/damo/speech_paraformer-base" in ran.out
    assert "      download it there" in ran.out
    assert "Conclusion: at least 1.499× as fast; results may change: here 100.00 %" in ran.out
    assert "The light model was not tried" in ran.out
    assert "  apply-opt tokenizer_quick --allow lossy --preflight ../model\n" in ran.out


def test_a_light_model_that_fits_is_tried(attempt: Try, jobs: list[Any], checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "owner" / "light").mkdir(parents=True)
    configuration = "model: ParaformerStreaming\nencoder: SANMEncoderChunkOpt\nencoder_conf: {output_size: 64}\n"
    (folder / "owner" / "light" / "config.yaml").write_text(configuration)
    (folder / "owner" / "light" / "model.pt").touch()
    (folder / "speech_tokenizer_v1.onnx").touch()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (8, 64), }"
    (folder / "linguistic_tokenizer.npy").write_bytes(b"\x93NUMPY\x01\x00" + bytes([len(header), 0]) + header)
    ran = attempt("--test-lightweight", "--encoder-path", folder, "--set", "model_id=owner/light", cwd=checkout)
    assert ran.code == 0, ran
    assert f"{LIGHT}  would be applied\n      ParaformerStreaming with SANMEncoderChunkOpt, 64 wide" in ran.out
    assert f"  tokenizer_tf32, {THREADS}, {LIGHT}\n" in ran.out
    assert f"apply-opt tokenizer_quick --set model_id=owner/light --allow lossy --preflight {folder}\n" in ran.out


# What was found is what is said


def slower(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
    found = pretended.run(arm, setting, job, **more)
    for timed in found["cases"].values() if job == "time" else ():
        timed["median"] = 0.015 / timed["median"]
    return found


def same(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
    found = pretended.run(arm, setting, job, **more)
    for timed in found["cases"].values() if job == "time" else ():
        timed["median"] = 0.1
    return found


def different(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
    found = pretended.run(arm, setting, job, **more)
    if job == "observe" and "_ort_intra_op_threads" in Path(arm.checkout, "tokenizer.py").read_text("utf-8"):
        found["values"] = {name: [7, 7, 7] for name in found["values"]}
    return found


@pytest.mark.parametrize(
    ("worker", "code", "said", "next_steps"),
    [
        (slower, 0, "slower in 2 of 2 inputs; same results", ["apply-opt report"]),
        (
            same,
            0,
            "no difference in speed; same results",
            ["python scripts/quick_optimize.py --benchmark-runs 6", "apply-opt report"],
        ),
        (different, 4, "results are not what its class promises; speed was not measured", ["apply-opt report"]),
    ],
)
def test_no_gain_is_said_where_none_was_shown(
    worker: Any,
    code: int,
    said: str,
    next_steps: list[str],
    checkout: Path,
    attempt: Try,
    jobs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "run", worker)
    ran = attempt(cwd=checkout)
    assert ran.code == code
    assert f"Conclusion: {said}\n" in ran.out
    assert "at least" not in ran.out
    assert ran.out.split("Next:\n")[1].splitlines() == [f"  {step}" for step in next_steps]


def test_a_run_that_fails(checkout: Path, attempt: Try, jobs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
        if job == "prepare":
            return pretended.run(arm, setting, job)
        raise WorkerFailed("crashed", "ModuleNotFoundError: No module named 'funasr'", ["line 1", "line 2"])

    monkeypatch.setattr(workers, "run", fails)
    ran = attempt(cwd=checkout)
    assert ran.code == 4
    assert complaints(ran.err).startswith(
        "quick_optimize: ModuleNotFoundError: No module named 'funasr'\n  line 1\n  line 2\n"
    )
    assert "pip install -r requirements.txt" in ran.err and "Conclusion" not in ran.out


# What is wrong is told at once


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--test-lightweight",), 2, "--test-lightweight needs --encoder-path"),
        (
            ("--encoder-path", "nowhere"),
            2,
            "--encoder-path nowhere is not a folder\n  python scripts/quick_optimize.py",
        ),
        (("--encoder-path", "nowhere", "--lang", "zh"), 2, "--encoder-path nowhere 不是目录"),
        (("--test-audio", "nowhere.wav"), 2, "--test-audio nowhere.wav is not a file\n  python scripts"),
        (("--benchmark-runs", "1"), 2, "--benchmark-runs 1: there is no interval of fewer than 2"),
        (("--set", "model_id"), 2, "a setting is key=value"),
        (("--set", "size=1"), 2, "no parameter called size"),
    ],
)
def test_wrong_words(
    words: tuple[str, ...], code: int, said: str, attempt: Try, jobs: list[Any], checkout: Path
) -> None:
    ran = attempt(*words, cwd=checkout)
    assert ran.code == code
    assert said in ran.err and len(ran.err.splitlines()) > 1
    assert jobs == []


def test_no_checkout(attempt: Try, tmp_path: Path) -> None:
    ran = attempt(cwd=tmp_path)
    assert ran.code == 3
    assert "is not a checkout of" in ran.err and "--repo DIR" in ran.err


@pytest.mark.parametrize(("library", "extra"), [("jinja2", "proof"), ("onnxruntime", "bench")])
def test_a_library_that_is_not_installed(
    library: str, extra: str, attempt: Try, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == library else find(name, *more))
    ran = attempt(cwd=checkout)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [f"quick_optimize: not installed: {library}", f"  pip install '{ROOT}[{extra}]'"]


def test_every_text_is_there_in_both_languages(module: ModuleType) -> None:
    import re

    for key, (english, chinese) in module.TEXTS.items():
        assert sorted(re.findall(r"{\w+}", english)) == sorted(re.findall(r"{\w+}", chinese)), key
        assert re.search("[\u4e00-\u9fff]", chinese) and not re.search("[\u4e00-\u9fff]", english), key


# As a process


def test_it_runs_from_a_clone_whatever_is_installed(tmp_path: Path) -> None:
    (tmp_path / "another" / "apply_opt").mkdir(parents=True)
    (tmp_path / "another" / "apply_opt" / "__init__.py").write_text("raise SystemExit('not this one')")
    kept = {**os.environ, "PYTHONPATH": str(tmp_path / "another")}
    command = [sys.executable, str(SCRIPT), "--lang", "zh"]
    ran = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, check=False)
    assert ran.returncode == 3, ran
    assert "is not a checkout of" in ran.stderr.decode("utf-8")
    ran = subprocess.run([*command[:2], "--help"], cwd=tmp_path, env=kept, capture_output=True, check=False)
    assert ran.returncode == 0
    for option in ("--test-lightweight", "--encoder-path", "--test-audio", "--benchmark-runs", "--repo", "--lang"):
        assert option in ran.stdout.decode("utf-8")


def test_a_file_that_is_no_recording(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    copy(REFERENCE, tmp_path / "checkout")
    command = [
        sys.executable,
        str(SCRIPT),
        "--repo",
        "checkout",
        "--test-audio",
        "checkout/mel.py",
        "--encoder-path",
        ".",
    ]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ran.returncode == 2, ran
    assert "cannot be read as a recording" in ran.stderr.decode("utf-8")
    assert "Traceback" not in ran.stderr.decode("utf-8")
