"""From blocks of a source to one waveform at the codec's rate, and its level, in memory close to the waveform's own.

Legend: n samples, C channels of the codec, c channels of the source.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode.channels import ChannelMix
from tokenizer_jobs.decode.resample import Resampler
from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import FULL_SCALE_INT16

__all__ = ["Level", "WaveformBuilder", "check_samples", "measure_level"]

LARGEST_PEAK = 4.0
SILENCE_DB = -60.0
BLOCK_SECONDS = 0.02
CLIPPED = np.float32(32767 / FULL_SCALE_INT16)
"""The largest sample that 16 bits hold: what counts as full scale."""
_MEASURED_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Level of a waveform; the fields are those of `AudioFacts`."""

    rms_db: float
    peak: float
    clipped_fraction: float
    silent_fraction: float


def check_samples(block: npt.NDArray[np.generic]) -> None:
    """Refuse samples that no recording holds.

    Raises:
        ItemError: NaN, infinity, or a magnitude beyond 4.
    """
    if block.dtype == np.int16 or block.size == 0:
        return
    peak = max(-float(block.min()), float(block.max()))
    if not math.isfinite(peak):
        raise ItemError("a sample is NaN or infinite", stage=Stage.DECODE, reason=RejectReason.NON_FINITE)
    if peak > LARGEST_PEAK:
        raise ItemError(
            f"a sample of magnitude {peak:.4g}, expected at most {LARGEST_PEAK:g} where full scale is 1",
            stage=Stage.DECODE,
            reason=RejectReason.ABSURD_PEAK,
        )


class WaveformBuilder:
    """Mixes, resamples and collects blocks.

    One array per channel grows by an eighth at a time; the C library moves large ones by remapping pages, so the peak
    stays near the waveform's own size, and no declared length is ever believed.
    """

    def __init__(self, mix: ChannelMix, resampler: Resampler, *, channels: int, dtype: type[np.generic]) -> None:
        self._mix = mix
        self._resampler = resampler
        self._columns = [np.empty(1 << 14, dtype) for _ in range(channels)]
        self._num_samples = 0

    def append(self, block: npt.NDArray[np.generic]) -> None:
        """Take the next block [n, c] of the source."""
        self._collect(self._resampler.push(self._mix.apply(block)))

    def finish(self) -> npt.NDArray[np.generic]:
        """The whole waveform [C, n]; the builder is used up."""
        self._collect(self._resampler.flush())
        for column in self._columns:
            column.resize(self._num_samples, refcheck=False)
        if len(self._columns) == 1:
            waveform = self._columns.pop()[None]
            return waveform if self._mix.copies == 1 else np.repeat(waveform, self._mix.copies, axis=0)
        waveform = np.empty((len(self._columns), self._num_samples), self._columns[0].dtype)
        for channel in reversed(range(len(waveform))):
            waveform[channel] = self._columns.pop()
        return waveform

    def _collect(self, block: npt.NDArray[np.generic]) -> None:
        end = self._num_samples + len(block)
        for channel, column in enumerate(self._columns):
            if end > len(column):
                column.resize(max(end, len(column) + len(column) // 8), refcheck=False)
            column[self._num_samples : end] = block[:, channel]
        self._num_samples = end


def measure_level(waveform: npt.NDArray[np.generic], *, sample_rate: int) -> Level:
    """Measure a waveform [C, n] in parts, so that no second copy of it is made.

    `silent_fraction` is the share of 20 ms blocks, the last one as short as it comes, whose root mean square over all
    channels is below -60 dB.
    """
    channels, num_samples = waveform.shape
    block = max(1, round(sample_rate * BLOCK_SECONDS))
    part = max(1, _MEASURED_AT_ONCE // block) * block
    peak, clipped, silent, energy = 0.0, 0, 0, 0.0
    for start in range(0, num_samples, part):
        samples = waveform[:, start : start + part].astype(np.float32)
        if waveform.dtype == np.int16:
            samples /= np.float32(FULL_SCALE_INT16)
        np.abs(samples, out=samples)
        peak = max(peak, float(samples.max()))
        if peak >= CLIPPED:
            clipped += int(np.count_nonzero(samples >= CLIPPED))
        squares = np.square(samples, dtype=np.float64)
        squares = squares[0] if channels == 1 else squares.sum(axis=0)
        starts = np.arange(0, len(squares), block)
        sums = np.add.reduceat(squares, starts)
        lengths = np.diff(starts, append=len(squares))
        silent += int(np.count_nonzero(sums / (lengths * channels) < 10 ** (SILENCE_DB / 10)))
        energy += float(sums.sum())
    mean_square = energy / (channels * num_samples)
    return Level(
        rms_db=10 * math.log10(mean_square) if mean_square > 0 else -math.inf,
        peak=peak,
        clipped_fraction=clipped / (channels * num_samples),
        silent_fraction=silent / -(-num_samples // block),
    )
