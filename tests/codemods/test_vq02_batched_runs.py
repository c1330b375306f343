"""The reference tokenizer with ``tokenizer_vq02_batched`` in it, beside the one without: same tokens, other ways to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cases import FILE, plan
from support import REFERENCE, copy

NAME = "tokenizer_vq02_batched"
CHUNK = 3840
"""Samples."""
EDGES = [
    79,
    80,
    81,
    159,
    160,
    399,
    400,
    401,
    479,
    480,
    559,
    560,
    719,
    720,
    879,
    880,
    881,
    1039,
    1040,
    1359,
    1360,
    2319,
    2320,
]
LENGTHS = sorted(
    {1, 240, 800, 3279, 3280, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK, 20 * CHUNK, 125 * CHUNK, *EDGES}
    | {k * CHUNK + edge for k in (1, 2, 7) for edge in EDGES}
    | {round(seconds * 16000) for seconds in (0.5, 1, 1.0371, 2, 3.0371, 7.77, 10, 30, 35)}
)
"""Around the ends of chunks, and where one more frame comes in; an end of 880 samples is the first that is not dropped."""

PRELUDE = """
import collections, json, random, sys
tree, folder, out, jobs = sys.argv[1:]
sys.path.insert(0, tree)
import torch
torch.set_num_threads(1)
from speech import synthetic_speech
from tokenizer import StepAudioTokenizer
import funasr_detach.models.paraformer_streaming.model as streaming
tokenizer = StepAudioTokenizer(folder)
model, settings = tokenizer.funasr_model.model, (tokenizer.chunk_size, tokenizer.encoder_chunk_look_back)
frontend, audio = tokenizer.funasr_model.kwargs["frontend"], synthetic_speech(36, seed=7)
ran = collections.Counter()
def counted(owner, name):
    function = getattr(owner, name)
    def call(*args, **kwargs):
        ran[name] += 1
        return function(*args, **kwargs)
    setattr(owner, name, call)
counted(streaming.ParaformerStreaming, "encode_chunk")
try:
    from tokenizer import _AllChunksAtOnce
    counted(_AllChunksAtOnce, "encode")
except ImportError:
    pass
def encoder_output(samples, **kwargs):
    outputs = []
    dump_label = tokenizer.dump_label
    tokenizer.dump_label = lambda samples, mean: outputs.append(samples) or dump_label(samples, mean)
    tokens = tokenizer.get_vq02_code(samples, **kwargs)
    del tokenizer.dump_label
    return tokens, outputs[0]
found = {}
for name, code in json.load(open(jobs)).items():
    ran.clear()
    random.seed(0)
    exec(code, {**globals(), "done": lambda result: found.update({name: json.dumps(result)})})
print(json.dumps(found))
"""
JOBS: dict[str, str] = {}
"""What is run in both trees, by name. Each job hands its result to ``done``."""
NEW: dict[str, str] = {}
"""What is run in the changed tree alone."""


class Results(NamedTuple):
    """What the jobs gave in the tree as it is and in the changed one, and the encoder's outputs."""

    before: dict[str, Any]
    after: dict[str, Any]
    folder: Path


