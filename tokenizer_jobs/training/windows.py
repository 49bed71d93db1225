"""The rows of a window, read: their codes or crops of them, and their columns.

Letters in shapes: K codebooks, T frames, n rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training.opening import ChosenRows, OpenedSnapshot
from tokenizer_jobs.training.order import EpochOrder, hashes, mix
from tokenizer_jobs.training.reading import Codes, RowGroup, column_lists, read_group

__all__ = ["LoadedWindow", "Pieces", "RowSource", "WindowReader"]

_CROPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """What is taken of a row."""

    num_codebooks: int
    """The first so many."""
    crop_frames: int | None
    """At most so many frames, from a place drawn for each row and epoch; None: all."""
    seed: int

    def draw(self, rows: npt.NDArray[np.int64], num_frames: npt.NDArray[np.int64], *, epoch: int) -> Any:
        """[n] where the pieces begin, and [n] their frames; a function of seed, epoch and each row alone."""
        if self.crop_frames is None:
            return np.zeros_like(num_frames), num_frames
        lengths = np.minimum(num_frames, self.crop_frames)
        drawn = hashes(mix(self.seed, epoch, _CROPS), rows) >> np.uint64(32)
        choices = (num_frames - lengths + 1).astype(np.uint64)
        return (drawn * choices >> np.uint64(32)).astype(np.int64), lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSource:
    """The rows of a snapshot that are read, and what of them."""

    opened: OpenedSnapshot
    chosen: ChosenRows
    columns: tuple[str, ...]
    pieces: Pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWindow:
    """The rows of one window, in order."""

    number: int
    rows: npt.NDArray[np.int64]
    """[n] of the snapshot."""
    starts: npt.NDArray[np.int64]
    """[n] first frame of each piece."""
    lengths: npt.NDArray[np.int64]
    """[n] frames of each piece."""
    num_frames: npt.NDArray[np.int64]
    """[n] frames of each row."""
    columns: Mapping[str, list[Any]]
    num_codebooks: int
    _groups: list[RowGroup]
    _slots: list[int]
    _places: list[int]

    def codes(self, place: int) -> Codes:
        """[K, T] of one row's piece, as a view."""
        codes = self._groups[self._slots[place]].codes(self._places[place])
        start = self.starts[place]
        return codes[: self.num_codebooks, start : start + self.lengths[place]]


class WindowReader:
    """Reads the windows of one epoch, keeping of each strand the row groups of its last one.

    Args:
        source: What to read.
        order: Of the epoch.
        epoch: Its number.
    """

    def __init__(self, source: RowSource, *, order: EpochOrder, epoch: int) -> None:
        self._source = source
        self._storage = Storage.at(source.opened.url)
        self._order = order
        self._epoch = epoch
        self._groups: dict[int, dict[int, RowGroup]] = {}
        self._windows: dict[int, LoadedWindow] = {}

    def window(self, strand: int, number: int) -> LoadedWindow:
        """A window of a strand."""
        window = self._windows.get(strand)
        if window is None or window.number != number:
            window = self._windows[strand] = self._load(strand, number)
        return window

    def _load(self, strand: int, number: int) -> LoadedWindow:
        opened, chosen, pieces = self._source.opened, self._source.chosen, self._source.pieces
        wanted = self._order.window(strand, number)
        ids, slots = np.unique(wanted.groups, return_inverse=True)
        kept = self._groups.get(strand, {})
        groups = {group: kept.get(group) or self._read(group) for group in ids.tolist()}
        self._groups[strand] = groups
        places, rows = np.empty_like(wanted.places), np.empty_like(wanted.places)
        num_frames = np.empty_like(places)
        columns: dict[str, list[Any]] = {name: [None] * places.size for name in self._source.columns}
        for slot, group in enumerate(groups):
            mine = np.flatnonzero(slots == slot)
            places[mine] = chosen.places_of(group)[wanted.places[mine]]
            rows[mine] = opened.group_starts[group] + places[mine]
            num_frames[mine] = groups[group].num_frames[places[mine]]
            for name, values in column_lists(groups[group].table, places=places[mine]).items():
                for place, value in zip(mine.tolist(), values, strict=True):
                    columns[name][place] = value
        starts, lengths = pieces.draw(rows, num_frames, epoch=self._epoch)
        return LoadedWindow(
            number=number,
            rows=rows,
            starts=starts,
            lengths=lengths,
            num_frames=num_frames,
            columns=columns,
            num_codebooks=pieces.num_codebooks,
            _groups=list(groups.values()),
            _slots=slots.tolist(),
            _places=places.tolist(),
        )

    def _read(self, group: int) -> RowGroup:
        place = self._source.opened.place(group)
        read = read_group(self._storage, place, columns=self._source.columns)
        self._source.opened.check_rows(group, read.num_frames.size)
        fewest = int(read.num_codebooks.min(initial=self._source.pieces.num_codebooks))
        if fewest < self._source.pieces.num_codebooks:
            raise IntegrityError(
                f"{place.path} has a row of {fewest} codebooks, its metadata promises more; run `verify`"
            )
        return read
