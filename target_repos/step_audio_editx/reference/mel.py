"""Triangular mel filters on the Slaney scale: linear below 1 kHz, logarithmic above."""

import numpy as np
import torch

KNEE_HZ, KNEE_MEL = 1000.0, 15.0
LOG_STEP = np.log(6.4) / 27


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    log_part = KNEE_MEL + np.log(np.maximum(hz, KNEE_HZ) / KNEE_HZ) / LOG_STEP
    return np.where(hz < KNEE_HZ, hz * KNEE_MEL / KNEE_HZ, log_part)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    log_part = KNEE_HZ * np.exp(LOG_STEP * (np.maximum(mel, KNEE_MEL) - KNEE_MEL))
    return np.where(mel < KNEE_MEL, mel * KNEE_HZ / KNEE_MEL, log_part)


def mel_filterbank(n_mels: int, n_fft: int, sample_rate: int) -> torch.Tensor:
    """Filters of unit area over 0 Hz to Nyquist, float32 (n_mels, n_fft // 2 + 1)."""
    bins = np.linspace(0, sample_rate / 2, n_fft // 2 + 1)
    edges = mel_to_hz(np.linspace(0, hz_to_mel(np.array(sample_rate / 2)), n_mels + 2))
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rise = (bins - low) / (centre - low)
    fall = (high - bins) / (high - centre)
    triangles = np.maximum(0, np.minimum(rise, fall))
    return torch.from_numpy(triangles * 2 / (high - low)).float()
