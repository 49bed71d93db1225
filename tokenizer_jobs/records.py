"""The frozen records that the rooms pass to each other, in the order of the flow.

Legend of shapes: C channels, n samples, K codebooks in use, T frames, S windows of the 48 kHz codec.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import IntegrityError, RejectReason, Stage

__all__ = [
    "AudioFacts",
    "Batch",
    "Decoded",
    "DecodedItem",
    "DecodedStretch",
    "EncodeFigures",
    "EncodedItem",
    "ImportedFacts",
    "Item",
    "RejectedItem",
    "RowGroups",
    "RowPlace",
    "ShardFile",
    "TokenizedItem",
    "WorkUnit",
    "read_together",
]

FULL_SCALE_INT16 = 32768.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One recording, or one cut of it, as it was planned."""

    id: str
    """Stable and unique in the output."""
    source_uri: str
    """Absolute path when local, else the URL without its query string."""
    source_member: str | None = None
    """Name inside an archive."""
    source_row: int | None = None
    """Row inside a table."""
    source_size: int | None = None
    """Bytes of the input when it was planned."""
    source_etag: str | None = None
    """The storage's version of the input; for local files `mtime-<nanoseconds>`."""
    source_group: int | None = None
    """Part of the input that is read at once, such as a row group: its items stay in one unit. None: reads alone."""
    start_seconds: float | None = None
    """Where the cut begins in its recording; None: the item is the whole recording."""
    duration_seconds: float | None = None
    """Length of the cut, None: to the end; of a whole recording what a manifest says it lasts, None: unknown."""
    channel: int | None = None
    """The channel that a manifest names, from 0; None: `recipe.audio.channels` decides."""
    duplicate_of: str | None = None
    """Id of the item with the same bytes that is tokenized in its place; None: it is not known to be a duplicate."""
    estimated_seconds: float = 0.0
    """Cost estimate from a manifest, a header or the bytes; it balances the load and decides nothing else."""
    user_columns: Mapping[str, Any] = field(default_factory=dict)
    """Columns passed through from the source, by name."""


def read_together(item: Item) -> tuple[str, str, int]:
    """What neighbouring items share that are read at once: the part of an input, or the recording that they cut."""
    if item.source_group is not None:
        return item.source_uri, "", item.source_group
    return item.source_uri, item.source_member or "", item.source_row or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkUnit:
    """What is planned, retried and committed together."""

    generation: int
    """The plan it belongs to, from 1."""
    index: int
    """Its place in the plan, from 0."""
    unit_id: str
    """Hash of its contents and the recipe id: 16 hex digits."""
    items: Sequence[Item]
    """In plan order; an item's position is its index here."""

    @property
    def estimated_seconds(self) -> float:
        """Estimated duration of its audio."""
        return sum(item.estimated_seconds for item in self.items)

    @property
    def part_name(self) -> str:
        """Stem of its files: `part-<generation>-<index>-<unit id>`."""
        return f"part-{self.generation:06d}-{self.index:05d}-{self.unit_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFacts:
    """What decoding learned about one item, without its samples."""

    num_samples: int
    """After resampling: exact length of the audio that the codes stand for, per channel."""
    sample_rate: int
    """In Hz, after resampling."""
    source_sample_rate: int
    """In Hz, as stored."""
    source_channels: int
    source_format: str
    """Container and coding as soundfile names them, such as `WAV/PCM_16`."""
    channel: int
    """The source's channel that the row stands for, or -1 for a mix or all of them."""
    rms_db: float
    """Root mean square in dB relative to full scale; -inf for digital silence."""
    peak: float
    """Largest magnitude, full scale 1."""
    clipped_fraction: float
    """Share of samples at or beyond full scale."""
    silent_fraction: float
    """Share of 20 ms blocks below -60 dB."""
    truncated: bool
    """Kept although shorter than its header or manifest said."""

    @property
    def duration_seconds(self) -> float:
        """Length of the audio that the codes stand for."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedFacts:
    """What is known of the audio of codes that somebody else made, in the place of `AudioFacts`; None: unknown."""

    num_samples: int
    """Where the dump does not say: frames × hop, which is less than a hop above the true length."""
    sample_rate: int
    """Of the codec, in Hz."""
    source_sample_rate: int | None = None
    source_channels: int | None = None
    source_format: str | None = None
    channel: int | None = None
    rms_db: float | None = None
    peak: float | None = None
    clipped_fraction: float | None = None
    silent_fraction: float | None = None
    truncated: bool | None = None

    @property
    def duration_seconds(self) -> float:
        """Length of the audio that the codes stand for."""
        return self.num_samples / self.sample_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlace:
    """Which of an item's rows something belongs to."""

    channel: int | None = None
    """Where every channel is a row of its own (`recipe.audio.channels: each`): which one; else None."""
    slice_index: int = 0
    """Where a recording has a row per slice: which one, from 0."""
    start_sample: int = 0
    """Where the row begins in the recording, in samples at the codec's rate."""

    def row_id(self, item_id: str, *, slice_count: int) -> str:
        """The id of the row: the item's own, `#c<channel>` where channels are rows, `#s<start sample>` of slices."""
        channel = "" if self.channel is None else f"#c{self.channel}"
        return f"{item_id}{channel}" if slice_count == 1 else f"{item_id}{channel}#s{self.start_sample}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedItem:
    """The waveform of one whole row, encoded afresh: usually one item; one channel or one slice of it where asked."""

    position: int
    """Index of the item in its work unit."""
    waveform: npt.NDArray[np.float32] | npt.NDArray[np.int16]
    """[C, n]; float32 in [-1, 1], or int16 where that loses nothing (a 16-bit source at the codec's own rate)."""
    facts: AudioFacts
    place: RowPlace = RowPlace()
    is_last: bool = True
    """Whether the item ends here; until it does, it may still become a reject and none of its rows exist."""

    def __post_init__(self) -> None:
        _, num_samples = self.waveform.shape
        if num_samples != self.facts.num_samples or num_samples == 0:
            raise IntegrityError(f"waveform of {num_samples} samples where its facts say {self.facts.num_samples}")

    def float_waveform(self) -> npt.NDArray[np.float32]:
        """The waveform as float32 [C, n] in [-1, 1]."""
        return _as_float(self.waveform)

    def __repr__(self) -> str:
        return f"DecodedItem(position={self.position}, waveform={self.waveform.dtype}{list(self.waveform.shape)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedStretch:
    """A stretch of a recording too long to be held whole: the encoder carries its state from stretch to stretch.

    The stretches of one channel follow one another without a gap. With a row per slice a stretch never crosses the end
    of a slice.
    """

    position: int
    """Index of the item in its work unit."""
    waveform: npt.NDArray[np.float32] | npt.NDArray[np.int16]
    """[C, n], as `DecodedItem.waveform`."""
    place: RowPlace
    """The row that it belongs to."""
    facts: AudioFacts | None
    """Of the whole row, where the row ends with this stretch; else None."""
    is_last: bool
    """Whether the item ends here, as `DecodedItem.is_last`."""

    def float_waveform(self) -> npt.NDArray[np.float32]:
        """The waveform as float32 [C, n] in [-1, 1]."""
        return _as_float(self.waveform)

    def __repr__(self) -> str:
        shape = list(self.waveform.shape)
        return f"DecodedStretch(position={self.position}, {self.place}, waveform={self.waveform.dtype}{shape})"


