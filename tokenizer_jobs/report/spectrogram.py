"""Pictures of sound as PNG files, made with numpy and zlib alone.

Letters: C channels, n samples, W window, F STFT frames, B bands.
"""

import math
import struct
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["band_levels", "height_of", "png_of_levels"]

WINDOW = 1024
BANDS = 96
MOST_FRAMES = 480
RANGE_DB = 80.0
_LOWEST_HZ = 40.0

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_PLACES = (0.0, 0.3, 0.55, 0.8, 1.0)
_COLOURS = ((13, 16, 36), (56, 34, 104), (160, 48, 100), (241, 130, 67), (252, 238, 190))
"""Dark to bright, so that it reads on light pages and on dark ones, and without colour too."""


def band_levels(waveform: Floats, *, sample_rate: int) -> npt.NDArray[np.float64]:
    """Levels in dB [B, F] of bands whose centres are even in mel, the lowest band first.

    Args:
        waveform: [C, n]; channels are averaged in power.
        sample_rate: In Hz.
    """
    num_samples = waveform.shape[1]
    hop = max(WINDOW // 4, -(-num_samples // MOST_FRAMES))
    padded = np.pad(waveform.astype(np.float64), ((0, 0), (WINDOW // 2, WINDOW // 2 + hop)))
    starts = np.arange(0, num_samples, hop)
    frames = padded[:, starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = (np.abs(np.fft.rfft(frames, axis=-1)) ** 2).mean(axis=0)
    low, high = _mel(_LOWEST_HZ), _mel(sample_rate / 2)
    centres = 700 * (10 ** (np.linspace(low, high, BANDS) / 2595) - 1)
    places = centres / (sample_rate / WINDOW)
    smooth = np.stack([np.interp(places, np.arange(power.shape[1]), frame) for frame in power], axis=1)
    levels: npt.NDArray[np.float64] = 10 * np.log10(smooth + 1e-12)
    return levels


def height_of(hertz: float, *, sample_rate: int) -> float:
    """Where a frequency is in a picture of levels: 0 at its lower edge, 1 at its upper one; outside where it is not."""
    low, high = _mel(_LOWEST_HZ), _mel(sample_rate / 2)
    return ((_mel(hertz) - low) / (high - low) * (BANDS - 1) + 0.5) / BANDS


def _mel(hertz: float) -> float:
    return 2595 * math.log10(1 + hertz / 700)


def png_of_levels(levels: Floats, *, loudest_db: float) -> bytes:
    """A PNG of levels [B, F], low bands at the bottom, `RANGE_DB` from black to bright.

    Args:
        levels: In dB.
        loudest_db: What is brightest; the same for pictures that are compared.
    """
    shares = np.clip((levels - loudest_db + RANGE_DB) / RANGE_DB, 0.0, 1.0)
    pixels = np.round(shares[::-1] * 63).astype(np.uint8)
    height, width = pixels.shape
    rows = np.concatenate([np.zeros((height, 1), dtype=np.uint8), pixels], axis=1)  # each row begins with its filter
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", _palette()), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks)


def _palette() -> bytes:
    channels = [np.interp(np.linspace(0, 1, 64), _PLACES, channel) for channel in np.array(_COLOURS).T]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8).tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
