"""Encoded pieces to rows: an item's rows are held, codes only, until the item has ended, or are void with it.

    Batch ─────────▶ rows that were encoded whole ──────────┐
    DecodedStretch ▶ one stream a channel ─▶ cut at rows ───┴─▶ rows of the item, by channel, then slice
    RejectedItem ──▶ all of it is forgotten

Legend of shapes: C channels, n samples, K codebooks in use, T frames.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.encoding import DeskStream, EncodeDesk
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import (
    AudioFacts,
    Batch,
    DecodedItem,
    DecodedStretch,
    EncodedItem,
    EncodeFigures,
    RejectedItem,
    RowPlace,
    TokenizedItem,
    WorkUnit,
)

__all__ = ["RowAssembly", "cut_at_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    place: RowPlace
    facts: AudioFacts
    encoded: EncodedItem


@dataclass(slots=True, kw_only=True)
class _Recording:
    """A channel, or in `restart` a slice, that is being encoded in stretches."""

    stream: DeskStream
    place: RowPlace
    """Of the row that the latest stretch belongs to."""
    num_samples: int = 0
    """That were pushed of that row."""
    has_ended: bool = False
    """Whether that row has."""
    ended: list[tuple[RowPlace, AudioFacts]] = field(default_factory=list)


class RowAssembly:
    """Encodes what a unit's items decode to, and gives out each item's rows when the item has ended.

    Args:
        unit: The unit.
        desk: Encodes.
        grain_samples: Between the places where a recording's codes can be cut.
        restarts: Whether every slice is encoded afresh (`recipe.audio.long_audio`).
    """

    def __init__(self, unit: WorkUnit, *, desk: EncodeDesk, grain_samples: int, restarts: bool) -> None:
        self._unit = unit
        self._desk = desk
        self._grain_samples = grain_samples
        self._restarts = restarts
        self._position: int | None = None
        """Of the item that has begun and not ended; None: there is none."""
        self._rows: list[_Row] = []
        self._recordings: dict[int | None, _Recording] = {}
        """Those that have not ended, by channel."""
        self._void: set[int] = set()
        """Positions of rejects: rows that were decoded before may come after."""
        self.figures = EncodeFigures()
        """What encoding took so far."""

    def add_batch(self, batch: Batch) -> list[TokenizedItem]:
        """Encode whole rows, and return the rows of the items that end with them."""
        encoded, figures = self._desk.encode([item.float_waveform() for item in batch.items])
        self.figures += figures
        finished: list[TokenizedItem] = []
        for decoded, codes in zip(batch.items, encoded, strict=True):
            if decoded.position in self._void:
                continue
            self._go_on_with(decoded)
            self._rows.append(_Row(place=decoded.place, facts=decoded.facts, encoded=codes))
            if decoded.is_last:
                finished += self._end_item()
        return finished

    def add_stretch(self, stretch: DecodedStretch) -> list[TokenizedItem]:
        """Encode a stretch, and return the rows of its item if that ends with it.

        Raises:
            IntegrityError: it does not follow the stretch before, or its facts are of another length.
        """
        if stretch.position in self._void:
            return []
        self._go_on_with(stretch)
        recording = self._recording_of(stretch)
        self.figures += recording.stream.push(stretch.float_waveform())
        recording.num_samples += stretch.waveform.shape[1]
        if stretch.facts is not None:
            if recording.num_samples != stretch.facts.num_samples:
                raise self._broken(
                    f"{recording.num_samples} samples came of row {stretch.place}, its facts say "
                    f"{stretch.facts.num_samples}"
                )
            recording.has_ended = True
            recording.ended.append((stretch.place, stretch.facts))
            if self._restarts:
                self._end_recording(stretch.place.channel)
        return self._end_item() if stretch.is_last else []

    def void(self, rejected: RejectedItem) -> None:
        """Forget what came of an item, and overlook what is still to come out of a batch."""
        self._void.add(rejected.position)
        if rejected.position == self._position:
            self._forget()

    def check_ended(self) -> None:
        """Raise an IntegrityError when an item has begun and not ended."""
        if self._position is not None:
            raise self._broken("nothing more came, and it had not ended")

    def _go_on_with(self, decoded: DecodedItem | DecodedStretch) -> None:
        if self._position is None:
            self._position = decoded.position
        elif self._position != decoded.position:
            raise self._broken(f"item {decoded.position} came before it had ended")

    def _recording_of(self, stretch: DecodedStretch) -> _Recording:
        """The recording that a stretch goes on with, at its row."""
        place, recording = stretch.place, self._recordings.get(stretch.place.channel)
        if recording is None:
            recording = _Recording(stream=self._desk.stream(), place=place)
            self._recordings[place.channel] = recording
        elif recording.has_ended:
            expected = recording.place.start_sample + recording.num_samples
            if place.start_sample != expected:
                raise self._broken(f"row {place} came where one from sample {expected} was due")
            recording.place, recording.num_samples, recording.has_ended = place, 0, False
        elif recording.place != place:
            raise self._broken(f"row {place} came before {recording.place} had ended")
        return recording

    def _end_recording(self, channel: int | None) -> None:
        recording = self._recordings.pop(channel)
        if not recording.has_ended or not any(facts.num_samples for _, facts in recording.ended):
            raise self._broken(f"row {recording.place} has no facts, or no samples")
        encoded, figures = recording.stream.finish()
        self.figures += figures
        pieces = cut_at_rows(
            encoded, [place.start_sample for place, _ in recording.ended], grain_samples=self._grain_samples
        )
        for (place, facts), piece in zip(recording.ended, pieces, strict=True):
            row = _Row(place=place, facts=facts, encoded=piece)
            self._check_length(row)
            self._rows.append(row)

    def _end_item(self) -> list[TokenizedItem]:
        for channel in list(self._recordings):
            self._end_recording(channel)
        assert self._position is not None
        item = self._unit.items[self._position]
        counts = Counter(row.place.channel for row in self._rows)
        rows = sorted(self._rows, key=lambda row: _order(row.place))
        for channel, count in counts.items():
            slices = [row.place.slice_index for row in rows if row.place.channel == channel]
            if slices != list(range(count)):
                raise self._broken(f"its slices are {slices}, expected 0 to {count - 1}")
        self._forget()
        return [
            TokenizedItem(
                item=item,
                facts=row.facts,
                encoded=row.encoded,
                place=row.place,
                slice_count=counts[row.place.channel],
            )
            for row in rows
        ]

    def _check_length(self, row: _Row) -> None:
        """A row has as many frames, or windows, as its audio has grains, the last of them part-filled."""
        windows = row.encoded.window_frames
        found = row.encoded.codes.shape[1] if windows is None else windows.size
        expected = -(-row.facts.num_samples // self._grain_samples)
        if found != expected:
            raise self._broken(
                f"row {row.place} of {row.facts.num_samples} samples has {found} frames or windows, expected {expected}"
            )

    def _forget(self) -> None:
        self._position = None
        self._rows = []
        self._recordings = {}

    def _broken(self, what: str) -> IntegrityError:
        return IntegrityError(f"item {self._position} of unit {self._unit.unit_id}: {what}")


def cut_at_rows(encoded: EncodedItem, starts: Sequence[int], *, grain_samples: int) -> list[EncodedItem]:
    """Cut a recording's codes [K, T] at its rows: row r has the frames, or whole windows, from its start on.

    Args:
        encoded: Of the whole recording, or of some of its rows that follow one another.
        starts: Where each row begins, in samples; the codes begin with the first.
        grain_samples: The codec's hop, or the stride of its windows.

    Raises:
        IntegrityError: the starts are not at increasing multiples of the grain within the codes.
    """
    offsets = np.array(starts, dtype=np.int64) - starts[0]
    windows = encoded.window_frames
    num_grains = encoded.codes.shape[1] if windows is None else windows.size
    bounds = np.append(offsets // grain_samples, num_grains)
    if (offsets % grain_samples).any() or (np.diff(bounds) <= 0).any():
        raise IntegrityError(
            f"rows begin at samples {list(starts)}; expected increasing multiples of {grain_samples} in "
            f"{num_grains} frames or windows"
        )
    if windows is None:
        return [EncodedItem(codes=_columns(encoded.codes, first, end)) for first, end in pairwise(bounds)]
    assert encoded.scales is not None
    frames = np.concatenate([[0], np.cumsum(windows)])
    return [
        EncodedItem(
            codes=_columns(encoded.codes, frames[first], frames[end]),
            scales=encoded.scales[first:end].copy(),
            window_frames=windows[first:end].copy(),
        )
        for first, end in pairwise(bounds)
    ]


def _columns(codes: npt.NDArray[np.uint16], first: int, end: int) -> npt.NDArray[np.uint16]:
    return np.ascontiguousarray(codes[:, first:end])


def _order(place: RowPlace) -> tuple[int, int]:
    return -1 if place.channel is None else place.channel, place.slice_index
