"""Audio files to tensors."""

from typing import BinaryIO

import torch

from wav_io import read_wav


def load_audio_text_image_video(
    data_or_path_or_list: BinaryIO | torch.Tensor | list, fs: int = 16000, audio_fs: int = 16000, **kwargs
) -> torch.Tensor | list:
    """Mono audio at `fs` Hz, float32 (samples,) in [-1, 1], of a WAV file or tensor; a list for a list."""
    if isinstance(data_or_path_or_list, list):
        return [load_audio_text_image_video(item, fs, audio_fs, **kwargs) for item in data_or_path_or_list]
    if isinstance(data_or_path_or_list, torch.Tensor):
        return data_or_path_or_list
    audio, audio_fs = read_wav(data_or_path_or_list)
    if audio_fs != fs:
        raise ValueError(f"audio at {audio_fs} Hz, expected {fs} Hz")
    return torch.from_numpy(audio.mean(axis=0))
