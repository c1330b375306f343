"""Attention with relative positions (Z. Dai et al., "Transformer-XL", ACL 2019, https://arxiv.org/abs/1901.02860)."""

import math

import torch
from torch import nn


class RelPositionalEncoding(nn.Module):
    """Sines and cosines of the distances from one frame to another, the largest first: (1, 2 T - 1, width)."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, x):
        frames = x.shape[1]
        distances = torch.arange(frames - 1, -frames, -1, device=x.device, dtype=torch.float32)
        rates = torch.exp(torch.arange(0, self.width, 2, device=x.device) * (-math.log(10000.0) / self.width))
        angles = distances[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).reshape(1, -1, self.width).to(x.dtype)


class MultiHeadAttention(nn.Module):
    """What all kinds of attention share."""

    def __init__(self, n_head, n_feat, dropout_rate):
        super().__init__()
        self.h, self.d_k = n_head, n_feat // n_head
        self.s_d_k = self.d_k**0.5
        self.linear_q, self.linear_k, self.linear_v, self.linear_out = (nn.Linear(n_feat, n_feat) for _ in range(4))
        self.dropout = nn.Dropout(dropout_rate)

    def heads(self, x):
        """(B, T, width) to (B, heads, T, width / heads)."""
        return x.view(x.shape[0], -1, self.h, self.d_k).transpose(1, 2)

    def forward_attention(self, value, scores, mask):
        """The values (B, heads, T, width / heads) weighted by the scores (B, heads, T, T); True in ``mask`` is not seen."""
        hidden = mask.unsqueeze(1)
        scores = scores.masked_fill(hidden, -10000.0)
        weights = torch.softmax(scores, dim=-1).masked_fill(hidden, 0.0)
        seen = self.dropout(weights) @ value
        return self.linear_out(seen.transpose(1, 2).flatten(2))


class RelPositionMultiHeadAttention(MultiHeadAttention):
    """A score is of the frame's content and, by another product, of its distance."""

    def __init__(self, n_head, n_feat, dropout_rate):
        super().__init__(n_head, n_feat, dropout_rate)
        self.linear_pos = nn.Linear(self.h * self.d_k, self.h * self.d_k, bias=False)
        self.pos_bias_u, self.pos_bias_v = (nn.Parameter(torch.randn(n_head, 1, self.d_k) / 8) for _ in range(2))

    def rel_shift(self, x):
        """Scores by distance (B, heads, T, 2 T - 1) to scores by frame, in the first T columns."""
        batch, heads, rows, columns = x.shape
        wider = nn.functional.pad(x, (1, 0))
        folded = wider.view(batch, heads, columns + 1, rows)
        return folded[:, :, 1:].view(batch, heads, rows, columns)

    def forward(self, query, key, value, mask, pos_emb):
        """(B, T, width) each; ``mask`` (B, T, T), ``pos_emb`` (1, 2 T - 1, width)."""
        q, k, v = self.heads(self.linear_q(query)), self.heads(self.linear_k(key)), self.heads(self.linear_v(value))
        distances = self.heads(self.linear_pos(pos_emb))
        by_content = (q + self.pos_bias_u) @ k.transpose(-2, -1)
        by_distance = self.rel_shift((q + self.pos_bias_v) @ distances.transpose(-2, -1))
        by_distance = by_distance[:, :, :, : by_content.shape[-1]]
        scores = (by_content + by_distance) / self.s_d_k
        return self.forward_attention(v, scores, mask)
