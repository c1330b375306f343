"""Self attention with an FSMN memory."""

from collections.abc import Sequence

import torch
from torch import nn


class MultiHeadedAttentionSANM(nn.Module):
    """Multi-head self attention, plus a depthwise convolution over the values: the FSMN memory."""

    def __init__(self, n_head: int, in_feat: int, n_feat: int, kernel_size: int):
        super().__init__()
        self.h, self.d_k = n_head, n_feat // n_head
        self.linear_q_k_v = nn.Linear(in_feat, 3 * n_feat)
        self.linear_out = nn.Linear(n_feat, n_feat)
        self.fsmn_block = nn.Conv1d(n_feat, n_feat, kernel_size, groups=n_feat, bias=False)
        self.pad_fn = nn.ConstantPad1d(((kernel_size - 1) // 2, kernel_size // 2), 0.0)

    def forward_qkv(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values (batch, h, frames, d_k), and the values once more as (batch, frames, n_feat)."""
        parts = self.linear_q_k_v(x).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.h, self.d_k)).transpose(1, 2) for part in parts)
        return q, k, v, parts[2]

    def forward_fsmn(self, inputs: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The memory of values (batch, frames, n_feat); frames for which `mask` (batch, frames) is 0 do not count."""
        weights = 1.0 if mask is None else mask.reshape(len(inputs), -1, 1)
        inputs = inputs * weights
        return (self.fsmn_block(self.pad_fn(inputs.transpose(1, 2))).transpose(1, 2) + inputs) * weights

    def forward_chunk(
        self, x: torch.Tensor, cache: dict | None = None, chunk_size: Sequence[int] | None = None, look_back: int = 0
    ) -> tuple[torch.Tensor, dict | None]:
        """One window (1, frames, in_feat) to (1, frames, n_feat), and the cache for the next one.

        Attention sees the window and the keys and values in `cache`, of frames that have left the window. All
        but the last chunk_size[2] frames of this window leave it now; those of `look_back` chunks are kept (all
        for -1).
        """
        q, k, v, values = self.forward_qkv(x)
        memory = self.forward_fsmn(values, None)
        seen = {name: t if cache is None else torch.cat([cache[name], t], dim=2) for name, t in (("k", k), ("v", v))}
        if look_back:
            first = -look_back * chunk_size[1] if look_back > 0 else None
            cache = {name: t[:, :, : -chunk_size[2]][:, :, first:] for name, t in seen.items()}
        scores = q @ seen["k"].transpose(-2, -1) * self.d_k**-0.5
        attended = scores.softmax(dim=-1) @ seen["v"]
        return self.linear_out(attended.transpose(1, 2).flatten(2)) + memory, cache
