"""Audio clean-up before tokenization."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from wav_io import write_wav

__all__ = ["energy_norm_fn", "resample_audio", "trim_silence", "write_wav"]

ZERO_CROSSINGS = 16  # of the resampling filter, on either side of its centre
ROLLOFF = 0.95  # pass band of the resampling filter, as a share of the lower Nyquist frequency


def resample_audio(wav: torch.Tensor, original_sample_rate: int, target_sample_rate: int) -> torch.Tensor:
    """Resample float32 (1, samples) with a windowed sinc filter; gives ceil(samples * target / original)."""
    if original_sample_rate == target_sample_rate:
        return wav
    common = math.gcd(original_sample_rate, target_sample_rate)
    up, down = target_sample_rate // common, original_sample_rate // common
    cutoff = ROLLOFF * min(1, up / down)
    half = math.ceil(ZERO_CROSSINGS / cutoff)

    # Output sample q * up + p lies at input time q * down + p * down / up: one filter per phase p.
    phase = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    time = torch.arange(-half, half + down, dtype=torch.float64) - phase
    window = torch.cos(torch.pi / 2 * (time / half).clamp(-1, 1)) ** 2
    filters = (cutoff * torch.sinc(cutoff * time) * window).to(wav)[:, None]
    phases = F.conv1d(F.pad(wav, (half, half + down))[None], filters, stride=down)[0]
    return phases.T.reshape(1, -1)[:, : math.ceil(wav.shape[1] * up / down)]


def energy_norm_fn(wav: torch.Tensor, target_db: float = -26.0, peak: float = 0.99) -> torch.Tensor:
    """Scale float32 (1, samples) to an RMS of `target_db` dBFS, or to `peak` where it would go beyond."""
    if not wav.any():
        return wav
    gain = 10 ** (target_db / 20) / wav.square().mean().sqrt()
    return wav * torch.minimum(gain, peak / wav.abs().max())


def trim_silence(audio: np.ndarray, sr: int, threshold_db: float = -40.0, keep: float = 0.1) -> np.ndarray:
    """Cut silence off both ends of float32 (samples,), all but `keep` seconds.

    Silence is 10 ms frames that lie below `threshold_db` relative to the loudest one.
    """
    frame = sr // 100
    count = len(audio) // frame
    if count == 0:
        return audio
    energy = np.square(audio[: count * frame]).reshape(count, frame).mean(axis=1)
    loud = np.flatnonzero(energy >= energy.max() * 10 ** (threshold_db / 10))
    margin = round(keep * sr)
    start = max(0, loud[0] * frame - margin)
    stop = (loud[-1] + 1) * frame + margin
    return audio[start:stop]
