"""Build a small encoder folder for the tokenizer: random weights, codebooks fitted to synthetic speech."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import torch

from encoder_output import encoder_output
from funasr_detach.frontends.wav_frontend import WavFrontendOnline
from funasr_detach.models.paraformer_streaming.model import ParaformerStreaming
from funasr_detach.models.scama.encoder import SANMEncoderChunkOpt
from onnx_model import kmeans, speech_tokenizer
from sizes import ENCODERS, TRANSFORMERS
from speech import synthetic_speech

FUNASR_MODEL_ID = "dengcunqin/speech_paraformer-large_asr_nat-zh-cantonese-en-16k-vocab8501-online"
LIGHT_MODEL_ID = "damo/speech_paraformer-base_asr_nat-zh-cn-16k-common-vocab8404"
VQ02_CODES = 1024
FIT_SECONDS = 200  # enough for more frames than codes

FRONTEND = {
    "fs": 16000, "n_mels": 80, "frame_length": 25, "frame_shift": 10, "lfr_m": 7, "lfr_n": 6, "dither": 0.0
}  # fmt: skip


def make_model(folder: str | Path, size: str = "tiny", seed: int = 0) -> None:
    """Write the encoder folder: both tokenizers, and in it two model folders; the same for the same seed.

    The second model has half the layers. The codebook is fitted to the first.
    """
    encoder_conf = {**ENCODERS[size], "kernel_size": 11}
    folder = Path(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        audio = synthetic_speech(FIT_SECONDS, seed=seed + 1000)

        feats = WavFrontendOnline(**FRONTEND)(audio, [audio.shape[1]], cache={}, is_final=True)[0][0]
        make_model_folder(folder / FUNASR_MODEL_ID, encoder_conf, feats)

        codebook = kmeans(encoder_output(folder / FUNASR_MODEL_ID, audio), VQ02_CODES, generator)
        np.save(folder / "linguistic_tokenizer.npy", codebook.numpy())

        onnx.save(speech_tokenizer(audio, TRANSFORMERS[size], generator), folder / "speech_tokenizer_v1.onnx")

        light_conf = {**encoder_conf, "num_blocks": encoder_conf["num_blocks"] // 2}
        make_model_folder(folder / LIGHT_MODEL_ID, light_conf, feats)


def make_model_folder(folder: Path, encoder_conf: dict[str, int], feats: torch.Tensor) -> None:
    """Write a model's folder. feats: (frames, features) of speech, which are normalized by their mean and variance."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model": ParaformerStreaming.__name__,
        "encoder": SANMEncoderChunkOpt.__name__,
        "encoder_conf": encoder_conf,
        "frontend": WavFrontendOnline.__name__,
        "frontend_conf": FRONTEND,
    }
    (folder / "config.yaml").write_text(json.dumps(config, indent=2) + "\n")
    np.savetxt(folder / "am.mvn", torch.stack([-feats.mean(0), 1 / feats.std(0)]), fmt="%.6f")
    encoder = SANMEncoderChunkOpt(feats.shape[1], **encoder_conf)
    torch.save(ParaformerStreaming(encoder).state_dict(), folder / "model.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", metavar="DIR")
    parser.add_argument("--size", choices=ENCODERS, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums come out the same on any number of cores
    make_model(args.folder, args.size, args.seed)
