"""WAV files of 16-bit or 32-bit float samples.

The float kind keeps every bit of a float32 signal. The standard `wave` module can neither write nor read
it, so the few header fields are packed here.
"""

import struct
from typing import BinaryIO

import numpy as np

PCM, FLOAT = 1, 3  # WAV format tags
SAMPLE_TYPES = {(PCM, 16): np.dtype("<i2"), (FLOAT, 32): np.dtype("<f4")}
INT16_SCALE = 32768


def write_wav(file: BinaryIO, audio: np.ndarray, sample_rate: int, bits: int = 32) -> None:
    """Write `audio`, float32 (channels, samples) in [-1, 1], as 32-bit float or 16-bit integer samples."""
    tag = FLOAT if bits == 32 else PCM
    sample_type = SAMPLE_TYPES[tag, bits]
    channels = audio.shape[0]
    if tag == PCM:
        audio = np.clip(np.rint(audio * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1)
    data = audio.T.astype(sample_type).tobytes()
    frame_bytes = channels * sample_type.itemsize
    layout = struct.pack("<HHIIHH", tag, channels, sample_rate, sample_rate * frame_bytes, frame_bytes, bits)
    body = b"WAVE" + _chunk(b"fmt ", layout) + _chunk(b"data", data)
    file.write(_chunk(b"RIFF", body))


def read_wav(file: BinaryIO) -> tuple[np.ndarray, int]:
    """Read a WAV file from its start: float32 (channels, samples) in [-1, 1], and the sample rate in Hz."""
    riff, _, wave = struct.unpack("<4sI4s", file.read(12))
    if (riff, wave) != (b"RIFF", b"WAVE"):
        raise ValueError("not a WAV file")
    chunks = {}
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        chunks[name] = file.read(size)
        file.read(size % 2)
    tag, channels, sample_rate, _, _, bits = struct.unpack("<HHIIHH", chunks[b"fmt "][:16])
    if (tag, bits) not in SAMPLE_TYPES:
        raise ValueError(f"WAV format {tag} with {bits} bits is neither 16-bit PCM nor 32-bit float")
    audio = np.frombuffer(chunks[b"data"], SAMPLE_TYPES[tag, bits]).reshape(-1, channels).T
    audio = audio.astype(np.float32)
    return (audio / INT16_SCALE if tag == PCM else audio), sample_rate


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
