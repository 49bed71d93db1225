"""From the samples of one item to its rows: whole waveforms, or stretches of one that is too long to be held.

Legend: n samples, C channels of the codec, c channels of the source.

    a whole item     ├──────────────┤                     one `DecodedItem`
    a long one       ├─────┼─────┼──┤                     stretches of 30 s, facts with the last
    slices, exact    ├─────┼──┤─────┼──┤─────┤            stretches that end with their slice, facts with its last
    slices, restart  ├────────┤────────┤─────┤            a `DecodedItem` for each slice

Where channels are rows, each piece comes once for every channel, in the channels' order, before the next piece.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode.channels import ChannelMix
from tokenizer_jobs.decode.levels import Level, LevelMeter
from tokenizer_jobs.decode.readers import Reader
from tokenizer_jobs.decode.resample import make_resampler
from tokenizer_jobs.decode.target import AudioTarget
from tokenizer_jobs.decode.waveform import WaveformBuilder
from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import AudioFacts, DecodedItem, DecodedStretch, RowPlace

__all__ = ["LONG_WAVEFORM_BYTES", "STRETCH_SECONDS", "RowMaker"]

LONG_WAVEFORM_BYTES = 64 * 1024 * 1024
"""Of one item as float32 at the codec's rate, all rows together: what is longer comes in stretches."""
STRETCH_SECONDS = 30.0
_JUDGED = ("silent_fraction", "clipped_fraction")


class _Row:
    """One channel of an item, or its mix."""

    def __init__(self, mix: ChannelMix, *, channel: int | None, builder: WaveformBuilder, target: AudioTarget) -> None:
        self.channel = channel
        self.mixed_channel = mix.channel
        self.builder = builder
        self.meter = LevelMeter(sample_rate=target.sample_rate)
        judged = target.max_silent_fraction is not None or target.max_clipped_fraction is not None
        # With slices the row's level is the slice's, and the whole item is judged.
        self.whole_meter = LevelMeter(sample_rate=target.sample_rate) if judged and target.slice_samples else None

    def measure(self, waveform: npt.NDArray[np.generic]) -> None:
        self.meter.push(waveform)
        if self.whole_meter is not None:
            self.whole_meter.push(waveform)

    @property
    def level(self) -> Level:
        """Of the whole channel."""
        return (self.whole_meter or self.meter).level()


