"""From blocks of a source to a waveform at the codec's rate, in memory close to the waveform's own.

Legend: n samples, C channels of the codec, c channels of the source.
"""

import math

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode.channels import ChannelMix
from tokenizer_jobs.decode.resample import Resampler
from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["WaveformBuilder", "check_samples"]

LARGEST_PEAK = 4.0


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
    """Mixes, resamples and collects blocks; what is collected is taken from its beginning, or whole.

    One array per channel grows by an eighth at a time; the C library moves large ones by remapping pages, so the peak
    stays near the waveform's own size, and no declared length is ever believed.
    """

    def __init__(self, mix: ChannelMix, resampler: Resampler, *, channels: int, dtype: type[np.generic]) -> None:
        self._mix = mix
        self._resampler = resampler
        self._columns = [np.empty(1 << 14, dtype) for _ in range(channels)]
        self._begin = self._end = 0

    @property
    def num_samples(self) -> int:
        """Samples per channel that are collected."""
        return self._end - self._begin

    @property
    def num_bytes(self) -> int:
        """Memory of what is collected and of the room for more."""
        return sum(column.nbytes for column in self._columns)

    def append(self, block: npt.NDArray[np.generic]) -> None:
        """Take the next block [n, c] of the source."""
        self._collect(self._resampler.push(self._mix.apply(block)))

    def flush(self) -> None:
        """Collect what the resampler still holds; nothing may be appended afterwards."""
        self._collect(self._resampler.flush())

    def take(self, num_samples: int) -> npt.NDArray[np.generic]:
        """Remove the first samples [C, n] of those that are collected."""
        end = self._begin + num_samples
        waveform = np.stack([column[self._begin : end] for column in self._columns])
        self._begin = end
        return self._copied(waveform)

    def take_all(self) -> npt.NDArray[np.generic]:
        """The whole waveform [C, n], of which nothing was taken before; the builder is used up."""
        for column in self._columns:
            column.resize(self._end, refcheck=False)
        if len(self._columns) == 1:
            return self._copied(self._columns.pop()[None])
        waveform = np.empty((len(self._columns), self._end), self._columns[0].dtype)
        for channel in reversed(range(len(waveform))):
            waveform[channel] = self._columns.pop()
        return waveform

    def _copied(self, waveform: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return waveform if self._mix.copies == 1 else np.repeat(waveform, self._mix.copies, axis=0)

    def _collect(self, block: npt.NDArray[np.generic]) -> None:
        if self._begin and self._end + len(block) > len(self._columns[0]):
            for column in self._columns:
                column[: self.num_samples] = column[self._begin : self._end].copy()
            self._begin, self._end = 0, self.num_samples
        end = self._end + len(block)
        for channel, column in enumerate(self._columns):
            if end > len(column):
                column.resize(max(end, len(column) + len(column) // 8), refcheck=False)
            column[self._end : end] = block[:, channel]
        self._end = end
