"""A chunk by chunk SANM encoder."""

from collections.abc import Sequence

import torch
from torch import nn

from funasr_detach.models.sanm.attention import MultiHeadedAttentionSANM
from funasr_detach.models.transformer.embedding import StreamSinusoidalPositionEncoder
from funasr_detach.models.transformer.positionwise_feed_forward import PositionwiseFeedForward


class EncoderLayerSANM(nn.Module):
    """Attention and feed-forward, each after a layer norm; `in_size` may differ in the first layer."""

    def __init__(self, in_size: int, size: int, self_attn: nn.Module, feed_forward: nn.Module):
        super().__init__()
        self.in_size, self.size = in_size, size
        self.normalize_before = True
        self.norm1 = nn.LayerNorm(in_size)
        self.self_attn = self_attn
        self.norm2 = nn.LayerNorm(size)
        self.feed_forward = feed_forward

    def forward_chunk(
        self, x: torch.Tensor, cache: dict | None, chunk_size: Sequence[int], look_back: int
    ) -> tuple[torch.Tensor, dict | None]:
        """One window (1, frames, in_size) to (1, frames, size); see MultiHeadedAttentionSANM."""
        attended, cache = self.self_attn.forward_chunk(self.norm1(x), cache, chunk_size, look_back)
        x = x + attended if self.in_size == self.size else attended
        return x + self.feed_forward(self.norm2(x)), cache


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
        self._output_size = output_size
        self.normalize_before = True
        self.embed = StreamSinusoidalPositionEncoder()

        def layer(in_size: int) -> EncoderLayerSANM:
            attention = MultiHeadedAttentionSANM(attention_heads, in_size, output_size, kernel_size)
            return EncoderLayerSANM(in_size, output_size, attention, PositionwiseFeedForward(output_size, linear_units))

        self.encoders0 = nn.ModuleList([layer(input_size)])
        self.encoders = nn.ModuleList(layer(output_size) for _ in range(num_blocks - 1))
        self.after_norm = nn.LayerNorm(output_size)

    def output_size(self) -> int:
        """The width of what comes out."""
        return self._output_size

    def forward_chunk(
        self, xs_pad: torch.Tensor, ilens: torch.Tensor, cache: dict, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode the window of the next frames: (1, new, input_size) to (1, overlap + new, output_size).

        A window is the last `overlap` frames before the chunk, zeros at the start of an utterance (they count
        as frames, in attention too), and the chunk. All chunks but the last of an utterance must be full.
        cache: as ParaformerStreaming.init_cache makes it. `feats` is the overlap and `opt` the layers' caches;
        `chunk_size` is [0, frames of a chunk, frames of overlap], and `encoder_chunk_look_back` says how many
        chunks of frames before the window each layer still attends to.
        """
        x = self.embed(xs_pad * self.output_size() ** 0.5, cache)
        x = torch.cat([cache["feats"].to(x), x], dim=1)
        cache["feats"] = x[:, x.shape[1] - cache["chunk_size"][2] :]
        layers = [*self.encoders0, *self.encoders]
        caches = cache["opt"] or [None] * len(layers)
        for i, layer in enumerate(layers):
            x, caches[i] = layer.forward_chunk(x, caches[i], cache["chunk_size"], cache["encoder_chunk_look_back"])
        cache["opt"] = caches
        return self.after_norm(x), ilens, None