class RowMaker:
    """Makes one item's rows, in bounded memory where the codec takes stretches or the item is sliced.

    A piece is given out once a later sample is known, so that the last one can say that it is; which samples a piece
    holds depends on the item and the target alone.

    Args:
        position: Of the item in its unit.
        mixes: One for each row.
        reader: Of the recording.
        dtype: Of the blocks that will come.
        first_sample: Where the item begins in its recording, at the codec's rate.
        target: What waveforms are made into.
        by_channel: Whether each channel of the source is a row.
    """

    def __init__(
        self,
        position: int,
        mixes: Sequence[ChannelMix],
        *,
        reader: Reader,
        dtype: type[np.generic],
        first_sample: int,
        target: AudioTarget,
        by_channel: bool,
    ) -> None:
        self._position, self._reader, self._target = position, reader, target
        self._rows = [
            _Row(
                mix,
                channel=mix.channel if by_channel else None,
                builder=_builder(mix, reader=reader, dtype=dtype, target=target),
                target=target,
            )
            for mix in mixes
        ]
        self._restarts = target.long_audio == "restart" and target.slice_samples is not None
        longest = max(1, LONG_WAVEFORM_BYTES // (4 * target.channels * len(mixes)))
        self._stretch_samples = min(longest, round(STRETCH_SECONDS * target.sample_rate))
        self._whole_samples = _whole_samples(target, longest=longest, restarts=self._restarts)
        self._in_pieces = False
        self._first_sample = first_sample
        self._slice_index = 0
        self._row_samples = 0  # given out of the row that the next piece belongs to

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        return sum(row.builder.num_bytes for row in self._rows)

    def append(self, block: npt.NDArray[np.generic]) -> None:
        """Take the next block [n, c] of the item."""
        for row in self._rows:
            row.builder.append(block)

    def pieces(self) -> Iterator[DecodedItem | DecodedStretch]:
        """The pieces so far that are complete and not the last, each made when it is asked for."""
        if self._whole_samples is None:
            return
        collected = self._rows[0].builder
        if not self._in_pieces and collected.num_samples <= self._whole_samples:
            return
        self._in_pieces = True
        while collected.num_samples > (num_samples := self._next_samples()):
            ends_row = self._row_samples + num_samples == self._target.slice_samples
            for row in self._rows:
                yield self._piece(row, row.builder.take(num_samples), ends_row=ends_row)
            self._row_samples += num_samples
            if ends_row:
                self._begin_slice()

    def finish(self, *, truncated: bool) -> list[DecodedItem | DecodedStretch]:
        """The pieces that are left; the last one ends the item.

        Args:
            truncated: Of the last row of each channel, where the item has slices: the others are whole.

        Raises:
            ItemError: nothing inside, or too much silence or clipping.
        """
        for row in self._rows:
            row.builder.flush()
        if not self._in_pieces and self._rows[0].builder.num_samples == 0:
            if truncated:
                raise ItemError("nothing is left of the audio", stage=Stage.DECODE, reason=RejectReason.TRUNCATED)
            raise ItemError("no samples inside", stage=Stage.DECODE, reason=RejectReason.EMPTY)
        pieces = list(self.pieces())
        for row in self._rows:
            waveform = row.builder.take(row.builder.num_samples) if self._in_pieces else row.builder.take_all()
            pieces.append(self._piece(row, waveform, ends_row=True, is_last=row is self._rows[-1], truncated=truncated))
        self._refuse_levels()
        return pieces

    def _next_samples(self) -> int:
        if self._target.slice_samples is None:
            return self._stretch_samples
        left = self._target.slice_samples - self._row_samples
        return left if self._restarts else min(left, self._stretch_samples)

    def _begin_slice(self) -> None:
        self._slice_index, self._row_samples = self._slice_index + 1, 0
        for row in self._rows:
            row.meter = LevelMeter(sample_rate=self._target.sample_rate)

    def _piece(
        self,
        row: _Row,
        waveform: npt.NDArray[np.generic],
        *,
        ends_row: bool,
        is_last: bool = False,
        truncated: bool = False,
    ) -> DecodedItem | DecodedStretch:
        row.measure(waveform)
        place = RowPlace(
            channel=row.channel,
            slice_index=self._slice_index,
            start_sample=self._first_sample + self._slice_index * (self._target.slice_samples or 0),
        )
        facts = self._facts(row, self._row_samples + waveform.shape[1], truncated=truncated) if ends_row else None
        if facts is not None and (self._restarts or not self._in_pieces):
            return DecodedItem(
                position=self._position,
                waveform=waveform,  # type: ignore[arg-type]  # float32 or int16
                facts=facts,
                place=place,
                is_last=is_last,
            )
        return DecodedStretch(
            position=self._position,
            waveform=waveform,  # type: ignore[arg-type]  # float32 or int16
            place=place,
            facts=facts,
            is_last=is_last,
        )

    def _facts(self, row: _Row, num_samples: int, *, truncated: bool) -> AudioFacts:
        level = row.meter.level()
        return AudioFacts(
            num_samples=num_samples,
            sample_rate=self._target.sample_rate,
            source_sample_rate=self._reader.sample_rate,
            source_channels=self._reader.channels,
            source_format=self._reader.source_format,
            channel=row.mixed_channel,
            rms_db=level.rms_db,
            peak=level.peak,
            clipped_fraction=level.clipped_fraction,
            silent_fraction=level.silent_fraction,
            truncated=truncated,
        )

    def _refuse_levels(self) -> None:
        """Refuse the item where each of its channels is too silent, or each too clipped."""
        target = self._target
        if target.max_silent_fraction is None and target.max_clipped_fraction is None:
            return
        levels = [row.level for row in self._rows]
        silent, clipped = (min(getattr(level, name) for level in levels) for name in _JUDGED)
        every = "every channel is " if len(levels) > 1 else ""
        if target.max_silent_fraction is not None and silent > target.max_silent_fraction:
            raise ItemError(
                f"{every}silent in {silent:.4g} of it, above selection.filters.max_silent_fraction = "
                f"{target.max_silent_fraction:g}",
                stage=Stage.FILTER,
                reason=RejectReason.SILENT,
            )
        if target.max_clipped_fraction is not None and clipped > target.max_clipped_fraction:
            raise ItemError(
                f"{every}clipped in {clipped:.4g} of its samples, above selection.filters.max_clipped_fraction = "
                f"{target.max_clipped_fraction:g}",
                stage=Stage.FILTER,
                reason=RejectReason.CLIPPED,
            )


def _builder(mix: ChannelMix, *, reader: Reader, dtype: type[np.generic], target: AudioTarget) -> WaveformBuilder:
    channels = target.channels // mix.copies
    resampler = make_resampler(
        target.resampler, source_rate=reader.sample_rate, target_rate=target.sample_rate, channels=channels
    )
    return WaveformBuilder(mix, resampler, channels=channels, dtype=dtype)


def _whole_samples(target: AudioTarget, *, longest: int, restarts: bool) -> int | None:
    """The longest item that is given whole; None: any."""
    if restarts:
        return target.slice_samples
    if not target.streamed:
        return None
    return longest if target.slice_samples is None else min(longest, target.slice_samples)
