"""Streaming features: log-mel filterbank, low frame rate stacking, normalization."""

import math

import numpy as np
import torch
from torch import nn

from mel import mel_filterbank

PRE_EMPHASIS = 0.97
LOG_FLOOR = 1e-10


class WavFrontendOnline(nn.Module):
    """Audio in pieces of any length to features; how it is cut makes no difference to what comes out.

    fs: sample rate in Hz. frame_length, frame_shift: in ms. lfr_m, lfr_n: filterbank frames in one feature
    frame, and from one feature frame to the next. cmvn_file: text of two rows, the mean to subtract and the
    factor to multiply by, `output_size` numbers each.
    """

    def __init__(
        self,
        fs: int = 16000,
        n_mels: int = 80,
        frame_length: int = 25,
        frame_shift: int = 10,
        lfr_m: int = 7,
        lfr_n: int = 6,
        dither: float = 0.0,
        cmvn_file: str | None = None,
    ):
        super().__init__()
        if dither:
            raise ValueError("dither would make the tokens random; it must be 0")
        self.fs = fs
        self.window_samples = fs * frame_length // 1000
        self.hop_samples = fs * frame_shift // 1000
        self.lfr_m, self.lfr_n = lfr_m, lfr_n
        self.n_fft = 1 << (self.window_samples - 1).bit_length()
        self.output_size = n_mels * lfr_m
        cmvn = np.loadtxt(cmvn_file) if cmvn_file else np.repeat([[0.0], [1.0]], self.output_size, axis=1)
        for name, value in {
            "window": torch.hamming_window(self.window_samples, periodic=False),
            "filters": mel_filterbank(n_mels, self.n_fft, fs).T,
            "cmvn": torch.from_numpy(cmvn).float(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, samples: torch.Tensor, cache: dict, is_final: bool) -> torch.Tensor:
        """(samples,) to (1, frames, output_size); `cache` keeps what later frames need."""
        if "samples" in cache:
            samples = torch.cat([cache["samples"], samples])
        count = max(0, (len(samples) - self.window_samples) // self.hop_samples + 1)
        cache["samples"] = samples[count * self.hop_samples :]
        frames = self.fbank(samples, count)
        if "frames" in cache:
            frames = torch.cat([cache["frames"], frames])
        elif count:
            frames = torch.cat([frames[:1].expand(self.lfr_m // 2, -1), frames])
        if len(frames):
            cache["frames"] = frames

        if is_final and len(frames):
            left = math.ceil((len(frames) - self.lfr_m // 2) / self.lfr_n)
            missing = (left - 1) * self.lfr_n + self.lfr_m - len(frames)
            frames = torch.cat([frames, frames[-1:].expand(max(0, missing), -1)])
        if len(frames) < self.lfr_m:
            return frames.new_zeros(1, 0, self.output_size)
        stacked = frames.unfold(0, self.lfr_m, self.lfr_n).transpose(1, 2).flatten(1)
        cache["frames"] = frames[len(stacked) * self.lfr_n :]
        mean, factor = self.cmvn
        return ((stacked - mean) * factor)[None]

    def fbank(self, samples: torch.Tensor, count: int) -> torch.Tensor:
        """The first `count` log-mel frames of (samples,): (count, n_mels)."""
        if count == 0:
            return samples.new_zeros(0, self.filters.shape[1])
        frames = samples.unfold(0, self.window_samples, self.hop_samples)
        frames = frames - frames.mean(dim=1, keepdim=True)
        previous = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        frames = (frames - PRE_EMPHASIS * previous) * self.window
        power = torch.fft.rfft(frames, self.n_fft).abs() ** 2
        return (power @ self.filters).clamp(min=LOG_FLOOR).log()
