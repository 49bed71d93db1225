"""The samples of one epoch by their position: a row each, or packed sequences.

Letters in shapes: K codebooks, T frames, S tokens of a sequence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokenizer_jobs.training.columns import SampleColumns
from tokenizer_jobs.training.dealing import Sample
from tokenizer_jobs.training.order import EpochOrder, Interleaving, mix
from tokenizer_jobs.training.packing import StrandPacking
from tokenizer_jobs.training.patterns import Pattern
from tokenizer_jobs.training.windows import LoadedWindow, RowSource, WindowReader

__all__ = ["PackedEpoch", "RowsEpoch", "SampleShape"]

_DRAWS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleShape:
    """What a sample is."""

    columns: SampleColumns
    pattern: Pattern | None
    pack_tokens: int | None
    """None: a sample is one piece of a row."""

    def num_tokens(self, num_frames: npt.NDArray[Any], *, num_codebooks: int) -> npt.NDArray[np.int64]:
        """[n] tokens of pieces of so many frames; the frames themselves without a pattern."""
        if self.pattern is None:
            return num_frames.astype(np.int64)
        kinds, which = np.unique(num_frames, return_inverse=True)
        counts = [self.pattern.num_tokens(kind, num_codebooks=num_codebooks) for kind in kinds.tolist()]
        return np.array(counts, np.int64)[which]

    def tokens(self, window: LoadedWindow, place: int, *, seed: int) -> npt.NDArray[Any]:
        """Tokens [..., S] of one piece: int64, or without a pattern its codes, uint16 [K, T]."""
        codes = window.codes(place)
        if self.pattern is None:
            return codes
        return self.pattern.apply(codes, seed=mix(seed, int(window.rows[place])))


class RowsEpoch:
    """One sample for each row.

    Args:
        source: The rows.
        order: Of the epoch.
        shape: Of samples.
        epoch: Its number.
    """

    def __init__(self, source: RowSource, *, order: EpochOrder, shape: SampleShape, epoch: int) -> None:
        self._interleaving = Interleaving(order.strand_rows)
        self._windows = WindowReader(source, order=order, epoch=epoch)
        self._window_rows = order.window_rows
        self._shape = shape
        self._seed = mix(source.pieces.seed, epoch, _DRAWS)

    def __call__(self, position: int) -> Sample:
        """The sample at a position of the epoch."""
        strand, step = self._interleaving.locate(position)
        number, place = divmod(step, self._window_rows)
        window = self._windows.window(strand, number)
        start = int(window.starts[place])
        sample = self._shape.columns.of_piece(window, place, start=start, length=int(window.lengths[place]))
        sample["start_frame"] = start
        tokens = self._shape.tokens(window, place, seed=self._seed)
        sample["codes" if self._shape.pattern is None else "tokens"] = _own_tensor(tokens)
        return sample


class PackedEpoch:
    """Sequences of one length from the tokens of all pieces, strand by strand.

    Args:
        source: The rows, with their lengths.
        order: Of the epoch.
        shape: Of samples.
        epoch: Its number.
    """

    def __init__(self, source: RowSource, *, order: EpochOrder, shape: SampleShape, epoch: int) -> None:
        self._source = source
        self._order = order
        self._shape = shape
        self._epoch = epoch
        row_tokens = self._row_tokens()
        bounds = order.strand_starts.tolist()
        self._strands = [
            StrandPacking(
                order,
                strand=strand,
                row_tokens=row_tokens[start:end],
                sequence_tokens=shape.pack_tokens or 1,
            )
            for strand, (start, end) in enumerate(pairwise(bounds))
        ]
        self._interleaving = Interleaving(np.array([strand.num_sequences for strand in self._strands]))

    @property
    def num_samples(self) -> int:
        """Sequences in all."""
        return self._interleaving.count

    def reader(self) -> Callable[[int], Sample]:
        """A function of a position to its sample, that keeps what it reads."""
        windows = WindowReader(self._source, order=self._order, epoch=self._epoch)
        return lambda position: self._sample(position, windows=windows)

    def _row_tokens(self) -> npt.NDArray[np.int64]:
        """[rows] tokens of each row's piece, row groups in the epoch's order."""
        chosen, pieces = self._source.chosen, self._source.pieces
        assert chosen.num_frames is not None
        parts = [
            chosen.num_frames[chosen.group_starts[group] : chosen.group_starts[group + 1]]
            for group in self._order.groups.tolist()
        ]
        frames = np.concatenate(parts)
        if pieces.crop_frames is not None:
            frames = np.minimum(frames, pieces.crop_frames)
        return self._shape.num_tokens(frames, num_codebooks=pieces.num_codebooks)

    def _sample(self, position: int, *, windows: WindowReader) -> Sample:
        strand, sequence = self._interleaving.locate(position)
        count = self._source.pieces.num_codebooks

        def tokens_of(number: int) -> npt.NDArray[np.int64]:
            return self._shape.num_tokens(windows.window(strand, number).lengths, num_codebooks=count)

        parts, documents = list[npt.NDArray[Any]](), list[dict[str, Any]]()
        for fragment in self._strands[strand].fragments(sequence, tokens_of=tokens_of):
            window = windows.window(strand, fragment.window)
            seed = mix(self._source.pieces.seed, self._epoch, _DRAWS)
            tokens = self._shape.tokens(window, fragment.place, seed=seed)
            parts.append(tokens[..., fragment.start : fragment.end])
            documents.append(self._document(window, fragment.place, start=fragment.start, end=fragment.end))
        name = "codes" if self._shape.pattern is None else "tokens"
        return {name: _own_tensor(np.concatenate(parts, axis=-1)), **_bounds(parts), "documents": documents}

    def _document(self, window: LoadedWindow, place: int, *, start: int, end: int) -> dict[str, Any]:
        """What is told of a fragment; without a pattern its tokens are frames, and words follow."""
        first = int(window.starts[place])
        is_cut = self._shape.pattern is None
        begin, length = (first + start, end - start) if is_cut else (first, int(window.lengths[place]))
        told = self._shape.columns.of_piece(window, place, start=begin, length=length)
        return {**told, "start_frame": begin, "start_token": start}


def _bounds(parts: list[npt.NDArray[Any]]) -> dict[str, torch.Tensor]:
    lengths = [part.shape[-1] for part in parts]
    positions = np.concatenate([np.arange(length) for length in lengths])
    return {
        "positions": torch.from_numpy(positions),
        "document_ids": torch.from_numpy(np.repeat(np.arange(len(parts)), lengths)),
        "cu_seqlens": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)),
    }


def _own_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor of its own memory, so that a sample does not keep its row group."""
    return torch.from_numpy(np.array(array, order="C"))
