"""Speech-like test audio: voiced sounds with a pitch glide, noise bursts and pauses."""

import numpy as np
import torch

SAMPLE_RATE = 16000
NOISE_FLOOR = 1e-4  # as of a microphone: keeps pauses from being exactly constant


def synthetic_speech(seconds: float, seed: int = 0) -> torch.Tensor:
    """Audio at 16 kHz in [-1, 1], float32 (1, round(seconds * 16000)); the same for the same arguments."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * SAMPLE_RATE)
    audio = NOISE_FLOOR * rng.standard_normal(samples)
    start = 0
    while start < samples:
        kind = rng.choice(["voiced", "noise", "pause"], p=[0.6, 0.25, 0.15])
        sound = {"voiced": _voiced, "noise": _noise, "pause": _pause}[kind](rng)
        sound = sound[: samples - start]
        audio[start : start + len(sound)] += sound
        start += len(sound)
    return torch.from_numpy(audio.clip(-1, 1)).float()[None]


def _voiced(rng: np.random.Generator) -> np.ndarray:
    """120 to 400 ms of harmonics below 4 kHz, loudest near three formants."""
    length = int(rng.uniform(0.12, 0.4) * SAMPLE_RATE)
    pitch = np.geomspace(rng.uniform(90, 260), rng.uniform(90, 260), length)  # Hz
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    formants = np.array([rng.uniform(250, 900), rng.uniform(900, 2300), rng.uniform(2300, 3500)])
    harmonics = np.arange(1, 4000 // pitch.max() + 1)
    distance = (harmonics[:, None] * pitch.mean() - formants) / 150
    gains = (1 / (1 + distance**2) * [1.0, 0.5, 0.25]).sum(axis=1) + 0.01
    waves = np.zeros(length)
    for harmonic, gain in zip(harmonics, gains):
        waves += gain * np.sin(harmonic * phase)
    return 0.5 * rng.uniform(0.3, 1) * waves / np.abs(waves).max() * np.hanning(length) ** 0.5


def _noise(rng: np.random.Generator) -> np.ndarray:
    """40 to 140 ms of noise in one band."""
    length = int(rng.uniform(0.04, 0.14) * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(length))
    hz = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    spectrum *= np.exp(-(((hz - rng.uniform(1500, 6500)) / 1200) ** 2))
    noise = np.fft.irfft(spectrum, length)
    return 0.2 * rng.uniform(0.3, 1) * noise / np.abs(noise).max() * np.hanning(length)


def _pause(rng: np.random.Generator) -> np.ndarray:
    """60 to 250 ms of nothing."""
    return np.zeros(int(rng.uniform(0.06, 0.25) * SAMPLE_RATE))
