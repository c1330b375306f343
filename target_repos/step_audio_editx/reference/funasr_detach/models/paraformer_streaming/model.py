"""The streaming model, of which the tokenizer uses the encoder."""

from collections.abc import Sequence

import torch
from torch import nn

from funasr_detach.frontends.wav_frontend import WavFrontendOnline
from funasr_detach.models.scama.encoder import SANMEncoderChunkOpt


class ParaformerStreaming(nn.Module):
    def __init__(self, frontend: WavFrontendOnline, encoder: SANMEncoderChunkOpt):
        super().__init__()
        self.frontend = frontend
        self.encoder = encoder

    def inference(
        self,
        samples: torch.Tensor,
        cache: dict,
        chunk_size: Sequence[int] = (0, 10, 5),
        encoder_chunk_look_back: int = 4,
        decoder_chunk_look_back: int = 1,
        is_final: bool = True,
    ) -> torch.Tensor:
        """Encode (samples,), chunk by chunk, to (1, frames, D).

        chunk_size, encoder_chunk_look_back: see SANMEncoderChunkOpt.forward_chunk.
        decoder_chunk_look_back: accepted, but there is no decoder here.
        is_final: whether the utterance ends here. If not, `cache` keeps its state, and the samples that do
            not fill a chunk, for the next call; otherwise it is left empty.
        """
        chunk_samples = chunk_size[1] * self.frontend.lfr_n * self.frontend.hop_samples
        if not cache:
            cache.update(samples=samples[:0], frontend={}, encoder={})
        samples = torch.cat([cache["samples"], samples])
        outputs = [samples.new_zeros(1, 0, self.encoder.output_size)]
        while len(samples) >= chunk_samples or (is_final and len(samples)):
            piece, samples = samples[:chunk_samples], samples[chunk_samples:]
            last = is_final and not len(samples)
            feats = self.frontend(piece, cache["frontend"], is_final=last)
            if feats.shape[1]:
                outputs.append(self.encoder.forward_chunk(feats, cache["encoder"], chunk_size, encoder_chunk_look_back))
        if is_final:
            cache.clear()
        else:
            cache["samples"] = samples
        return torch.cat(outputs, dim=1)
