"""Streaming resamplers: whatever blocks the samples come in, the result is that of one call on the whole.

Legend: n samples, C channels, L taps of the kernel; a and b: the rates, divided by their greatest common divisor.
"""

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt
import soxr

__all__ = ["Passthrough", "ReferenceResampler", "Resampler", "SoxrResampler", "make_resampler", "resampled_length"]

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


def resampled_length(name: str, num_samples: int, *, source_rate: int, target_rate: int) -> int:
    """Length after resampling: soxr rounds half up, the reference rounds up."""
    if source_rate == target_rate:
        return num_samples
    if name == "reference":
        return -(-num_samples * target_rate // source_rate)
    return (2 * num_samples * target_rate + source_rate) // (2 * source_rate)


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


class ReferenceResampler:
    """The sinc-Hann interpolation (width 6, rolloff 0.99) that EnCodec's `convert_audio` applies.

    Output j = q·b + i stands at input time (q + i/b)·a. Every output is the product of the L inputs around that time
    with the taps of its phase i; only taps inside the window are kept, so odd pairs of rates stay cheap.
    """

    WIDTH = 6
    ROLLOFF = 0.99

    def __init__(self, *, source_rate: int, target_rate: int, channels: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self._a, self._b = source_rate // divisor, target_rate // divisor
        self._reach = math.ceil(self.WIDTH * self._a / (min(self._a, self._b) * self.ROLLOFF))
        self._taps = self._make_taps()
        self._kept = np.zeros((self._reach, channels), np.float32)
        self._kept_from = -self._reach  # input index of the first kept sample; silence lies before the first
        self._received = 0
        self._produced = 0

    def _make_taps(self) -> npt.NDArray[np.float32]:
        """Taps [b, L] of every phase, from input floor(i·a/b) - reach on."""
        phases = np.arange(self._b)[:, None]
        places = phases * self._a // self._b + np.arange(-self._reach, self._reach + 2)
        cutoff = min(self._a, self._b) * self.ROLLOFF
        time = (places / self._a - phases / self._b) * cutoff
        window = np.cos(np.clip(time, -self.WIDTH, self.WIDTH) * np.pi / self.WIDTH / 2) ** 2
        inside = np.abs(time) < self.WIDTH
        return np.asarray(np.sinc(time) * window * inside * (cutoff / self._a), np.float32)

    def push(self, block: Block) -> Block:
        """Resample [n, C] as far as the samples after each output are known."""
        self._received += len(block)
        self._kept = np.concatenate([self._kept, block.astype(np.float32, copy=False)])
        # The last output whose L inputs have all arrived: floor(j·a/b) + reach + 1 < received.
        ready = self._received - self._reach - 1
        return self._produce(max(self._produced, -(-ready * self._b // self._a) if ready > 0 else 0))

    def flush(self) -> Block:
        """The end, with silence after the last sample."""
        end = -(-self._received * self._b // self._a)
        self._kept = np.pad(self._kept, ((0, self._reach + 2), (0, 0)))
        return self._produce(end)

    def _produce(self, end: int) -> Block:
        outputs = np.arange(self._produced, end)
        first = outputs * self._a // self._b - self._reach
        places = (first - self._kept_from)[:, None] + np.arange(self._taps.shape[1])
        taps = self._taps[outputs % self._b]
        # einsum adds up each row by itself: a sum does not depend on how many outputs are made at once.
        resampled = np.stack(
            [np.einsum("ol,ol->o", channel[places], taps, optimize=False) for channel in self._kept.T], axis=1
        )
        self._produced = end
        needed_from = end * self._a // self._b - self._reach
        self._kept = self._kept[max(0, needed_from - self._kept_from) :].copy()
        self._kept_from = max(self._kept_from, needed_from)
        return resampled
