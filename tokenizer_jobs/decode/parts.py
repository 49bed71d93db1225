"""One item on its way through a pass over its recording: it takes its samples out of the blocks, and ends."""

from collections import deque
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode.channels import ChannelMix, choose_rows
from tokenizer_jobs.decode.cuts import Span, span_of
from tokenizer_jobs.decode.readers import Reader
from tokenizer_jobs.decode.rows import RowMaker
from tokenizer_jobs.decode.target import AudioTarget
from tokenizer_jobs.decode.waveform import check_samples
from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Decoded, Item, RejectedItem

__all__ = ["ItemPart", "rejected"]


def rejected(position: int, error: ItemError) -> RejectedItem:
    """The reject that an error makes of an item."""
    return RejectedItem(position=position, stage=error.stage, reason=error.reason, message=error.message)


class ItemPart:
    """One item on its way; what is decoded of it waits to be taken in order.

    Args:
        position: Of the item in its unit.
        item: The item.
        index: Its place among the items of the pass.
        reader: Of the recording.
        target: What waveforms are made into.
        overlap_frames: How many samples behind its end must be there for its own to be trusted.
    """

    def __init__(
        self, position: int, item: Item, *, index: int, reader: Reader, target: AudioTarget, overlap_frames: int
    ) -> None:
        self.item, self.index = item, index
        self.is_finished = False
        self.mixes: tuple[ChannelMix, ...] = ()
        self.span = Span(first=0, stop=None, promised_stop=None, least_stop=None)
        self._position, self._reader, self._target = position, reader, target
        self._overlap_frames = overlap_frames
        self._maker: RowMaker | None = None
        self._num_frames = 0
        self._ready: deque[Decoded] = deque()
        try:
            self.span = span_of(item, sample_rate=reader.sample_rate)
            self.mixes = choose_rows(
                source_channels=reader.channels,
                codec_channels=target.channels,
                policy=target.channel_policy,
                channel=item.channel,
            )
        except ItemError as error:
            self.reject(error)

    @property
    def settled_at(self) -> int | None:
        """Sample of the recording from which on the item is known to be whole; None: the end."""
        return None if self.span.stop is None else self.span.stop + self._overlap_frames

    @property
    def num_bytes(self) -> int:
        """Memory that it holds."""
        waiting = sum(0 if isinstance(each, RejectedItem) else each.waveform.nbytes for each in self._ready)
        return waiting + (0 if self._maker is None else self._maker.num_bytes)

    def take_ready(self) -> Iterator[Decoded]:
        """What is decoded of it and was not taken before."""
        if self._maker is not None:
            yield from self._maker.pieces()
        while self._ready:
            yield self._ready.popleft()

    def take(self, block: npt.NDArray[np.generic], *, at: int) -> None:
        """Take the item's samples out of a block [n, c] of the recording that begins at sample `at`."""
        end = at + len(block)
        first, stop = max(at, self.span.first), end if self.span.stop is None else min(end, self.span.stop)
        try:
            if first < stop:
                self._append(block if (first, stop) == (at, end) else block[first - at : stop - at])
            if self.settled_at is not None and end >= self.settled_at:
                self._finish(truncated=False)
        except ItemError as error:
            self.reject(error)

    def end(self, num_frames: int, *, why_short: str | None, damage: str | None) -> None:
        """Say what becomes of an item that the recording's end cuts.

        Args:
            num_frames: Samples per channel that the recording has.
            why_short: Why it must have had more; None: it is whole.
            damage: What is wrong with it besides; None: nothing.
        """
        span = self.span
        try:
            if damage is not None:
                raise _refusal(damage, RejectReason.CORRUPT)
            if why_short is not None:
                self._keep_or_raise(why_short)
            elif num_frames <= span.first and self.item.start_seconds is not None:
                raise _refusal(
                    f"the cut begins at {span.first / self._reader.sample_rate:g} s, the recording ends at "
                    f"{num_frames / self._reader.sample_rate:g} s",
                    RejectReason.OUTSIDE,
                )
            elif span.promised_stop is not None and span.least_stop is not None and num_frames < span.least_stop:
                self._keep_or_raise(
                    f"the recording ends at {num_frames / self._reader.sample_rate:.3f} s, its manifest promises "
                    f"{span.promised_stop / self._reader.sample_rate:.3f} s"
                )
            else:
                self._finish(truncated=False)
        except ItemError as error:
            self.reject(error)

    def fail(self, error: ItemError, *, lost_end: str | None) -> None:
        """Say what becomes of an item in which the decoder failed.

        Args:
            error: Its complaint.
            lost_end: Why it is the lost end of the input that it complains of, all before being whole; None: it is
                damage.
        """
        try:
            if lost_end is None:
                raise error
            self._keep_or_raise(f"{lost_end}; {error.message}")
        except ItemError as fault:
            self.reject(fault)

    def reject(self, error: ItemError) -> None:
        """End the item as a reject."""
        self._ready.clear()
        self._ready.append(rejected(self._position, error))
        self._maker, self.is_finished = None, True

    def begin(self, dtype: type[np.generic]) -> None:
        """Make ready for blocks of a type."""
        start = self.item.start_seconds or 0.0
        self._maker = RowMaker(
            self._position,
            self.mixes,
            reader=self._reader,
            dtype=dtype,
            first_sample=round(start * self._target.sample_rate),
            target=self._target,
            by_channel=self._target.channel_policy == "each" and self.item.channel is None,
        )

    def _append(self, block: npt.NDArray[np.generic]) -> None:
        assert self._maker is not None, "begin comes first"
        check_samples(block)
        self._num_frames += len(block)
        limit = self._target.max_seconds
        if limit is not None and self._num_frames > limit * self._reader.sample_rate:
            raise ItemError(
                f"longer than selection.filters.max_seconds = {limit:g}",
                stage=Stage.FILTER,
                reason=RejectReason.TOO_LONG,
            )
        self._maker.append(block)

    def _keep_or_raise(self, why: str) -> None:
        if self._target.on_truncated == "reject":
            raise _refusal(why, RejectReason.TRUNCATED)
        if self._num_frames == 0:
            raise _refusal(f"nothing is left of the audio: {why}", RejectReason.TRUNCATED)
        self._finish(truncated=True)

    def _finish(self, *, truncated: bool) -> None:
        seconds, limit = self._num_frames / self._reader.sample_rate, self._target.min_seconds
        if limit is not None and seconds < limit:
            raise ItemError(
                f"{seconds:.3f} s, shorter than selection.filters.min_seconds = {limit:g}",
                stage=Stage.FILTER,
                reason=RejectReason.TOO_SHORT,
            )
        if self._maker is None:
            raise _refusal("no samples inside", RejectReason.EMPTY)
        self._ready.extend(self._maker.finish(truncated=truncated))
        self._maker, self.is_finished = None, True


def _refusal(message: str, reason: RejectReason) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=reason)
