"""The tokenizer's workload: synthetic speech in, tokens out, through ``StepAudioTokenizer.wav2token``.

Runs the checkout's own files: the reference tree, upstream, or a fork. Nothing is downloaded: the model has random weights
(from a fixed seed), its codebooks are fitted to features of the same kind of speech, so that neighbouring tokens are near
each other, as they are in a trained one.

Its options are described in ``OPTIONS``.
"""

import concurrent.futures
import functools
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import types
from pathlib import Path

REFERENCE = Path(__file__).resolve().parent / "reference"
SAMPLE_RATE = 16000
MODEL_ID = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
SEVERAL = {"clients": "at once", "batch": "in a batch"}
LIGHT_MODEL_ID = "damo/speech_paraformer-base_asr_nat-zh-cn-16k-common-vocab8404"
FIT_SECONDS = 200  # enough for more frames than codes
LIBRARIES = ("numpy", "torch", "onnxruntime")
OPTIONS = {
    "size": "of the model: tiny (the default), small, full",
    "seconds": "the lengths of the utterances, with commas between",
    "model": "an encoder folder of your own, in place of the one that is built",
    "audio": "a recording of your own (a WAV file), in place of synthetic utterances",
    "clients": "so many threads (1,4,16: each in turn) tokenize an utterance each at the same time, of 0.5 to 1.5 times the length",
    "batch": "so many such utterances go to wav2token_batch, or where that is not there, to wav2token one by one",
}
RECORDING = {}  # the user's, if there is one: inputs(...) of it
SHARE = 0.37  # of a recording: another shape, of an odd size, to compare too


def prepare(folder, options):
    """Build an encoder folder: by the reference tree's own script, or for upstream's model classes."""
    size = options.get("size", "tiny")
    sizes = _alone("sizes").ENCODERS
    if size not in sizes:
        raise ValueError(f"size is one of {', '.join(sizes)}, not {size}")
    if options.get("model"):
        if not os.path.isdir(_own_model(options)):
            raise ValueError(f"model={options['model']}: there is no such folder")
        return
    model = os.path.join(folder, "model")
    if _is_reference():
        subprocess.run([sys.executable, REFERENCE / "make_model.py", model, "--size", size], check=True)
    else:
        _make_upstream_model(model, size)


def cases(options):
    """The lengths, of which 1.03706 s are an odd number of samples; or the recording, and the first part of it."""
    if options.get("audio"):
        if not SEVERAL.keys().isdisjoint(options):
            raise ValueError("a recording is one utterance: audio does not go together with clients or batch")
        length = _seconds_of(_recorded(options))
        return [f"{seconds:.4g} s of {os.path.basename(options['audio'])}" for seconds in (length, SHARE * length)]
    several = _several(options)
    text = options.get("seconds", "3,10,1.03706,0.6")
    try:
        lengths = [float(word) for word in text.split(",")]
    except ValueError:
        lengths = []
    if not lengths or not all(0.2 <= length <= 3600 for length in lengths):
        raise ValueError(f"seconds are numbers from 0.2 to 3600 with commas between, not {text}")
    return list(dict.fromkeys(f"{length:g} s{how}" for length in lengths for how in several))


def more_cases(options):
    """Where the user names lengths: an odd number of samples, and less than a second."""
    return [] if options.get("audio") else [f"{length} s{_several(options)[0]}" for length in (1.03706, 0.6)]


def _several(options):
    """What is said of each length: how many utterances at once, or in a batch."""
    several = [name for name in SEVERAL if name in options]
    counts = [(word, SEVERAL[name]) for name in several for word in options[name].split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) for word, _ in counts):
        raise ValueError(f"{' and '.join(several)} are numbers from 1, not {' and '.join(options[n] for n in several)}")
    return [f" ({int(word)} {how})" for word, how in counts] or [""]


def _own_model(options):
    return os.path.join(options["here"], options["model"])


