"""The one function that the tokenizer needs of a `whisper` module, so that no package has to be there."""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from mel import mel_filterbank

SAMPLE_RATE = 16000
N_FFT = 400
HOP_LENGTH = 160


@cache
def mel_filters(device: torch.device, n_mels: int) -> torch.Tensor:
    """Mel filters on `device`, float32 (n_mels, 201)."""
    return mel_filterbank(n_mels, N_FFT, SAMPLE_RATE).to(device)


def log_mel_spectrogram(
    audio: np.ndarray | torch.Tensor,
    n_mels: int = 80,
    padding: int = 0,
    device: str | torch.device | None = None,
) -> torch.Tensor:
    """Log-mel spectrogram at 100 frames per second.

    audio: 16 kHz samples in [-1, 1], float32 (..., samples), more than 200 of them.
    padding: zero samples to add at the end.
    Returns float32 (..., n_mels, samples // 160): log10 power, cut off 8 below its maximum, as (x + 4) / 4.
    """
    audio = torch.as_tensor(audio, device=device)
    if padding:
        audio = F.pad(audio, (0, padding))
    window = torch.hann_window(N_FFT, device=audio.device)
    spectrum = torch.stft(audio, N_FFT, HOP_LENGTH, window=window, return_complex=True)
    power = spectrum[..., :-1].abs() ** 2
    mel = mel_filters(audio.device, n_mels) @ power
    log_mel = mel.clamp(min=1e-10).log10()
    return (torch.maximum(log_mel, log_mel.max() - 8) + 4) / 4
