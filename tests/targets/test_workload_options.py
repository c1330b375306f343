"""What the user may say to the tokenizer's workload: a recording, a model, sizes; and what it says of what cannot be meant."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pretended
import pytest
from support import REFERENCE, THREADS, Ran

from apply_opt.io import workers

torch = pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")
Run = Callable[..., Ran]


def loaded(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def workload() -> Iterator[ModuleType]:
    before = set(sys.modules)
    yield loaded(REFERENCE.parent / "workload.py", "_workload_under_test")
    for name in set(sys.modules) - before:
        if name.startswith("_apply_opt_"):
            del sys.modules[name]


@pytest.fixture(params=[16, 32])
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Half a second of two channels at 22,050 Hz."""
    wav_io = loaded(REFERENCE / "wav_io.py", "_wav_io_under_test")
    left = 0.5 * numpy.sin(numpy.arange(11025) / 30, dtype=numpy.float32)
    path = tmp_path / "my talk.wav"
    with path.open("wb") as file:
        wav_io.write_wav(file, numpy.stack([left, 0 * left]), 22050, bits=request.param)
    return path


@pytest.mark.parametrize("has_soundfile", [False, True])
def test_a_recording(has_soundfile: bool, workload: Any, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_soundfile:
        pytest.importorskip("soundfile")
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    options = {"audio": recording.name, "here": str(recording.parent)}
    assert workload.cases(options) == ["0.5 s of my talk.wav", "0.185 s of my talk.wav"]
    assert workload.amount("0.5 s of my talk.wav") == (0.5, "s of audio")
    found = workload._recorded(options)
    assert found["sample_rate"] == 22050 and found["audio"].dtype == torch.float32
    assert found["audio"].shape == (1, 11025)  # mixed
    assert abs(float(found["audio"].max()) - 0.25) < 1e-3


def test_the_inputs_are_the_recording_and_the_programs_to_change(workload: Any, recording: Path) -> None:
    synthetic = workload.inputs("1 s", 0)
    workload.RECORDING.update(workload._recorded({"audio": str(recording), "here": ""}))
    one, other = workload.inputs("0.5 s of my talk.wav", 0), workload.inputs("0.5 s of my talk.wav", 0)
    assert torch.equal(one["audio"], other["audio"]) and one["sample_rate"] == 22050
    assert one["audio"].shape != synthetic["audio"].shape
    one["audio"].zero_()
    assert not torch.equal(one["audio"], other["audio"])
    third = workload.inputs("0.5 s of my talk.wav", 1)["audio"]
    assert not torch.equal(third, other["audio"]), "a result that is remembered must not look like one that is computed"
    assert torch.equal(third.sort().values, other["audio"].sort().values)
    part = workload.inputs("0.185 s of my talk.wav", 0)["audio"]
    assert torch.equal(part, other["audio"][:, : part.shape[1]]) and part.shape == (1, 4079)


def test_several_utterances(workload: Any) -> None:
    cases = workload.cases({"seconds": "1,2.5", "clients": "1,4", "batch": "3"})
    assert cases == [f"{s} s ({how})" for s in ("1", "2.5") for how in ("1 at once", "4 at once", "3 in a batch")]
    assert [workload.requests(case) for case in cases[:3]] == [1, 4, 3] and workload.requests(
        "1 s of talk (1).wav"
    ) == 1
    assert workload.amount(cases[4]) == (10.0, "s of audio")
    found = workload.inputs(cases[1], 0)
    assert len(found["audio"]) == 4 and len({audio.shape for audio in found["audio"]}) == 4 and found["at_once"]
    assert not workload.inputs(cases[2], 0)["at_once"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clients": "4,x"}, "clients are numbers from 1, not 4,x"),
        ({"batch": "0"}, "batch are numbers from 1, not 0"),
        ({"batch": "2", "audio": "nowhere.wav"}, "audio does not go together with clients or batch"),
        ({"audio": "nowhere.wav"}, "audio: nowhere.wav cannot be read: "),
        ({"audio": __file__}, f"audio: {__file__} cannot be read as a recording: "),
        ({"audio": os.path.dirname(__file__)}, "cannot be read"),
        ({"seconds": "3,x"}, "seconds are numbers from 0.2 to 3600 with commas between, not 3,x"),
        ({"seconds": ""}, "seconds are numbers"),
    ],
)
def test_what_cannot_be_a_case(options: dict[str, str], said: str, workload: Any) -> None:
    with pytest.raises(ValueError) as caught:
        workload.cases({"here": "", **options})
    assert said in str(caught.value)


def test_a_recording_of_nothing(workload: Any, tmp_path: Path) -> None:
    wav_io = loaded(REFERENCE / "wav_io.py", "_wav_io_under_test")
    with (tmp_path / "x.wav").open("wb") as file:
        wav_io.write_wav(file, numpy.zeros((1, 0), numpy.float32), 16000)
    with pytest.raises(ValueError, match="has no sound in it"):
        workload.cases({"audio": str(tmp_path / "x.wav"), "here": ""})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "nowhere"}, "model=nowhere: there is no such folder"),
        ({"size": "huge"}, "size is one of tiny, small, full, not huge"),
    ],
)
def test_what_cannot_be_prepared(options: dict[str, str], said: str, workload: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        workload.prepare(str(tmp_path), {"file": "tokenizer.py", "here": "", **options})
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_option_is_wrong_usage(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ran = run("verify", THREADS, "--option", "size=huge", cwd=checkout)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(
        "apply-opt: the workload refuses its options: size is one of tiny, small, full, not huge\n"
    )


def test_another_recording_of_the_same_name_is_looked_at_anew(
    checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared = []

    def runs(arm: workers.Arm, setting: workers.Setting, job: str, **more: Any) -> dict[str, Any]:
        prepared.extend([job] if job == "prepare" else [])
        return pretended.run(arm, setting, job, **more)

    monkeypatch.setattr(workers, "run", runs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    audio = tmp_path / "talk.wav"
    for data in (b"one", b"one", b"another"):
        if not audio.exists() or audio.read_bytes() != data:
            audio.write_bytes(data)
        assert run("verify", THREADS, "--option", f"audio={audio}", cwd=checkout).code == 0
    assert len(prepared) == 2


# Blocks


def test_the_number_of_blocks(checkout: Path, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import json

    monkeypatch.setattr(workers, "run", pretended.run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for words, blocks, samples in (
        (("--quick",), 3, 20),
        (("--quick", "--blocks", "5"), 5, 28),
        (("--blocks", "2"), 2, 20),
    ):
        record = json.loads(run("bench", THREADS, *words, "--json", cwd=checkout).out)
        assert (record["effort"]["blocks"], len(record["samples"])) == (blocks, samples)
    for bad in ("1", "0", "-3", "x", "2.5"):
        ran = run("bench", THREADS, "--blocks", bad, cwd=checkout)
        assert ran.code == 2 and "--blocks" in ran.err
