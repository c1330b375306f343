"""What the encoder of a model folder makes of a recording."""

from pathlib import Path

import torch

from funasr_detach import AutoModel

CHUNKS = {"chunk_size": [0, 4, 5], "encoder_chunk_look_back": 4}


def encoder_output(model_folder: Path, audio: torch.Tensor) -> torch.Tensor:
    """(1, samples) to (frames, D)."""
    model = AutoModel(model=str(model_folder), device="cpu")
    results, _ = model.infer_encoder([audio[0]], is_final=True, cache={}, **CHUNKS)
    return results[0].pop("enc_out")[0]
