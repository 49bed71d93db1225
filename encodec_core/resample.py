"""The resampler of EnCodec's own `convert_audio`, block by block.

Legend: n samples, C channels, L taps of the kernel; a and b: the rates, divided by their greatest common divisor.
"""

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["ReferenceResampler", "convert_blocks"]

Block = npt.NDArray[np.generic]

SOURCE_RATES = range(1_000, 768_001)
"""In Hz. Recordings beyond are none; a damaged header that says 1 Hz asks for 24,000 samples where the file has one."""
MAX_PRODUCTS = 2**20
"""Outputs made at once times L: each takes 16 bytes meanwhile."""
MAX_TAPS = 2**24
"""b · L; 64 MiB. No two rates up to 1 MHz need more: b · L is below 12.2 a + 4 b, and below 16 b where a < b."""


def convert_blocks(
    blocks: Iterable[npt.NDArray[np.float32]],
    *,
    source_rate: int,
    target_rate: int,
    source_channels: int,
    num_channels: int,
) -> npt.NDArray[np.float32]:
    """Turn a recording into what a codec takes: channels first, then the rate, as EnCodec's `convert_audio`.

    Args:
        blocks: `[n, C]` each, in order; where the recording is cut does not change the result.
        source_rate: in Hz.
        target_rate: in Hz.
        source_channels: C, 1 or 2.
        num_channels: 1: the mean of the channels; 2: a single channel is doubled.

    Returns:
        `[num_channels, n']`, n' = ceil(samples of all blocks * target_rate / source_rate).

    Raises:
        ValueError: more than 2 channels, or a source rate that no recording has.
    """
    if source_channels not in (1, 2):
        raise ValueError(f"the audio has {source_channels} channels; expected 1 or 2: mix it to mono or stereo first")
    if source_rate not in SOURCE_RATES:
        raise ValueError(
            f"the audio has {source_rate} samples per second; expected {SOURCE_RATES.start} to {SOURCE_RATES[-1]}: "
            "its header is damaged, or resample it first"
        )
    mixed = (block.mean(axis=1, keepdims=True) if num_channels == 1 else block for block in blocks)
    channels = 1 if num_channels == 1 else source_channels
    made: list[Block] = [np.empty((0, channels), np.float32)]
    if source_rate == target_rate:
        made.extend(mixed)
    else:
        resampler = ReferenceResampler(source_rate=source_rate, target_rate=target_rate, channels=channels)
        made.extend(resampler.push(block) for block in mixed)
        made.append(resampler.flush())
    whole = np.concatenate(made)
    return np.array(np.broadcast_to(whole.T, (num_channels, len(whole))), np.float32, order="C")


class ReferenceResampler:
    """The sinc-Hann interpolation (width 6, rolloff 0.99) that EnCodec's `convert_audio` applies.

    Output j = q·b + i stands at input time (q + i/b)·a. Every output is the product of the L inputs around that time
    with the taps of its phase i; only taps inside the window are kept, so odd pairs of rates stay cheap.

    Args:
        source_rate: in Hz.
        target_rate: in Hz.
        channels: C.

    Raises:
        ValueError: the rates need more than `MAX_TAPS` taps.
    """

    WIDTH = 6
    ROLLOFF = 0.99

    def __init__(self, *, source_rate: int, target_rate: int, channels: int) -> None:
        divisor = math.gcd(source_rate, target_rate)
        self._a, self._b = source_rate // divisor, target_rate // divisor
        self._reach = math.ceil(self.WIDTH * self._a / (min(self._a, self._b) * self.ROLLOFF))
        num_taps = 2 * self._reach + 2
        if self._b * num_taps > MAX_TAPS:
            raise ValueError(
                f"resampling from {source_rate} to {target_rate} Hz needs {self._b * num_taps} taps; expected at most "
                f"{MAX_TAPS}: resample it in two steps, by way of a common rate"
            )
        rows = max(1, MAX_PRODUCTS // num_taps)
        self._taps = np.concatenate([self._taps_from(phase, rows) for phase in range(0, self._b, rows)])
        self._kept = np.zeros((self._reach, channels), np.float32)
        self._kept_from = -self._reach  # input index of the first kept sample; silence lies before the first
        self._received = 0
        self._produced = 0

    def _taps_from(self, phase: int, num_phases: int) -> npt.NDArray[np.float32]:
        """Taps [num_phases, L] of the phases from `phase` on, from input floor(i·a/b) - reach on."""
        phases = np.arange(phase, min(phase + num_phases, self._b))[:, None]
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
        resampled = np.empty((end - self._produced, self._kept.shape[1]), np.float32)
        num_taps = self._taps.shape[1]
        at_once = max(1, MAX_PRODUCTS // num_taps)
        for start in range(self._produced, end, at_once):
            outputs = np.arange(start, min(start + at_once, end))
            first = outputs * self._a // self._b - self._reach
            places = (first - self._kept_from)[:, None] + np.arange(num_taps)
            taps = self._taps[outputs % self._b]
            row = start - self._produced
            for channel, samples in enumerate(self._kept.T):
                # einsum adds up each row by itself: a sum does not depend on how many outputs are made at once.
                products = np.einsum("ol,ol->o", samples[places], taps, optimize=False)
                resampled[row : row + len(outputs), channel] = products
        self._produced = end
        needed_from = end * self._a // self._b - self._reach
        self._kept = self._kept[max(0, needed_from - self._kept_from) :].copy()
        self._kept_from = max(self._kept_from, needed_from)
        return resampled
