"""Convolutions that make one frame of several: (B, T, features) to (B, T / factor, width), for utterances of mixed lengths."""

import math

import torch
from nemo.collections.asr.parts.submodules.causal_convs import CausalConv2D
from torch import nn


def apply_channel_mask(tensor, mask):
    """(B, C, T, F) times a mask (B, T, F): the same for all channels."""
    return tensor * mask[:, None]


def calculate_conv_output_size(input_size, kernel_size, stride, padding):
    """How many frames a convolution makes of ``input_size``."""
    return (input_size + sum(padding) - kernel_size) // stride + 1


class MaskedConvSequential(nn.Sequential):
    """Layers over a padded batch. What one layer writes behind the end of an utterance must not reach the next."""

    def forward(self, x, lengths):
        """(B, T, F) and the frames of each; gives (B, C, T', F') and what is left of the frames."""
        frames, lengths = x[:, None], lengths.clone().long()
        mask = self._create_mask(frames, lengths)
        for layer in self:
            frames = apply_channel_mask(frames, mask)
            frames = layer(frames)
            if getattr(layer, "stride", (1, 1)) != (1, 1):
                causal = hasattr(layer, "_left_padding")
                padding = (layer._left_padding, layer._right_padding) if causal else (layer.padding[0],) * 2
                lengths = calculate_conv_output_size(lengths, layer.kernel_size[0], layer.stride[0], padding)
                mask = self._create_mask(frames, lengths)
        frames = apply_channel_mask(frames, mask)
        return frames, lengths

    def _create_mask(self, tensor, lengths):
        """(B, T, F), 1 where ``tensor`` (B, C, T, F) has a frame and 0 behind its last."""
        numbers = torch.arange(tensor.shape[2], device=tensor.device)
        inside = numbers[None, :] < lengths[:, None]
        return inside[:, :, None].repeat(1, 1, tensor.shape[3]).to(tensor.dtype)


class ConvSubsampling(nn.Module):
    """One of ``subsampling_factor`` frames is left: by strided convolutions, depthwise ones (``dw_striding``) but for the first."""

    def __init__(
        self,
        subsampling,
        subsampling_factor,
        feat_in,
        feat_out,
        conv_channels,
        subsampling_conv_chunking_factor=1,
        activation=None,
        is_causal=False,
    ):
        super().__init__()
        if subsampling not in ("striding", "dw_striding"):
            raise ValueError(f"no such subsampling: {subsampling}")
        self.subsampling_conv_chunking_factor = subsampling_conv_chunking_factor
        convolution = CausalConv2D if is_causal else nn.Conv2d
        padding, features, stages, channels = None if is_causal else 1, feat_in, [], 1
        for stage in range(int(math.log2(subsampling_factor))):
            is_depthwise = stage > 0 and subsampling == "dw_striding"
            groups = channels if is_depthwise else 1
            stages.append(convolution(channels, conv_channels, 3, stride=2, padding=padding, groups=groups))
            if is_depthwise:
                stages.append(nn.Conv2d(conv_channels, conv_channels, 1))
            stages.append(activation or nn.ReLU())
            features, channels = (features if is_causal else features - 1) // 2 + 1, conv_channels
        self.conv = MaskedConvSequential(*stages)
        self.out = nn.Linear(conv_channels * features, feat_out)

    def forward(self, x, lengths):
        """(B, T, features) and the frames of each utterance; gives (B, T', width) and theirs."""
        encoded, lengths = self.conv(x, lengths)
        batch, _, frames, _ = encoded.shape
        return self.out(encoded.transpose(1, 2).reshape(batch, frames, -1)), lengths