def load(folder, options):
    """The tokenizer of the checkout that is first on ``sys.path``, with its last encoder output kept."""
    _make_up_for_what_is_missing()
    RECORDING.update(_recorded(options) if options.get("audio") else {})
    module = importlib.import_module(_module_name(options["file"]))
    own = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    (tokenizer,) = [value for value in own if hasattr(value, "wav2token")]
    subject = tokenizer(_own_model(options) if options.get("model") else os.path.join(folder, "model"))
    dump_label = subject.dump_label
    subject.encoded = []

    def kept(samples, mean):
        is_list = isinstance(samples, list)
        codes = dump_label([s.to(mean.dtype) for s in samples] if is_list else samples.to(mean.dtype), mean)
        subject.encoded.append((codes[0] if is_list else codes, samples))
        return codes

    subject.dump_label = kept
    return subject


def inputs(case, seed):
    """Audio, float32 (1, samples) in [-1, 1]: one, or a list."""
    if RECORDING:
        is_part = float(case.split()[0]) < 2 * SHARE * _seconds_of(RECORDING)
        count = int(RECORDING["audio"].shape[1] * SHARE) | 1 if is_part else None
        step = SAMPLE_RATE // 7 * seed  # another start for each seed: no two inputs are the same
        return {**RECORDING, "audio": RECORDING["audio"].roll(-step, dims=1)[:, :count].clone()}
    speech, seconds, count = _alone("speech").synthetic_speech, float(case.split()[0]), _count(case)
    if not count:
        return {"audio": speech(seconds, seed=seed), "sample_rate": SAMPLE_RATE}
    lengths = [seconds * (0.5 + (i + 0.5) / count) for i in range(count)]
    random.Random(seed).shuffle(lengths)
    audio = [speech(length, seed=100 * seed + i) for i, length in enumerate(lengths)]
    return {"audio": audio, "sample_rate": SAMPLE_RATE, "at_once": SEVERAL["clients"] in case}


def _count(case):
    """How many utterances, where that is said."""
    found = re.search(r" s \((\d+) (at once|in a batch)\)$", case)
    return int(found[1]) if found else 0


def on_device(inputs):
    """What a GPU would have of the inputs: nothing. A recording comes from a file; the encoder alone is on the GPU."""
    return []


def run(subject, inputs):
    """The tokens of both kinds, all of them interleaved, and what the vq02 tokens were made of; lists for a list."""
    subject.encoded.clear()
    audio, rate = inputs["audio"], inputs["sample_rate"]
    if not isinstance(audio, list):
        return _outputs(subject, subject.wav2token(audio, rate))
    if inputs["at_once"]:
        results = list(_clients(len(audio)).map(lambda own: subject.wav2token(own, rate), audio))
    elif hasattr(subject, "wav2token_batch"):
        results = subject.wav2token_batch([(own, rate) for own in audio])
    else:
        results = [subject.wav2token(own, rate) for own in audio]
    outputs = [_outputs(subject, result) for result in results]
    return {name: [own[name] for own in outputs] for name in outputs[0]}


@functools.cache
def _clients(count):
    """Threads that are there from now on."""
    return concurrent.futures.ThreadPoolExecutor(count)


def _outputs(subject, result):
    """``result`` by name; with it what the encoder gave for it, or gave last, where a fork copies the codes."""
    speech_tokens, vq02, vq06 = result
    last = subject.encoded[-1][1] if subject.encoded else []
    encoder = next((samples for codes, samples in subject.encoded if codes is vq02), last)
    return {"speech_tokens": speech_tokens, "vq02": vq02, "vq06": vq06, "encoder": encoder}


def stages(subject):
    """The two tokenizers; of the first, the nearest codebook row."""
    names = ("preprocess_wav", "get_vq02_code", "get_vq06_code")
    return {name: (subject, name) for name in names if hasattr(subject, name)}


def entry(subject):
    """The tokenizer."""
    return subject, "wav2token"


def amount(case):
    """The length of all utterances: with the time, the real-time factor."""
    return float(case.split()[0]) * requests(case), "s of audio"


