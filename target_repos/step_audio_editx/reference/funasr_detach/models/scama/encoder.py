"""A chunk by chunk SANM encoder."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from funasr_detach.models.sanm.attention import MultiHeadedAttentionSANM


def sinusoidal_positions(start: int, like: torch.Tensor) -> torch.Tensor:
    """Encodings of the positions start, start + 1, ... for `like` (1, frames, size): (frames, size)."""
    _, frames, size = like.shape
    positions = torch.arange(start, start + frames, device=like.device, dtype=like.dtype)
    steps = torch.arange(size // 2, device=like.device, dtype=like.dtype) / (size // 2)
    angles = positions[:, None] * torch.exp(-math.log(10000.0) * steps)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class EncoderLayerSANM(nn.Module):
    """Attention and feed-forward, each after a layer norm; `in_size` may differ in the first layer."""

    def __init__(self, in_size: int, size: int, heads: int, linear_units: int, kernel_size: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(in_size)
        self.self_attn = MultiHeadedAttentionSANM(heads, in_size, size, kernel_size)
        self.norm2 = nn.LayerNorm(size)
        self.feed_forward = nn.Sequential(nn.Linear(size, linear_units), nn.ReLU(), nn.Linear(linear_units, size))

    def forward_chunk(self, x: torch.Tensor, cache: dict, leaving: int, keep: int) -> torch.Tensor:
        """One window (1, frames, in_size) to (1, frames, size); see MultiHeadedAttentionSANM."""
        attended = self.self_attn.forward_chunk(self.norm1(x), cache, leaving, keep)
        x = x + attended if x.shape == attended.shape else attended
        return x + self.feed_forward(self.norm2(x))


class SANMEncoderChunkOpt(nn.Module):
    """`num_blocks` layers of width `output_size` over windows that overlap."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        attention_heads: int,
        linear_units: int,
        num_blocks: int,
        kernel_size: int,
    ):
        super().__init__()
        self.scale = math.sqrt(output_size)
        self.output_size = output_size
        sizes = [input_size] + [output_size] * (num_blocks - 1)
        self.encoders = nn.ModuleList(
            EncoderLayerSANM(size, output_size, attention_heads, linear_units, kernel_size) for size in sizes
        )
        self.after_norm = nn.LayerNorm(output_size)

    def forward_chunk(
        self, feats: torch.Tensor, cache: dict, chunk_size: Sequence[int], look_back: int
    ) -> torch.Tensor:
        """Encode the next frames: (1, new, input_size) to (1, new, output_size).

        chunk_size: [0, frames of a chunk, frames of overlap]. A window is the last `overlap` frames before
        the chunk, zeros at the start of an utterance (they count as frames, in attention too), and the
        chunk; only the chunk's frames come out. All chunks but the last of an utterance must be full.
        look_back: how many chunks of frames before the window each layer still attends to.
        cache: empty at the start of an utterance.
        """
        _, chunk, overlap = chunk_size
        new = feats.shape[1]
        if not cache:
            cache["start"] = 0
            cache["overlap"] = feats.new_zeros(1, overlap, feats.shape[2])
            cache["layers"] = [{} for _ in self.encoders]
        x = feats * self.scale + sinusoidal_positions(cache["start"], feats)
        x = torch.cat([cache["overlap"], x], dim=1)
        cache["start"] += new
        cache["overlap"] = x[:, x.shape[1] - overlap :]

        for layer, layer_cache in zip(self.encoders, cache["layers"]):
            x = layer.forward_chunk(x, layer_cache, leaving=chunk, keep=look_back * chunk)
        return self.after_norm(x)[:, overlap:]
