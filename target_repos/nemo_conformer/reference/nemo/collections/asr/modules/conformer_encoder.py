"""A small Conformer encoder (A. Gulati et al., "Conformer", Interspeech 2020, https://arxiv.org/abs/2005.08100)."""

import torch
from nemo.collections.asr.parts.submodules.conformer_modules import ConformerLayer
from nemo.collections.asr.parts.submodules.multi_head_attention import RelPositionalEncoding
from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling
from torch import nn


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
        self.pos_enc = RelPositionalEncoding(d_model)
        layers = (ConformerLayer(d_model, n_heads, conv_kernel_size, dropout) for _ in range(n_layers))
        self.layers = nn.ModuleList(layers)

    def forward(self, audio_signal, length):
        """The frames and how many of them are each utterance's; gives the same of what was encoded."""
        if audio_signal.shape[1] != self._feat_in:
            raise ValueError(f"audio_signal has {audio_signal.shape[1]} features and not {self._feat_in}")
        x, length = self.pre_encode(x=audio_signal.transpose(1, 2), lengths=length)
        pad_mask, att_mask = self._create_masks(self.att_context_size, length, x.shape[1], x.device)
        pos_emb = self.pos_enc(x)
        for layer in self.layers:
            x = layer(x, att_mask, pad_mask, pos_emb)
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