def requests(case):
    """How many utterances a run tokenizes: with the time, the requests per minute."""
    return _count(case) or 1


def double(subject):
    """The encoder in float64, behind the same features and in front of the same codebook."""
    import torch

    encoder = subject.funasr_model.model.encoder.double()
    forward_chunk = encoder.forward_chunk

    def in_float64(feats, *args, **kwargs):
        return forward_chunk(feats.to(torch.float64), *args, **kwargs)

    encoder.forward_chunk = in_float64


def bad_inputs():
    """What no tokenizer can take."""
    import torch

    return {
        "not a tensor": {"audio": None, "sample_rate": SAMPLE_RATE},
        "no rate": {"audio": torch.zeros(1, SAMPLE_RATE), "sample_rate": None},
    }


def _one_chunk_less(subject):
    """Looks back over one chunk less."""
    subject.encoder_chunk_look_back -= 1


def _other_codebook_row(subject):
    """Each row of the codebook in the place of its neighbour: which ones are in use depends on the model."""
    subject.kms = subject.kms.roll(1, 0)


def _frames_later(subject):
    """The ONNX model is given its log-mel frames 20 ms later."""
    sessions = (value for value in vars(subject).values() if hasattr(value, "get_inputs") and hasattr(value, "run"))
    session = next(sessions)
    run = session.run

    def later(names, feed, *rest):
        shifted = {key: value.copy() for key, value in feed.items()}
        for value in shifted.values():
            if value.ndim == 3:
                value[..., 2:], value[..., :2] = value[..., :-2].copy(), value[..., -2:].copy()
        return run(names, shifted, *rest)

    session.run = later


WRONG = {
    "one chunk less to look back": _one_chunk_less,
    "another codebook row": _other_codebook_row,
    "frames that are 20 ms late": _frames_later,
}


def _module_name(file):
    """What to import a file of the checkout as: from the folder above its packages, which joins ``sys.path``."""
    path = Path(sys.path[0], file)
    root = path.parent
    while (root / "__init__.py").exists():
        root = root.parent
    if str(root) not in sys.path:
        sys.path.insert(1, str(root))
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _is_reference():
    return os.path.exists(os.path.join(sys.path[0], "make_model.py"))


def _alone(name):
    """A module of the reference tree by itself: nothing else of that tree may shadow the checkout."""
    full = f"_apply_opt_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, REFERENCE / f"{name}.py")
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


def _seconds_of(recording):
    return recording["audio"].shape[1] / recording["sample_rate"]


