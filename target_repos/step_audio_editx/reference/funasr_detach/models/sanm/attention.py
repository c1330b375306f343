"""Self attention with an FSMN memory."""

import torch
from torch import nn


class MultiHeadedAttentionSANM(nn.Module):
    """Multi-head self attention, plus a depthwise convolution over the values: the FSMN memory."""

    def __init__(self, n_head: int, in_feat: int, n_feat: int, kernel_size: int):
        super().__init__()
        self.heads = n_head
        self.linear_q_k_v = nn.Linear(in_feat, 3 * n_feat)
        self.linear_out = nn.Linear(n_feat, n_feat)
        self.fsmn_block = nn.Conv1d(n_feat, n_feat, kernel_size, padding=kernel_size // 2, groups=n_feat, bias=False)

    def forward_chunk(self, x: torch.Tensor, cache: dict, leaving: int, keep: int) -> torch.Tensor:
        """One window (1, frames, in_feat) to (1, frames, n_feat).

        Attention sees the window and the keys and values in `cache`, of frames that left it earlier. Those
        of the first `leaving` frames, which the next window no longer has, join them; the last `keep` stay.
        """
        q, k, v = self.linear_q_k_v(x).chunk(3, dim=-1)
        memory = v + self.fsmn_block(v.transpose(1, 2)).transpose(1, 2)

        # To (1, heads, frames, n_feat / heads).
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        past_k, past_v = (cache.get(name, k[:, :, :0]) for name in ("k", "v"))
        for name, past, new in (("k", past_k, k), ("v", past_v, v)):
            past = torch.cat([past, new[:, :, :leaving]], dim=2)
            cache[name] = past[:, :, max(0, past.shape[2] - keep) :]
        k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)

        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        attended = scores.softmax(dim=-1) @ v
        return self.linear_out(attended.transpose(1, 2).flatten(2)) + memory
