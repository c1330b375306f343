"""The reference tokenizer gives the very same with each of the small units in it, and with all of them, run for real.

Whole utterances, parts of them in sessions, calls from several threads, and inputs that no tokenizer can take.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from cases import FILE, plan
from support import REFERENCE, copy

from apply_opt.model.plan import PLANNED

OVERLAP, MODE, DIRECT, CONV, FALLBACK = SMALL = (
    "tokenizer_overlap",
    "tokenizer_inference_mode",
    "tokenizer_direct_tensor",
    "tokenizer_ort_conv_heuristic",
    "tokenizer_ort_fallback",
)
THREADS, TF32 = "tokenizer_ort_threads", "tokenizer_tf32"
SCRIPT = """
import json, logging, random, sys, threading, warnings
logging.basicConfig(stream=sys.stderr, format="LOG %(message)s")
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import tokenizer as module
from speech import synthetic_speech

tokenizer = module.StepAudioTokenizer(sys.argv[1])
seen, ran = {}, {"modes": [], "inputs": [], "threads": set(), "kept": []}
infer, run = tokenizer.funasr_model.infer_encoder, tokenizer.get_vq06_code

def infer_encoder(input, **more):
    ran["modes"].append(torch.is_inference_mode_enabled())
    ran["inputs"].append(type(input[0]).__name__)
    return infer(input=input, **more)

def get_vq06_code(audio):
    ran["threads"].add(threading.current_thread() is threading.main_thread())
    return run(audio)

tokenizer.funasr_model.infer_encoder, tokenizer.get_vq06_code = infer_encoder, get_vq06_code
random.seed(0)
torch.manual_seed(0)
for seconds in (2, 1.3, 0.4, 0.05):
    for seed in (0, 1):
        audio = synthetic_speech(seconds, seed=seed)
        before = audio.clone()
        seen[f"{seconds} {seed}"] = tokenizer.wav2token(audio, 16000)
        seen[f"{seconds} {seed} as it is"] = tokenizer.wav2token(audio * 2, 24000, False, False)
        assert torch.equal(audio, before)
ran["on main"], ran["threads"] = sorted(ran["threads"]), set()

parts = synthetic_speech(2.1, seed=5).split(7000, dim=1)
for session, gain in (("a", 1), ("b", 0.5)):
    seen[session] = [
        tokenizer.get_vq02_code(part * gain, session, is_final=part is parts[-1]) for part in parts[:2]
    ]
ran["kept"] = sorted(tokenizer.vq02_sessions)
for session, gain in (("b", 0.5), ("a", 1)):
    seen[session] += [tokenizer.get_vq02_code(part * gain, session, is_final=part is parts[-1]) for part in parts[2:]]
seen["text"] = tokenizer(synthetic_speech(1, seed=3), 16000)

bad = {"none": (None, 16000), "no rate": (audio, None), "empty": (audio[:, :0], 16000), "numbers": ([1.0], 16000)}
for name, values in bad.items():
    try:
        seen[name] = tokenizer.wav2token(*values)
    except Exception as error:
        seen[name] = f"{type(error).__name__}: {error}"
for name in ("get_vq02_code", "get_vq06_code"):
    original = getattr(tokenizer, name)
    setattr(tokenizer, name, lambda audio: 1 / 0)
    try:
        tokenizer.wav2token(audio, 16000)
    except ZeroDivisionError as error:
        seen[f"error in {name}"] = str(error)
    setattr(tokenizer, name, original)

