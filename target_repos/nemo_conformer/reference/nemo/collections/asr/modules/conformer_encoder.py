"""A small Conformer encoder (A. Gulati et al., "Conformer", Interspeech 2020, https://arxiv.org/abs/2005.08100)."""

import torch
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling
from torch import nn


class FeedForward(nn.Module):
    """Twice half a step of a wider layer in each Conformer layer."""

    def __init__(self, width, dropout):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(dropout), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        return self.layers(x)


class Attention(nn.Module):
    """Every frame sees those that the mask lets it."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x, att_mask):
        """(B, T, width); True in ``att_mask`` (B, T, T) is what is not seen."""
        batch, frames, width = x.shape
        split = (batch, frames, self.heads, width // self.heads)
        query, key, value = (part(x).view(split).transpose(1, 2) for part in (self.query, self.key, self.value))
        hidden = att_mask[:, None]
        scores = (query @ key.transpose(-2, -1) / split[-1] ** 0.5).masked_fill(hidden, -10000.0)
        weights = torch.softmax(scores, dim=-1).masked_fill(hidden, 0.0)
        weights = nn.functional.dropout(weights, self.dropout, self.training)
        return self.out((weights @ value).transpose(1, 2).reshape(batch, frames, width))


class Convolution(nn.Module):
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
        self.feed_forward1, self.feed_forward2 = FeedForward(width, dropout), FeedForward(width, dropout)
        self.self_attn, self.conv = Attention(width, heads, dropout), Convolution(width, kernel)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.drop = nn.Dropout(dropout)

    def forward(self, x, att_mask, pad_mask):
        x = x + 0.5 * self.drop(self.feed_forward1(self.norms[0](x)))
        x = x + self.drop(self.self_attn(self.norms[1](x), att_mask))
        x = x + self.drop(self.conv(self.norms[2](x), pad_mask))
        x = x + 0.5 * self.drop(self.feed_forward2(self.norms[3](x)))
        return self.norms[4](x)


class ConformerEncoder(nn.Module):
    """Log-mel frames (B, feat_in, T) to (B, d_model, T / factor)."""

    def __init__(
        self,
        feat_in,
        n_layers,
        d_model,
        subsampling="dw_striding",
        subsampling_factor=8,
        subsampling_conv_channels=-1,
        causal_downsampling=False,
        n_heads=4,
        conv_kernel_size=9,
        att_context_size=(-1, -1),
        dropout=0.1,
    ):
        super().__init__()
        self._feat_in = feat_in
        self.att_context_size = att_context_size
        channels = d_model if subsampling_conv_channels == -1 else subsampling_conv_channels
        self.pre_encode = ConvSubsampling(
            subsampling, subsampling_factor, feat_in, d_model, channels, 1, nn.ReLU(inplace=True), causal_downsampling
        )
        layers = (ConformerLayer(d_model, n_heads, conv_kernel_size, dropout) for _ in range(n_layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, audio_signal, length):
        """The frames and how many of them are each utterance's; gives the same of what was encoded."""
        if audio_signal.shape[1] != self._feat_in:
            raise ValueError(f"audio_signal has {audio_signal.shape[1]} features and not {self._feat_in}")
        x, length = self.pre_encode(x=audio_signal.transpose(1, 2), lengths=length)
        pad_mask, att_mask = self._create_masks(self.att_context_size, length, x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, att_mask, pad_mask)
        return x.transpose(1, 2), length

    def _create_masks(self, att_context_size, padding_length, max_audio_length, device):
        """(B, T), True behind the end, and (B, T, T), True where a frame (row) does not see another (column)."""
        att_mask = torch.ones((1, max_audio_length, max_audio_length), device=device, dtype=torch.bool)
        left, right = att_context_size
        if left >= 0:
            att_mask = att_mask.triu(-left)
        if right >= 0:
            att_mask = att_mask.tril(right)
        pad_mask = torch.arange(max_audio_length, device=device)[None] < padding_length[:, None]
        both = pad_mask[:, None, :].repeat(1, max_audio_length, 1)
        both = both & both.transpose(1, 2)
        return ~pad_mask, ~(both & att_mask)
