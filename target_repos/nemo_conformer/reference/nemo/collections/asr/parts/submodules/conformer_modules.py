"""The layers of a Conformer (A. Gulati et al., "Conformer", Interspeech 2020, https://arxiv.org/abs/2005.08100)."""

import torch
from nemo.collections.asr.parts.submodules.multi_head_attention import RelPositionMultiHeadAttention
from torch import nn


class ConformerFeedForward(nn.Module):
    """Twice half a step of a wider layer in each Conformer layer."""

    def __init__(self, width, inner, dropout):
        super().__init__()
        self.linear1 = nn.Linear(width, inner)
        self.linear2 = nn.Linear(inner, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        wide = self.linear1(x)
        wide = self.drop(torch.nn.functional.silu(wide))
        return self.linear2(wide)


class ConformerConvolution(nn.Module):
    """A gate, a depthwise convolution over time, and a batch norm."""

    def __init__(self, width, kernel):
        super().__init__()
        self.gate = nn.Conv1d(width, 2 * width, 1)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Conv1d(width, width, 1)

    def forward(self, x, pad_mask):
        """(B, T, width); True in ``pad_mask`` (B, T) is behind the end."""
        x = nn.functional.glu(self.gate(x.transpose(1, 2)), dim=1).masked_fill(pad_mask[:, None], 0.0)
        return self.out(nn.functional.silu(self.norm(self.depthwise(x)))).transpose(1, 2)


class ConformerLayer(nn.Module):
    """Half a feed-forward step, attention, convolution, the other half."""

    def __init__(self, width, heads, kernel, dropout):
        super().__init__()
        self.feed_forward1 = ConformerFeedForward(width, 4 * width, dropout)
        self.feed_forward2 = ConformerFeedForward(width, 4 * width, dropout)
        self.self_attn = RelPositionMultiHeadAttention(heads, width, dropout)
        self.conv = ConformerConvolution(width, kernel)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.drop = nn.Dropout(dropout)

    def forward(self, x, att_mask, pad_mask, pos_emb):
        x = x + 0.5 * self.drop(self.feed_forward1(self.norms[0](x)))
        content = self.norms[1](x)
        x = x + self.drop(self.self_attn(content, content, content, att_mask, pos_emb))
        x = x + self.drop(self.conv(self.norms[2](x), pad_mask))
        x = x + 0.5 * self.drop(self.feed_forward2(self.norms[3](x)))
        return self.norms[4](x)
