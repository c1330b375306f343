"""Streaming features: log-mel filterbank, low frame rate stacking, normalization."""

import math

import numpy as np
import torch
from torch import nn

from mel import mel_filterbank

PRE_EMPHASIS = 0.97
LOG_FLOOR = 1e-10
INT16_SCALE = 32768


class WavFrontendOnline(nn.Module):
    """Audio in pieces of any length to features; how it is cut makes no difference to what comes out.

    fs: sample rate in Hz. frame_length, frame_shift: in ms. lfr_m, lfr_n: filterbank frames in one feature
    frame, and from one feature frame to the next. dither: how much noise is added to each frame, relative to
    16-bit samples. cmvn_file: text of two rows, what to add and what then to
    multiply by, `output_size()` numbers each.
    """

    def __init__(
        self,
        cmvn_file: str | None = None,
        fs: int = 16000,
        n_mels: int = 80,
        frame_length: int = 25,
        frame_shift: int = 10,
        lfr_m: int = 7,
        lfr_n: int = 6,
        dither: float = 0.0,
    ):
        super().__init__()
        self.fs, self.n_mels, self.dither = fs, n_mels, dither
        self.frame_length, self.frame_shift = frame_length, frame_shift
        self.lfr_m, self.lfr_n = lfr_m, lfr_n
        self.frame_sample_length = fs * frame_length // 1000
        self.frame_shift_sample_length = fs * frame_shift // 1000
        self.n_fft = 1 << (self.frame_sample_length - 1).bit_length()
        self.cmvn_file = cmvn_file
        self.register_buffer("cmvn", torch.from_numpy(np.loadtxt(cmvn_file)).float() if cmvn_file else None)
        self.register_buffer("window", torch.hamming_window(self.frame_sample_length, periodic=False))
        self.register_buffer("filters", mel_filterbank(n_mels, self.n_fft, fs).T)

    def output_size(self) -> int:
        """The width of a feature frame."""
        return self.n_mels * self.lfr_m

    def init_cache(self, cache: dict) -> dict:
        """Make `cache` that of an utterance which has not begun."""
        cache["input_cache"] = torch.empty(0)  # samples that the next filterbank frame needs
        cache["lfr_splice_cache"] = []  # filterbank frames (1, frames, n_mels) that the next feature frame needs
        return cache

    def forward(self, input: torch.Tensor, input_lengths: list[int], **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, samples) to (1, frames, output_size()), or to an empty tensor where there is no frame; and how many.

        cache: empty at the start of an utterance. is_final: whether the utterance ends here. Then its last
        filterbank frame is repeated until the stacks are full, if there is enough for a stack without that.
        """
        cache, is_final = kwargs["cache"], kwargs.get("is_final", False)
        if not cache:
            self.init_cache(cache)
        splice = cache["lfr_splice_cache"]
        _, frames, _ = self.forward_fbank(input, input_lengths, cache=cache)
        if len(frames):
            splice = splice or [frames[:, :1].expand(-1, self.lfr_m // 2, -1)]
            splice = cache["lfr_splice_cache"] = [torch.cat([*splice, frames], dim=1)]
        if not splice or splice[0].shape[1] < self.lfr_m:
            return torch.empty(0), torch.tensor([0])
        (frames,) = splice
        if is_final:
            left = math.ceil((frames.shape[1] - self.lfr_m // 2) / self.lfr_n)
            missing = (left - 1) * self.lfr_n + self.lfr_m - frames.shape[1]
            frames = torch.cat([frames, frames[:, -1:].expand(-1, max(0, missing), -1)], dim=1)
        stacked = frames.unfold(1, self.lfr_m, self.lfr_n).transpose(2, 3).flatten(2)
        cache["lfr_splice_cache"] = [frames[:, stacked.shape[1] * self.lfr_n :]]
        if self.cmvn is not None:
            stacked = (stacked + self.cmvn[0]) * self.cmvn[1]
        return stacked, torch.tensor([stacked.shape[1]])

    def forward_fbank(
        self, input: torch.Tensor, input_lengths: list[int], cache: dict, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(1, samples) to the samples used, log-mel frames (1, frames, n_mels), and how many; all empty without a frame."""
        input = torch.cat([cache["input_cache"].to(self.window), input.to(self.window)], dim=1)
        length, shift = self.frame_sample_length, self.frame_shift_sample_length
        count = max(0, (input.shape[1] - length) // shift + 1)
        cache["input_cache"] = input[:, count * shift :]
        if count == 0:
            return torch.empty(0), torch.empty(0), torch.empty(0)
        used = input[:, : (count - 1) * shift + length]
        return used, self.fbank(used), torch.tensor([count])

    def fbank(self, samples: torch.Tensor) -> torch.Tensor:
        """The log-mel frames of (1, samples): (1, frames, n_mels)."""
        frames = samples.unfold(1, self.frame_sample_length, self.frame_shift_sample_length)
        if self.dither:
            frames = frames + self.dither / INT16_SCALE * torch.randn(frames.shape, device=frames.device)
        frames = frames - frames.mean(dim=2, keepdim=True)
        previous = torch.cat([frames[:, :, :1], frames[:, :, :-1]], dim=2)
        frames = (frames - PRE_EMPHASIS * previous) * self.window
        power = torch.fft.rfft(frames, self.n_fft).abs() ** 2
        return (power @ self.filters).clamp(min=LOG_FLOOR).log()
