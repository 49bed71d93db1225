"""One way through a recording: its blocks go to the items that they belong to, which come out in their order."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode.cuts import OVERLAP_FRAMES, is_cut
from tokenizer_jobs.decode.flac import ends_with_whole_frame
from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes
from tokenizer_jobs.decode.parts import ItemPart
from tokenizer_jobs.decode.readers import BLOCK_VALUES, Reader, open_reader
from tokenizer_jobs.decode.sniff import AudioKind, Sniffed
from tokenizer_jobs.decode.target import AudioTarget
from tokenizer_jobs.decode.verdicts import refuse_cut, refuse_damage, refuse_facts, truncated_item, why_short
from tokenizer_jobs.errors import ItemError, RejectReason
from tokenizer_jobs.records import Decoded, Item

__all__ = ["Effort", "Numbered", "Pass", "Recording"]

SALVAGE_VALUES = 1 << 12
"""Smaller blocks where audio before a fault is kept: a decoder that fails gives nothing of the block it failed in."""
SKIPPED_SECONDS = 10.0
"""Shortest gap that is worth seeking over."""
WAITING_BYTES = 256 * 1024 * 1024
"""What may wait behind the item in front before later ones are put off to another pass."""
_LOSSLESS_KINDS = frozenset(
    {AudioKind.WAV, AudioKind.W64, AudioKind.AIFF, AudioKind.AU, AudioKind.CAF, AudioKind.NIST, AudioKind.FLAC}
)

Numbered = tuple[int, Item]
"""An item and its position in the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """An opened recording, and what its bytes say before they are decoded."""

    data: InputBytes
    sniffed: Sniffed
    inspection: Inspection


class Effort(IntEnum):
    """How items are decoded, from the usual way to the last one."""

    TOGETHER = 0
    ALONE = 1
    """Each in a pass of its own, from its own beginning."""
    FROM_START = 2
    """From the beginning of the recording; what fails now is a reject."""


