"""The streaming model, of which the tokenizer uses the encoder."""

import torch
from torch import nn

from funasr_detach.frontends.wav_frontend import WavFrontendOnline
from funasr_detach.utils.load_utils import load_audio_text_image_video

FEATURE_FRAME_SAMPLES = 960  # 60 ms


class ParaformerStreaming(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.normalize = None

    def init_cache(self, cache: dict, **kwargs) -> dict:
        """Make `cache` that of an utterance which has not begun."""
        chunk_size = kwargs["chunk_size"]
        cache["encoder"] = {
            "start_idx": 0,
            "chunk_size": chunk_size,
            "encoder_chunk_look_back": kwargs.get("encoder_chunk_look_back", 0),
            "feats": torch.zeros(1, chunk_size[2], kwargs["frontend"].output_size()),
            "opt": None,
        }
        cache["frontend"] = {}
        cache["prev_samples"] = torch.empty(0)
        return cache

    def infer_encoder(
        self,
        data_in: list,
        data_lengths: list[int] | None = None,
        key: list[str] | None = None,
        tokenizer: object = None,
        frontend: WavFrontendOnline | None = None,
        cache: dict | None = None,
        **kwargs,
    ) -> tuple[list[dict], dict, dict]:
        """Encode one utterance or the next part of one, chunk by chunk.

        data_in: a list of one WAV file or tensor (samples,). chunk_size, encoder_chunk_look_back: see
        SANMEncoderChunkOpt.forward_chunk. is_final: whether the utterance ends here. If not, the samples that do
        not fill a chunk wait in the cache for the next call. Where it ends, a chunk that is too short for a
        frame is dropped.
        Returns [{"key": name, "enc_out": (1, frames, D)}], meta data (none here), and the cache.
        """
        cache = {} if cache is None else cache
        if not cache:
            self.init_cache(cache, frontend=frontend, **kwargs)
        is_final, stride = kwargs.get("is_final", False), kwargs["chunk_size"][1] * FEATURE_FRAME_SAMPLES
        (samples,) = (
            data_in if isinstance(data_in[0], torch.Tensor) else load_audio_text_image_video(data_in, frontend.fs)
        )
        samples = torch.cat([cache["prev_samples"].to(samples), samples])
        device = next(self.encoder.parameters()).device
        outputs = [torch.zeros(1, 0, self.encoder.output_size(), device=device)]
        while len(samples) >= stride or (is_final and len(samples)):
            piece, samples = samples[:stride], samples[stride:]
            feats, lengths = frontend(
                piece[None], [len(piece)], cache=cache["frontend"], is_final=is_final and len(piece) < stride
            )
            if len(feats):
                outputs.append(self.encode_chunk(feats.to(device), lengths, cache)[0][:, -feats.shape[1] :])
        cache["prev_samples"] = samples
        if is_final:
            self.init_cache(cache, frontend=frontend, **kwargs)
        return [{"key": key[0] if key else "", "enc_out": torch.cat(outputs, dim=1)}], {}, cache

    def encode_chunk(
        self, speech: torch.Tensor, speech_lengths: torch.Tensor, cache: dict, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The encoder's window for the features of one chunk."""
        encoded, lengths, _ = self.encoder.forward_chunk(speech, speech_lengths, cache=cache["encoder"])
        return encoded, lengths
