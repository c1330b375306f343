"""Run the tokenizer of a checkout on synthetic speech and print its tokens as one JSON object."""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

REFERENCE = Path(__file__).resolve().parent / "reference"
SAMPLE_RATE = 16000


def load_speech():
    """The reference tree's speech.py alone: nothing else of that tree may shadow the checkout."""
    spec = importlib.util.spec_from_file_location("reference_speech", REFERENCE / "speech.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(checkout: str, model: str, lengths: list[float], seed: int) -> dict:
    """Tokenize one utterance for each of `lengths`, in seconds, with the tokenizer of `checkout`."""
    sys.path.insert(0, str(Path(checkout).resolve()))
    from tokenizer import StepAudioTokenizer

    torch.set_num_threads(1)
    synthetic_speech = load_speech().synthetic_speech
    tokenizer = StepAudioTokenizer(model)
    tokenizer.wav2token(synthetic_speech(1, seed=seed), SAMPLE_RATE)  # warm up

    utterances = []
    for i, length in enumerate(lengths):
        audio = synthetic_speech(length, seed=seed + i)
        start = time.perf_counter()
        speech_tokens, vq02, vq06 = tokenizer.wav2token(audio, SAMPLE_RATE)
        utterances.append({
            "samples": audio.shape[1],
            "seconds": round(time.perf_counter() - start, 6),
            "vq02": vq02,
            "vq06": vq06,
            "speech_tokens": speech_tokens,
        })  # fmt: skip
    return {"checkout": checkout, "model": model, "seed": seed, "utterances": utterances}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", metavar="CHECKOUT")
    parser.add_argument("--model", metavar="DIR", help="an encoder folder; without it, a tiny one is built")
    parser.add_argument("--seconds", type=float, action="append", help="once for each utterance; 3 and 10")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if not args.model:
            subprocess.run([sys.executable, REFERENCE / "make_model.py", folder], check=True)
        print(json.dumps(run(args.checkout, args.model or folder, args.seconds or [3, 10], args.seed)))


if __name__ == "__main__":
    main()
