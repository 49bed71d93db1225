"""The level of a waveform, measured as it comes: the numbers do not depend on the pieces.

Legend: n samples, C channels.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.records import FULL_SCALE_INT16

__all__ = ["Level", "LevelMeter"]

SILENCE_DB = -60.0
BLOCK_SECONDS = 0.02
CLIPPED = np.float32(32767 / FULL_SCALE_INT16)
"""The largest sample that 16 bits hold: what counts as full scale."""
_MEASURED_AT_ONCE = 1 << 16
"""Samples; more of them leave a core's cache, fewer cost calls."""
_SILENT_POWER = 10 ** (SILENCE_DB / 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Level of a waveform; the fields are those of `AudioFacts`."""

    rms_db: float
    peak: float
    clipped_fraction: float
    silent_fraction: float


class LevelMeter:
    """Measures a waveform piece by piece, without a second copy of it.

    `silent_fraction` is the share of 20 ms blocks, the last one as short as it comes, whose root mean square over all
    channels is below -60 dB. Energies are added block after block, so that pieces give the bits of the whole.

    Args:
        sample_rate: In Hz.
    """

    def __init__(self, *, sample_rate: int) -> None:
        self._block = max(1, round(sample_rate * BLOCK_SECONDS))
        self._rest = np.empty(0)
        self._channels, self._num_samples = 1, 0
        self._peak, self._num_clipped, self._num_silent, self._energy = 0.0, 0, 0, 0.0

    def push(self, waveform: npt.NDArray[np.generic]) -> None:
        """Take the next piece [C, n], float32 or int16."""
        self._channels, num_samples = waveform.shape
        part = max(1, _MEASURED_AT_ONCE // self._block) * self._block
        for start in range(0, num_samples, part):
            self._measure(waveform[:, start : start + part].astype(np.float32), is_int16=waveform.dtype == np.int16)
        self._num_samples += num_samples

    def level(self) -> Level:
        """The level of all pieces so far, at least one sample."""
        num_values, energy, num_silent = self._channels * self._num_samples, self._energy, self._num_silent
        if len(self._rest):
            power = float(self._rest.sum())
            energy += power
            num_silent += power / (len(self._rest) * self._channels) < _SILENT_POWER
        mean_square = energy / num_values
        return Level(
            rms_db=10 * math.log10(mean_square) if mean_square > 0 else -math.inf,
            peak=self._peak,
            clipped_fraction=self._num_clipped / num_values,
            silent_fraction=num_silent / -(-self._num_samples // self._block),
        )

    def _measure(self, samples: npt.NDArray[np.float32], *, is_int16: bool) -> None:
        if is_int16:
            samples /= np.float32(FULL_SCALE_INT16)
        peak = max(float(samples.max()), -float(samples.min()))
        self._peak = max(self._peak, peak)
        if peak >= CLIPPED:
            self._num_clipped += int(np.count_nonzero(np.abs(samples) >= CLIPPED))
        squares = np.square(samples, dtype=np.float64)
        squares = squares[0] if len(squares) == 1 else squares.sum(axis=0)
        if len(self._rest):
            squares = np.concatenate([self._rest, squares])
        whole = len(squares) // self._block * self._block
        self._rest = squares[whole:].copy()
        if whole:
            powers = squares[:whole].reshape(-1, self._block).sum(axis=1)
            self._num_silent += int(np.count_nonzero(powers / (self._block * len(samples)) < _SILENT_POWER))
            powers[0] += self._energy
            self._energy = float(np.add.accumulate(powers)[-1])