def _recorded(options):
    """A recording, its channels mixed, at its own rate: WAV in any case, with soundfile whatever that reads."""
    import torch

    path = os.path.join(options["here"], options["audio"])
    try:
        if importlib.util.find_spec("soundfile"):
            import soundfile

            audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
            audio = audio.T
        else:
            with open(path, "rb") as file:
                audio, rate = _alone("wav_io").read_wav(file)
    except OSError as error:
        raise ValueError(f"audio: {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:
        more = "" if importlib.util.find_spec("soundfile") else "; pip install soundfile reads more kinds of files"
        raise ValueError(f"audio: {path} cannot be read as a recording: {error}{more}") from error
    if not audio.size or not rate:
        raise ValueError(f"audio: {path} has no sound in it")
    return {"audio": torch.from_numpy(audio.mean(axis=0, keepdims=True)), "sample_rate": int(rate)}


# Upstream on a machine that lacks something


def _make_up_for_what_is_missing():
    """Without a GPU, what asks for one stays where it is; without torchaudio's own libraries, soundfile reads and writes."""
    import torch

    if _is_reference():
        return
    if not torch.cuda.is_available():
        torch.nn.Module.cuda = torch.Tensor.cuda = lambda self, *args, **kwargs: self
        to = torch.Tensor.to

        def to_what_is_there(self, *args, **kwargs):
            kwargs = {key: "cpu" if key == "device" and type(value) is int else value for key, value in kwargs.items()}
            return to(self, *("cpu" if type(value) is int else value for value in args), **kwargs)

        torch.Tensor.to = to_what_is_there
    try:
        import torchaudio
    except (ImportError, OSError):
        for name in [name for name in sys.modules if name.startswith("torchaudio")]:
            del sys.modules[name]
        extension = types.ModuleType("torchaudio._extension")
        extension.__getattr__ = lambda name: (lambda function: function) if name.startswith("fail_") else False
        sys.modules["torchaudio._extension"] = extension
        import torchaudio
    if importlib.util.find_spec("torchcodec") is None:
        torchaudio.save, torchaudio.load = _save, _load


def _save(file, audio, rate, format="wav", **_):
    """16-bit, as torchaudio writes WAV by default."""
    import soundfile

    soundfile.write(file, audio.cpu().numpy().T, rate, format=format, subtype="PCM_16")


def _load(file, **_):
    import soundfile
    import torch

    audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return torch.from_numpy(audio.T.copy()), rate


def _make_upstream_model(folder, size):
    """An encoder folder for upstream's own classes. Its models are built from their configuration, with seed 0."""
    import numpy
    import onnx
    import torch

    _make_up_for_what_is_missing()
    torch.set_num_threads(1)
    encoder = _alone("sizes").ENCODERS[size]
    _make_upstream_model_folder(Path(folder, MODEL_ID), encoder)
    _make_upstream_model_folder(Path(folder, LIGHT_MODEL_ID), {**encoder, "num_blocks": encoder["num_blocks"] // 2})
    audio = _alone("speech").synthetic_speech(FIT_SECONDS, seed=1000)
    numpy.save(Path(folder, "linguistic_tokenizer.npy"), numpy.zeros((1, 1), numpy.float32))
    frames = _encoded(folder, audio)
    sys.path.append(
        str(REFERENCE)
    )  # last: the checkout's modules, and what is installed, are taken where they are there
    import onnx_model

    generator = torch.Generator().manual_seed(0)
    numpy.save(Path(folder, "linguistic_tokenizer.npy"), onnx_model.kmeans(frames, 1024, generator).numpy())
    graph = onnx_model.speech_tokenizer(audio, _alone("sizes").TRANSFORMERS[size], generator)
    onnx.save(graph, Path(folder, "speech_tokenizer_v1.onnx"))


def _make_upstream_model_folder(folder, encoder):
    """The folder of a model: its configuration alone. ``encoder``: the layers, and their sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "model": "ParaformerStreaming",
        "model_conf": {"ctc_weight": 0.0},
        "encoder": "SANMEncoderChunkOpt",
        "encoder_conf": {
            **encoder,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": "pe_online",
            "normalize_before": True,
            "kernel_size": 11,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
        },
        "frontend": "WavFrontendOnline",
        "frontend_conf": {
            "fs": SAMPLE_RATE,
            "window": "hamming",
            "n_mels": 80,
            "frame_length": 25,
            "frame_shift": 10,
            "lfr_m": 7,
            "lfr_n": 6,
            "dither": 0.0,
        },
    }
    (folder / "config.yaml").write_text(json.dumps(configuration))
    (folder / "configuration.json").write_text(json.dumps({"file_path_metas": {"config": "config.yaml"}}))


def _encoded(folder, audio):
    """The encoder's output for a long utterance: (frames, D)."""
    import io

    from funasr_detach import AutoModel

    model = AutoModel(model=os.path.join(folder, MODEL_ID), repo_path=folder, model_hub="local")
    file = io.BytesIO()
    _save(file, audio, SAMPLE_RATE)
    file.seek(0)
    how = {"chunk_size": [0, 4, 5], "encoder_chunk_look_back": 4, "decoder_chunk_look_back": 1}
    results, _ = model.infer_encoder(input=[file], device=0, is_final=True, cache={}, **how)
    return results[0]["enc_out"][0]
