"""Build a small encoder folder for the tokenizer: random weights, codebooks fitted to synthetic speech."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper

import whisper
from funasr_detach import AutoModel
from funasr_detach.frontends.wav_frontend import WavFrontendOnline
from funasr_detach.models.paraformer_streaming.model import ParaformerStreaming
from funasr_detach.models.scama.encoder import SANMEncoderChunkOpt
from speech import SAMPLE_RATE, synthetic_speech

FUNASR_MODEL_ID = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
VQ02_CODES, VQ06_CODES = 1024, 4096
MEL_BINS = 128
FIT_SECONDS = 200  # enough for more frames than codes

FRONTEND = {
    "fs": 16000, "n_mels": 80, "frame_length": 25, "frame_shift": 10, "lfr_m": 7, "lfr_n": 6, "dither": 0.0
}  # fmt: skip
SIZES = {
    "tiny": {"output_size": 64, "attention_heads": 4, "linear_units": 128, "num_blocks": 4},
    "small": {"output_size": 256, "attention_heads": 4, "linear_units": 1024, "num_blocks": 12},
    "full": {"output_size": 512, "attention_heads": 4, "linear_units": 2048, "num_blocks": 50},
}
CHUNKS = {"chunk_size": [0, 4, 5], "encoder_chunk_look_back": 4}


def make_model(folder: str | Path, size: str = "tiny", seed: int = 0) -> None:
    """Write the encoder folder: both tokenizers, and the model folder in it; the same for the same seed."""
    encoder_conf = {**SIZES[size], "kernel_size": 11}
    folder = Path(folder)
    model_folder = folder / FUNASR_MODEL_ID
    model_folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        audio = synthetic_speech(FIT_SECONDS, seed=seed + 1000)

        config = {
            "model": ParaformerStreaming.__name__,
            "encoder": SANMEncoderChunkOpt.__name__,
            "encoder_conf": encoder_conf,
            "frontend": WavFrontendOnline.__name__,
            "frontend_conf": FRONTEND,
        }
        (model_folder / "config.yaml").write_text(json.dumps(config, indent=2) + "\n")

        feats = WavFrontendOnline(**FRONTEND)(audio, [audio.shape[1]], cache={}, is_final=True)[0][0]
        np.savetxt(model_folder / "am.mvn", torch.stack([-feats.mean(0), 1 / feats.std(0)]), fmt="%.6f")

        encoder = SANMEncoderChunkOpt(feats.shape[1], **encoder_conf)
        torch.save(ParaformerStreaming(encoder).state_dict(), model_folder / "model.pt")

        model = AutoModel(model=str(model_folder), device="cpu")
        results, _ = model.infer_encoder([audio[0]], is_final=True, cache={}, **CHUNKS)
        codebook = kmeans(results[0]["enc_out"][0], VQ02_CODES, generator)
        np.save(folder / "linguistic_tokenizer.npy", codebook.numpy())

        onnx.save(speech_tokenizer(audio, encoder_conf["output_size"], generator), folder / "speech_tokenizer_v1.onnx")


def kmeans(frames: torch.Tensor, codes: int, generator: torch.Generator, rounds: int = 3) -> torch.Tensor:
    """A codebook (codes, D) for `frames` (at least codes, D)."""
    chosen = torch.randperm(len(frames), generator=generator)[:codes]
    means = frames[chosen].clone()
    for _ in range(rounds):
        nearest = torch.cdist(frames, means).argmin(dim=1)
        counts = torch.bincount(nearest, minlength=codes)
        sums = torch.zeros_like(means).index_add_(0, nearest, frames)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None], means)
    return means


@torch.no_grad()
def speech_tokenizer(audio: torch.Tensor, size: int, generator: torch.Generator) -> onnx.ModelProto:
    """An ONNX model of log-mel frames (100 per second) to codes (25 per second).

    Inputs: feats, float32 (B, 128, T), and feats_length, int32 (B,), the frames that count. Output: codes,
    int32 (B, ceil(T / 4)), 0 past ceil(feats_length / 4). Padding is masked at every stage, so an item has
    the same codes in any batch.
    """
    conv1 = torch.nn.Conv1d(MEL_BINS, size, 3, stride=2, padding=1)
    conv2 = torch.nn.Conv1d(size, size, 3, stride=2, padding=1)

    pieces = audio.split(30 * SAMPLE_RATE, dim=1)
    feats = [whisper.log_mel_spectrogram(piece, n_mels=MEL_BINS) for piece in pieces]
    frames = torch.cat([conv2(F.relu(conv1(f)))[0].T for f in feats])
    codebook = kmeans(frames, VQ06_CODES, generator)

    # The nearest code has the least |code|^2 - 2 frame . code.
    weights = {
        "conv1_weight": conv1.weight,
        "conv1_bias": conv1.bias,
        "conv2_weight": conv2.weight,
        "conv2_bias": conv2.bias,
        "minus_2_codes": -2 * codebook.T,
        "code_norms": codebook.square().sum(dim=1),
        "zero": torch.tensor(0),
        "one": torch.tensor(1),
        "two": torch.tensor([2]),
        "time_axis": torch.tensor([2]),
        "start": torch.tensor([0]),
        "end": torch.tensor([2**31 - 1]),
        "channel_axis": torch.tensor([1]),
        "length_axes": torch.tensor([1, 2]),
    }
    conv = {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}
    nodes = [
        helper.make_node("Shape", ["feats"], ["frame_count_1"], start=2, end=3),
        helper.make_node("Squeeze", ["frame_count_1"], ["frame_count"]),
        helper.make_node("Range", ["zero", "frame_count", "one"], ["times"]),
        helper.make_node("Cast", ["feats_length"], ["length"], to=TensorProto.INT64),
        helper.make_node("Unsqueeze", ["length", "length_axes"], ["length_3d"]),
        helper.make_node("Less", ["times", "length_3d"], ["valid"]),
        helper.make_node("Cast", ["valid"], ["mask"], to=TensorProto.FLOAT),  # (B, 1, T)
        helper.make_node("Slice", ["mask", "start", "end", "time_axis", "two"], ["mask_2"]),
        helper.make_node("Slice", ["mask_2", "start", "end", "time_axis", "two"], ["mask_4"]),
        helper.make_node("Mul", ["feats", "mask"], ["masked_feats"]),
        helper.make_node("Conv", ["masked_feats", "conv1_weight", "conv1_bias"], ["hidden"], **conv),
        helper.make_node("Relu", ["hidden"], ["relu"]),
        helper.make_node("Mul", ["relu", "mask_2"], ["masked_relu"]),
        helper.make_node("Conv", ["masked_relu", "conv2_weight", "conv2_bias"], ["frames"], **conv),
        helper.make_node("Transpose", ["frames"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "minus_2_codes"], ["products"]),
        helper.make_node("Add", ["products", "code_norms"], ["distances"]),
        helper.make_node("ArgMin", ["distances"], ["nearest"], axis=2, keepdims=0),
        helper.make_node("Squeeze", ["mask_4", "channel_axis"], ["code_mask"]),
        helper.make_node("Cast", ["code_mask"], ["code_mask_int"], to=TensorProto.INT64),
        helper.make_node("Mul", ["nearest", "code_mask_int"], ["masked_codes"]),
        helper.make_node("Cast", ["masked_codes"], ["codes"], to=TensorProto.INT32),
    ]
    graph = helper.make_graph(
        nodes,
        "speech_tokenizer_v1",
        inputs=[
            helper.make_tensor_value_info("feats", TensorProto.FLOAT, ["B", MEL_BINS, "T"]),
            helper.make_tensor_value_info("feats_length", TensorProto.INT32, ["B"]),
        ],
        outputs=[helper.make_tensor_value_info("codes", TensorProto.INT32, ["B", "T_codes"])],
        initializer=[numpy_helper.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    # IR version 8 goes with opset 17; the default one is too new for some runtimes.
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums come out the same on any number of cores
    make_model(args.folder, args.size, args.seed)
