"""Positions."""

import math

import torch
from torch import nn


class StreamSinusoidalPositionEncoder(nn.Module):
    """Adds sinusoidal positions, which go on from one chunk of an utterance to the next."""

    def forward(self, x: torch.Tensor, cache: dict | None = None) -> torch.Tensor:
        """(batch, frames, size) plus positions; `cache` counts the frames so far in `start_idx`."""
        _, frames, size = x.shape
        start = 0 if cache is None else cache["start_idx"]
        if cache is not None:
            cache["start_idx"] += frames
        positions = torch.arange(start + 1, start + frames + 1, device=x.device)[None]
        return x + self.encode(positions, size, x.dtype)

    def encode(self, positions: torch.Tensor, depth: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Positions (1, frames) to (1, frames, depth): sines, then cosines, from fast to slow."""
        steps = torch.arange(depth // 2, device=positions.device, dtype=dtype) / (depth / 2 - 1)
        angles = positions[..., None] * torch.exp(-math.log(10000.0) * steps)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)
