"""Streaming resamplers: whatever blocks the samples come in, the result is that of one call on the whole.

Legend: n samples, C channels.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

from encodec_core.resample import ReferenceResampler

__all__ = ["Passthrough", "ReferenceResampler", "Resampler", "SoxrResampler", "make_resampler"]

Block = npt.NDArray[np.generic]


class Resampler(Protocol):
    """Turns blocks [n, C] at the source's rate into blocks at the codec's rate."""

    def push(self, block: Block) -> Block:
        """Take the next block; the result may be empty."""

    def flush(self) -> Block:
        """What is left; nothing may be pushed afterwards."""


def make_resampler(name: str, *, source_rate: int, target_rate: int, channels: int) -> Resampler:
    """Choose a resampler; equal rates pass through untouched.

    Args:
        name: `soxr_hq` or `reference`.
        source_rate: In Hz.
        target_rate: In Hz.
        channels: C, after mixing.
    """
    if source_rate == target_rate:
        return Passthrough(channels)
    if name == "reference":
        return ReferenceResampler(source_rate=source_rate, target_rate=target_rate, channels=channels)
    return SoxrResampler(source_rate=source_rate, target_rate=target_rate, channels=channels)


class Passthrough:
    """No change of rate; keeps int16."""

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def push(self, block: Block) -> Block:
        """The block itself."""
        return block

    def flush(self) -> Block:
        """Nothing."""
        return np.empty((0, self._channels), np.float32)


class SoxrResampler:
    """soxr HQ."""

    def __init__(self, *, source_rate: int, target_rate: int, channels: int) -> None:
        self._stream = soxr.ResampleStream(source_rate, target_rate, channels, dtype="float32", quality="HQ")
        self._channels = channels

    def push(self, block: Block) -> Block:
        """Resample [n, C]; the filter's delay comes out with `flush`."""
        return self._chunk(block, last=False)

    def flush(self) -> Block:
        """The delayed end."""
        return self._chunk(np.empty((0, self._channels), np.float32), last=True)

    def _chunk(self, block: Block, *, last: bool) -> Block:
        resampled: Block = self._stream.resample_chunk(np.ascontiguousarray(block, np.float32), last=last)
        return resampled.reshape(-1, self._channels)