found = {}
def work(n):
    found[n] = tokenizer.wav2token(synthetic_speech(1 + n / 4, seed=n), 16000)
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
seen["in threads"] = [found[n] for n in range(4)]
seen["generators"] = [random.random(), torch.rand(1).item()]
seen["attributes"] = sorted(vars(tokenizer))
seen["threads left"] = threading.active_count()
ran["way"] = vars(module._samples_or_wav)["seen"][0] if hasattr(module, "_samples_or_wav") else None
ran["threads"] = sorted(ran["threads"])
print(json.dumps([seen, ran]))
"""


def tokens(tree: Path, encoder_folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """What the tokenizer of ``tree`` gives; how it came to that; and what was logged."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, "-c", SCRIPT, str(encoder_folder)]
    ran = subprocess.run(command, cwd=tree, capture_output=True, check=False, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    seen, how = json.loads(ran.stdout.strip().splitlines()[-1])
    return seen, how, ran.stderr


@pytest.fixture(scope="module")
def original(encoder_folder: Path) -> dict[str, Any]:
    """What the reference gives as it is."""
    seen, how, logged = tokens(REFERENCE, encoder_folder)
    assert len(set(seen["2 0"][1])) > 10
    assert len(set(seen["2 0"][2])) > 10
    assert seen["2 0"] != seen["2 1"]
    assert how["kept"] == ["a", "b"]
    assert sum(map(len, seen["a"])) > 20
    assert seen["none"].startswith("AttributeError")
    assert (set(how["modes"]), set(how["inputs"]), how["on main"]) == ({False}, {"BytesIO"}, [True])
    assert "LOG" not in logged
    return seen


@pytest.mark.parametrize("names", [*((name,) for name in SMALL), (THREADS, *SMALL), (TF32, *SMALL[::-1], THREADS)])
def test_same_tokens(original: Any, encoder_folder: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    tree = copy(REFERENCE, tmp_path / "tree")
    for name in names:
        outcome = plan(name, (tree / FILE).read_bytes())
        assert outcome.kind == PLANNED, outcome.message
        (tree / FILE).write_bytes(outcome.after)
    seen, how, logged = tokens(tree, encoder_folder)
    assert seen == original
    assert set(how["modes"]) == {MODE in names}
    assert how["on main"] == [OVERLAP not in names]
    assert how["way"] == (0 if DIRECT in names else None), "as they are"
    assert set(how["inputs"]) == ({"BytesIO", "Tensor"} if DIRECT in names else {"BytesIO"})
    assert logged.count("LOG the speech tokenizer runs on the CPU, slowly") == (FALLBACK in names and not has_cuda())


def has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_without_rounding_on_a_float_wav(original: Any, encoder_folder: Path, tmp_path: Path) -> None:
    """A file of 32-bit floats has the samples as they are, so that even the lossy value changes nothing here."""
    tree = copy(REFERENCE, tmp_path / "tree")
    (tree / FILE).write_bytes(plan(DIRECT, (tree / FILE).read_bytes(), quantize="none").after)
    seen, how, _ = tokens(tree, encoder_folder)
    assert how["inputs"] == ["Tensor"] * len(how["inputs"])
    assert seen == original


def built(model: Path, providers: Any) -> tuple[Any, list[str], list[str]]:
    """A real session's codes for one input, its providers, and what ONNX Runtime warned about."""
    import numpy as np
    import onnxruntime

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = onnxruntime.InferenceSession(str(model), providers=providers)
    feats = np.random.default_rng(0).standard_normal((1, 128, 97)).astype(np.float32)
    inputs = {i.name: value for i, value in zip(session.get_inputs(), (feats, np.array([97], dtype=np.int32)))}
    return session.run(None, inputs)[0].tolist(), session.get_providers(), [str(w.message) for w in caught]


@pytest.mark.parametrize("name", [CONV, FALLBACK])
def test_the_session_is_the_same_without_cuda(encoder_folder: Path, name: str) -> None:
    """What the units write, given to ONNX Runtime itself: the same session, and the same warnings."""
    pytest.importorskip("onnxruntime")
    if has_cuda():
        pytest.skip("there is a CUDA provider here")
    model = encoder_folder / "speech_tokenizer_v1.onnx"
    code = plan(name, (REFERENCE / FILE).read_bytes()).after.decode()
    (line,) = (line for line in code.splitlines() if line.strip().startswith("providers = "))
    namespace: dict[str, Any] = {}
    exec(line.strip(), namespace)
    assert namespace["providers"] != ["CUDAExecutionProvider"]
    before, after = built(model, ["CUDAExecutionProvider"]), built(model, namespace["providers"])
    assert after == before
    assert before[1] == ["CPUExecutionProvider"]
    assert len(before[2]) == 1, "the CUDA provider that is not there"


def test_the_option_is_one_that_onnxruntime_hands_on() -> None:
    """Provider and option as ONNX Runtime takes them apart, in the way that it hands them to the provider."""
    collection: Any = pytest.importorskip("onnxruntime.capi.onnxruntime_inference_collection")
    code = plan(CONV, (REFERENCE / FILE).read_bytes()).after.decode()
    (line,) = (line for line in code.splitlines() if line.strip().startswith("providers = "))
    namespace: dict[str, Any] = {}
    exec(line.strip(), namespace)
    names, options = collection.check_and_normalize_provider_args(
        namespace["providers"], None, ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    assert (names, options) == (["CUDAExecutionProvider"], [{"cudnn_conv_algo_search": "HEURISTIC"}])