class Pass:
    """One way through a recording, for the items that come next.

    Args:
        items: Positions and items.
        recording: That they are parts of.
        target: What they are made into.
        effort: How.
    """

    def __init__(self, items: Sequence[Numbered], recording: Recording, *, target: AudioTarget, effort: Effort) -> None:
        self._items, self._recording, self._target, self._effort = items, recording, target, effort
        self._fails_at_last = effort is Effort.FROM_START or not any(is_cut(item) for _, item in items)
        self._parts: list[ItemPart] = []
        self._pending: deque[ItemPart] = deque()
        self._active: list[ItemPart] = []
        self._begun: list[ItemPart] = []
        self._num_frames: int | None = None
        self.num_ended = 0
        """Items at the front that came to their end."""
        self.has_failed = False
        """Whether the decoder failed and the items that are left are to be tried another way."""
        self.can_seek = False

    def decoded(self) -> Iterator[Decoded]:
        """Decode the items, in their order; some at the end may be left for another pass.

        Raises:
            ItemError: about the recording as a whole.
        """
        try:
            with open_reader(self._recording.data, self._recording.sniffed, self._recording.inspection) as reader:
                refuse_facts(reader, self._target)
                self.can_seek = reader.can_seek
                self._prepare(reader)
                yield from self._drain()
                try:
                    for at, block in self._blocks(reader):
                        self._give(at, block)
                        yield from self._drain()
                        self._put_off()
                    self._end(reader)
                except ItemError as error:
                    self._fail(error)
                yield from self._drain()
        except ItemError as error:
            truncation = self._recording.inspection.truncation
            if truncation is None or error.reason not in (RejectReason.CORRUPT, RejectReason.EMPTY):
                raise
            raise truncated_item(f"{truncation}; {error.message}") from error

    def _prepare(self, reader: Reader) -> None:
        seen, is_lossless = self._recording.inspection, self._recording.sniffed.kind in _LOSSLESS_KINDS
        is_broken = seen.truncation is not None or seen.damage is not None
        overlap_frames = OVERLAP_FRAMES if is_broken and not is_lossless else 0
        for index, (position, item) in enumerate(self._items):
            part = ItemPart(
                position, item, index=index, reader=reader, target=self._target, overlap_frames=overlap_frames
            )
            self._parts.append(part)
            if part.is_finished:
                continue
            try:
                if is_cut(item):
                    refuse_cut(part, seen, reader)
                else:
                    refuse_damage(seen, self._target)
            except ItemError as error:
                part.reject(error)
        self._pending.extend(
            sorted((part for part in self._parts if not part.is_finished), key=lambda part: part.span.first)
        )
        is_exact = reader.is_pcm16 and reader.sample_rate == self._target.sample_rate
        # 16 bits lose nothing where no sample is computed; they halve what travels between processes.
        stays_int16 = is_exact and not any(mix.mean for part in self._pending for mix in part.mixes)
        self._dtype: type[np.generic] = np.int16 if stays_int16 else np.float32

    def _blocks(self, reader: Reader) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
        """Blocks of the recording and where they begin, as long as an item needs them."""
        keeps = self._target.on_truncated == "keep" or self._effort is not Effort.TOGETHER
        block_values = SALVAGE_VALUES if keeps else BLOCK_VALUES
        skips = reader.can_seek and self._effort is not Effort.FROM_START
        least_gap = 0 if self._effort is Effort.ALONE else SKIPPED_SECONDS * reader.sample_rate
        at = 0
        while (needed := self._next_needed(at)) is not None:
            if skips and needed - at > least_gap:
                at = min(needed, reader.num_frames or 0)
            for block in reader.blocks(self._dtype, block_values=block_values, first_frame=at):
                yield at, block
                at += len(block)
                needed = self._next_needed(at)
                if needed is None or (skips and needed - at > least_gap):
                    break
            else:
                self._num_frames = at
                return

    def _next_needed(self, at: int) -> int | None:
        if self._active:
            return at
        return max(at, self._pending[0].span.first) if self._pending else None

    def _give(self, at: int, block: npt.NDArray[np.generic]) -> None:
        while self._pending and self._pending[0].span.first < at + len(block):
            part = self._pending.popleft()
            part.begin(self._dtype)
            self._active.append(part)
            self._begun.append(part)
        for part in self._active:
            part.take(block, at=at)
        self._active = [part for part in self._active if not part.is_finished]

    def _drain(self) -> Iterator[Decoded]:
        while self.num_ended < len(self._parts):
            front = self._parts[self.num_ended]
            if not front.is_finished:
                yield from front.take_ready()
                return
            self.num_ended += 1
            yield from front.take_ready()

    def _put_off(self) -> None:
        """Leave later items to another pass where too much waits behind the one in front."""
        self._begun = [part for part in self._begun if part.index >= self.num_ended]
        waiting = sorted((part for part in self._begun if part.index > self.num_ended), key=lambda part: part.index)
        num_bytes = sum(part.num_bytes for part in waiting)
        while waiting and num_bytes > WAITING_BYTES:
            last = waiting.pop()
            num_bytes -= last.num_bytes
            del self._parts[last.index :]
            self._pending = deque(part for part in self._pending if part.index < last.index)
            self._active = [part for part in self._active if part.index < last.index]
            self._begun = [part for part in self._begun if part.index < last.index]

    def _end(self, reader: Reader) -> None:
        if self._num_frames is None:
            return
        seen = self._recording.inspection
        why = seen.truncation or why_short(self._num_frames, reader, seen)
        for part in (*self._active, *self._pending):
            part.end(self._num_frames, why_short=why, damage=seen.damage)

    def _fail(self, error: ItemError) -> None:
        if error.reason is not RejectReason.CORRUPT:
            raise error
        if not self._fails_at_last:
            self.has_failed = True
            return
        recording = self._recording
        is_cut_flac = recording.sniffed.kind is AudioKind.FLAC and not ends_with_whole_frame(
            recording.data, recording.sniffed.start
        )
        truncation = recording.inspection.truncation
        if not is_cut_flac and truncation is not None:
            error = truncated_item(f"{truncation}; {error.message}")
        for part in (*self._active, *self._pending):
            part.fail(error, lost_end="the last FLAC frame is cut" if is_cut_flac else None)