@pytest.fixture(scope="module")
def results(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All jobs, in one process for each tree."""
    folder = tmp_path_factory.mktemp("batched")
    tree = copy(REFERENCE, folder / "tree")
    (tree / FILE).write_bytes(plan(NAME, (tree / FILE).read_bytes()).after)
    before = run(REFERENCE, encoder_folder, folder / "before.pt", JOBS)
    return Results(before, run(tree, encoder_folder, folder / "after.pt", {**JOBS, **NEW}), folder)


def run(tree: Path, encoder_folder: Path, out: Path, jobs: dict[str, str]) -> Any:
    """What the jobs give, in a process of its own with the tokenizer of ``tree`` loaded."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    file = out.with_suffix(".json")
    file.write_text(json.dumps(jobs))
    command = [sys.executable, "-c", PRELUDE, tree, encoder_folder, out, file]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return {name: json.loads(result) for name, result in json.loads(ran.stdout.splitlines()[-1]).items()}


JOBS["sweep"] = f"""
tokens, encoded = {{}}, {{}}
for length in {LENGTHS}:
    random.seed(length)
    tokens[length], encoded[length] = encoder_output(audio[:, :length].clone())
    tokens[length] = [tokens[length], random.random()]
torch.save(encoded, out)
done([tokens, ran])
"""


def test_same_tokens_at_every_length(results: Results) -> None:
    import torch

    assert len(LENGTHS) >= 90
    (before, ran_before), (after, ran_after) = results.before["sweep"], results.after["sweep"]
    assert after == before, "tokens, or where Python's random numbers are"
    assert sum(len(tokens) for tokens, _ in before.values()) > 2500
    assert [int(length) for length, (tokens, _) in before.items() if not tokens] == [n for n in LENGTHS if n < 880]
    assert set(ran_before) == {"encode_chunk"}
    assert ran_after == {"encode": sum(length >= 880 for length in LENGTHS)}
    outputs = [torch.load(results.folder / name, weights_only=True) for name in ("before.pt", "after.pt")]
    for length in LENGTHS:
        torch.testing.assert_close(outputs[1][length], outputs[0][length])


JOBS["parts"] = """
whole, _ = encoder_output(audio[:, :100003].clone())
found = []
for cuts in ([50000], [3840, 7680], [100, 20000, 20001, 99990], [96000], list(range(1000, 100003, 1000))):
    ran.clear()
    ends, parts = [0, *cuts, 100003], []
    for start, end in zip(ends, ends[1:]):
        parts += tokenizer.get_vq02_code(audio[:, start:end], session_id="a", is_final=end == 100003)
        if start == 0:
            other = tokenizer.get_vq02_code(audio[:, :16000], session_id="b")
    found.append([parts == whole, other, dict(ran), list(tokenizer.vq02_sessions)])
done([whole, found])
"""


def test_an_utterance_in_parts_goes_the_models_own_way(results: Results) -> None:
    whole, found = results.after["parts"]
    assert whole == results.before["parts"][0]
    for is_same, other, ran, sessions in found:
        assert is_same
        assert len(other) == 16
        assert ran == {"encode": 1, "encode_chunk": 26}, "another utterance between the parts is encoded at once"
        assert sessions == []


NEW["lists"] = """
lengths = [100, 16000, 879, 880, 3840, 16000, 1, 48000, 3841, 160000, 19200, 100000, 23, 1234, 0]
utterances = [audio[0, i * 1000 :][:n].clone() for i, n in enumerate(lengths)]
batched = _AllChunksAtOnce(model)
def encoded(list_of_utterances):
    return batched.encode(list_of_utterances, frontend, *settings)
own = [tokenizer.funasr_model.infer_encoder(
    [u], chunk_size=settings[0], encoder_chunk_look_back=settings[1], is_final=True, cache={})[0][0]["enc_out"]
    for u in utterances]
single = [encoded([u])[0] for u in utterances]
found = {}
for windows, samples in ((256, 960000), (1, 3840), (3, 1000), (4, 5000), (5, 77777), (64, 960)):
    batched.WINDOWS_AT_ONCE, batched.SAMPLES_AT_ONCE = windows, samples
    together = encoded(utterances)
    for one, alone, ours in zip(own, single, together):
        torch.testing.assert_close(ours, one)
        torch.testing.assert_close(alone, one)
        assert ours.shape == one.shape and not ours.requires_grad
    found[windows] = [tokenizer.dump_label(x, tokenizer.kms) for x in together]
done([[tokenizer.dump_label(x, tokenizer.kms) for x in own], found, encoded([]), ran["encode_chunk"] > 0])
"""


def test_a_list_of_utterances_is_each_of_them_alone(results: Results) -> None:
    own, found, nothing, is_original = results.after["lists"]
    assert is_original
    assert [len(tokens) for tokens in own] == [0, 16, 0, 1, 4, 16, 0, 50, 4, 167, 20, 104, 0, 1, 0]
    assert len(found) == 6
    assert all(tokens == own for tokens in found.values())
    assert nothing == []


JOBS["dither"] = """
frontend.dither = 1.0
tokens, states = [], []
for length in (879, 880, 3840, 3890, 3921, 4340, 4720, 16000, 19200, 48593, 160000):
    torch.manual_seed(length)
    tokens.append(tokenizer.get_vq02_code(audio[:, :length].clone()))
    states.append(torch.rand(1).item())
frontend.dither = 0.0
done([tokens, states, tokens[-1] == tokenizer.get_vq02_code(audio[:, :160000].clone()), ran])
"""


def test_dither_is_the_same_noise(results: Results) -> None:
    before, after = results.before["dither"], results.after["dither"]
    assert after[:2] == before[:2]
    assert not before[2], "the noise is large enough to change tokens"
    assert after[3]["encode"] == 11


JOBS["refused"] = """
import copy
samples = audio[:, :20000].clone()
kept = {"kwargs": dict(tokenizer.funasr_model.kwargs), "state": copy.deepcopy(model)}
def tokens(change, **options):
    changed = copy.deepcopy(kept["state"])
    tokenizer.chunk_size, tokenizer.encoder_chunk_look_back = [0, 4, 5], 4
    tokenizer.funasr_model.kwargs = {**kept["kwargs"], "frontend": copy.deepcopy(frontend)}
    tokenizer.funasr_model.model = changed
    undo = change(changed, changed.encoder, tokenizer.funasr_model.kwargs["frontend"])
    ran.clear()
    try:
        found = tokenizer.get_vq02_code(samples)
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    finally:
        if type(undo) is type(autocast):
            undo()
    return [found, ran["encode"], ran["encode_chunk"] > 0]
class Other(torch.nn.Linear):
    pass
def replace_linear(model, encoder, frontend):
    linear = encoder.encoders[0].feed_forward.w_1
    linear.__class__ = Other
def autocast(model, encoder, frontend):
    context = torch.autocast("cpu", torch.bfloat16)
    context.__enter__()
    return lambda: context.__exit__(None, None, None)
def set_on(name, value):
    return lambda model, encoder, frontend: setattr(tokenizer, name, value)
def own_forward(model, encoder, frontend):
    encoder.forward_chunk = encoder.forward_chunk
def own_chunk(model, encoder, frontend):
    model.encode_chunk = model.encode_chunk
def wrapped(model, encoder, frontend):
    layer = encoder.encoders[1]
    layer.forward = layer.forward_chunk
def rectify(module):
    del module.activation
    module.activation = torch.nn.functional.silu
def rename(module, name):
    module.__class__ = type(name, (type(module),), {})
CHANGES = {
    "nothing": lambda model, encoder, frontend: None,
    "in training": lambda model, encoder, frontend: model.train(),
    "a hook": lambda model, encoder, frontend: encoder.encoders[1].norm1.register_forward_hook(lambda *args: None) and None,
    "a hook before": lambda model, encoder, frontend: encoder.encoders0[0].self_attn.fsmn_block.register_forward_pre_hook(
        lambda *args: None) and None,
    "another class of layer": replace_linear,
    "another class of encoder": lambda model, encoder, frontend: rename(encoder, "Faster"),
    "another class of frontend": lambda model, encoder, frontend: rename(frontend, "Faster"),
    "another class of model": lambda model, encoder, frontend: rename(model, "Faster"),
    "a replaced forward_chunk": own_forward,
    "a replaced encode_chunk": own_chunk,
    "a wrapped layer": wrapped,
    "quantized": lambda model, encoder, frontend: setattr(
        model, "encoder", torch.ao.quantization.quantize_dynamic(encoder, {torch.nn.Linear})),
    "float64": lambda model, encoder, frontend: model.double(),
    "autocast": autocast,
    "another activation": lambda model, encoder, frontend: rectify(encoder.encoders[0].feed_forward),
    "norm afterwards": lambda model, encoder, frontend: setattr(encoder.encoders[0], "normalize_before", False),
    "normalized features": lambda model, encoder, frontend: setattr(model, "normalize", torch.nn.Identity()),
    "another frame shift": lambda model, encoder, frontend: setattr(frontend, "frame_shift", 12),
    "another stacking": lambda model, encoder, frontend: setattr(frontend, "lfr_n", 5),
    "frames on the left": set_on("chunk_size", [1, 4, 5]),
    "no overlap": set_on("chunk_size", [0, 4, 0]),
    "no look-back": set_on("encoder_chunk_look_back", 0),
    "endless look-back": set_on("encoder_chunk_look_back", -1),
}
done({name: tokens(change) for name, change in CHANGES.items()})
"""


def test_what_it_was_not_written_for_goes_the_models_own_way(results: Results) -> None:
    before, after = results.before["refused"], results.after["refused"]
    assert [name for name, (_, encoded, _) in after.items() if encoded] == ["nothing", "in training"], (
        "infer_encoder ends training by itself, before the model is asked"
    )
    assert {name: tokens for name, (tokens, *_) in after.items()} == {
        name: tokens for name, (tokens, *_) in before.items()
    }
    assert all(is_original for name, (_, encoded, is_original) in after.items() if not encoded)


NEW["can"] = """
batched = _AllChunksAtOnce(model)
frozen = batched.can_encode(frontend, *settings)
model.encoder.encoders[0].train()
training = batched.can_encode(frontend, *settings)
model.eval()
other = [batched.can_encode(frontend, size, back) for size, back in (
    ([0, 8, 4], 1), ((0, 10, 5), 4), ([0, 4, 5], 9), (None, 4), ([], 4), ([0, 4, 5], None), ([0, 0, 5], 4), ([5, 10, 5], 4))]
option = [list(_AllChunksAtOnce.option(thing)) for thing in (tokenizer.funasr_model, model, None, tokenizer)]
done([frozen, training, other, option])
"""


def test_can_encode(results: Results) -> None:
    assert results.after["can"] == [
        True,
        False,
        [True, True, True, False, False, False, False, False],
        [["model"], [], [], []],
    ]


JOBS["sizes"] = """
found = []
for size, back in (([0, 8, 4], 1), ([0, 10, 5], 4), ([0, 4, 5], 9), ([0, 1, 1], 2), ([0, 2, 7], 3)):
    tokenizer.chunk_size, tokenizer.encoder_chunk_look_back = size, back
    found.append([tokenizer.get_vq02_code(audio[:, :n].clone()) for n in (879, 880, 960 * size[1], 12345, 70000)])
done([found, ran])
"""


def test_other_sizes_of_chunks(results: Results) -> None:
    before, after = results.before["sizes"], results.after["sizes"]
    assert after[0] == before[0]
    assert after[1] == {"encode": 20}


JOBS["bad"] = """
import numpy
found = []
for bad in (None, "speech.wav", audio[0, :16000], audio[:, :0], torch.zeros(0, 16000), torch.zeros(2, 16000),
            torch.full((1, 16000), float("nan")), audio[:, :16000].double(), audio[:, :16000].to(torch.int16)):
    try:
        found.append(tokenizer.get_vq02_code(bad))
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
for given in ([], [None], [audio[:, :16000]], [audio[0, :16000].to(torch.int16)], [audio[0, :16000].double()],
              [audio[0, :16000].numpy()], [audio[0, :16000], audio[0, :9000]]):
    try:
        options = {"is_final": True, "chunk_size": [0, 4, 5], "encoder_chunk_look_back": 4, "cache": {}}
        if "_AllChunksAtOnce" in globals():
            options.update(_AllChunksAtOnce.option(tokenizer.funasr_model))
        results, _ = tokenizer.funasr_model.infer_encoder(given, **options)
        found.append([tokenizer.dump_label(result["enc_out"].float(), tokenizer.kms) for result in results])
    except Exception as error:
        found.append(f"{type(error).__name__}: {error}")
done([found, ran])
"""


def test_bad_and_odd_inputs(results: Results) -> None:
    before, after = results.before["bad"], results.after["bad"]
    assert after[0] == before[0]
    assert sum(isinstance(result, str) for result in before[0]) >= 4
    assert after[1]["encode"] >= 5
