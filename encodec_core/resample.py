"""The resampler of EnCodec's own `convert_audio`, block by block.

Legend: n samples, C channels, L taps of the kernel; a and b: the rates, divided by their greatest common divisor.
"""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["ReferenceResampler", "convert_waveform"]

Block = npt.NDArray[np.generic]

BLOCK_SAMPLES = 2**16
"""Resampled at once; each takes L numbers meanwhile."""


def convert_waveform(
    waveform: npt.NDArray[np.float32], *, source_rate: int, target_rate: int, num_channels: int
) -> npt.NDArray[np.float32]:
    """Turn a recording into what a codec takes: channels first, then the rate, as EnCodec's `convert_audio`.

    Args:
        waveform: `[n, C]`, C 1 or 2.
        source_rate: in Hz.
        target_rate: in Hz.
        num_channels: 1: the mean of the channels; 2: a single channel is doubled.

    Returns:
        `[num_channels, n']`, n' = ceil(n * target_rate / source_rate).

    Raises:
        ValueError: more than 2 channels.
    """
    channels = waveform.shape[1]
    if channels not in (1, 2):
        raise ValueError(f"the audio has {channels} channels; expected 1 or 2: mix it to mono or stereo first")
    mixed = waveform.mean(axis=1, keepdims=True) if num_channels == 1 else waveform
    if source_rate != target_rate:
        resampler = ReferenceResampler(source_rate=source_rate, target_rate=target_rate, channels=mixed.shape[1])
        starts = range(0, len(mixed), BLOCK_SAMPLES)
        blocks = [resampler.push(mixed[start : start + BLOCK_SAMPLES]) for start in starts]
        mixed = np.concatenate([*blocks, resampler.flush()]).astype(np.float32, copy=False)
    return np.array(np.broadcast_to(mixed.T, (num_channels, len(mixed))), np.float32, order="C")


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