def _as_float(waveform: npt.NDArray[np.float32] | npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    if waveform.dtype == np.int16:
        return waveform.astype(np.float32) / np.float32(FULL_SCALE_INT16)
    return waveform.astype(np.float32, copy=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedItem:
    """One item that will have no row, with its reason; what was decoded of it before is void."""

    position: int
    """Index of the item in its work unit."""
    stage: Stage
    reason: RejectReason
    message: str
    """What was seen and what was expected."""
    attempts: int = 1
    """How often it was tried."""

    @property
    def is_last(self) -> bool:
        """Whether the item ends here: it does."""
        return True


Decoded = DecodedItem | DecodedStretch | RejectedItem
"""What decoding gives: for each item of a unit, in plan order, one or more of these; the last of them ends the item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Whole rows that are encoded in one call, in plan order."""

    items: tuple[DecodedItem, ...]

    @property
    def num_samples(self) -> int:
        """Samples over all items, per channel."""
        return sum(item.facts.num_samples for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedItem:
    """The codes of one item."""

    codes: npt.NDArray[np.uint16]
    """[K, T], raw code indices below the codebook size."""
    scales: npt.NDArray[np.float32] | None = None
    """[S] loudness removed from each window; None unless the codec has windows."""
    window_frames: npt.NDArray[np.int32] | None = None
    """[S] frames of each window, summing to T; None unless the codec has windows."""

    def __post_init__(self) -> None:
        _, num_frames = self.codes.shape
        if (self.scales is None) != (self.window_frames is None):
            raise IntegrityError("scales and window_frames must be both given or both None")
        if self.window_frames is not None and int(self.window_frames.sum()) != num_frames:
            raise IntegrityError(
                f"window_frames sum to {int(self.window_frames.sum())}, codes have {num_frames} frames"
            )

    def __repr__(self) -> str:
        return f"EncodedItem(codes={self.codes.dtype}{list(self.codes.shape)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeFigures:
    """What encoding took; figures of several calls add up."""

    seconds: float = 0.0
    """Of the codec's time: where units met in a call, in proportion to samples."""
    wait_seconds: float = 0.0
    """Until it was their turn, or for other units in the same call."""
    num_calls: int = 0
    peak_items: int = 0
    """Items in the largest call, those of other units among them."""
    num_samples: int = 0
    """Per channel."""
    num_padded_samples: int = 0
    """That were computed beyond these, since items of different lengths shared a batch."""

    def __add__(self, other: "EncodeFigures") -> "EncodeFigures":
        return EncodeFigures(
            seconds=self.seconds + other.seconds,
            wait_seconds=self.wait_seconds + other.wait_seconds,
            num_calls=self.num_calls + other.num_calls,
            peak_items=max(self.peak_items, other.peak_items),
            num_samples=self.num_samples + other.num_samples,
            num_padded_samples=self.num_padded_samples + other.num_padded_samples,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedItem:
    """One row to be: the planned item, which of its rows, what decoding learned, and its codes."""

    item: Item
    facts: AudioFacts | ImportedFacts
    encoded: EncodedItem
    place: RowPlace = RowPlace()
    slice_count: int = 1
    """Rows of the item, or of its channel: 1 unless there is a row per slice."""

    @property
    def row_id(self) -> str:
        """The row's id."""
        return self.place.row_id(self.item.id, slice_count=self.slice_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowGroups:
    """The row groups of a shard, in order; in an Arrow file a record batch is one."""

    rows: tuple[int, ...]
    """Of each."""
    shortest_frames: tuple[int, ...]
    """No row of the group has fewer frames; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    """One published file of a unit."""

    path: str
    """Relative to the output, with forward slashes."""
    rows: int
    size_bytes: int
    sha256: str
    """Hex digest of the file's bytes."""
    row_groups: RowGroups | None = None
    """None: of rejects, or not known."""
