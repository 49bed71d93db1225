"""How codes are used, counted from their Arrow buffers: entries of every codebook, and what follows what in the first.

Letters: K codebooks, E entries of a codebook. A list is one codebook of one row.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.commit_records import StoredRecord

__all__ = ["CodeCounter", "CodebookUse", "Transitions"]

LARGEST_TABLE = 4096
"""Entries up to which pairs of codes are counted: a table of 128 MiB."""
RANK_BINS = 32
"""Sides of the table of pairs as it is shown."""
CHUNK_CODES = 1 << 16
"""Counted at once: more of them leave a core's cache."""

Counts = npt.NDArray[np.int64]


class CodebookUse(StoredRecord):
    """How often each entry of one codebook stands in the rows that were read."""

    index: int
    """From 0, the coarsest."""
    codes: int
    """That were counted."""
    entropy_bits: float
    """Of one code, taken by itself: what an ideal order-0 coder needs for it."""
    ideal_kbps: float
    """Of an ideal order-0 coder, for this codebook alone."""
    perplexity: float
    """2 to the entropy: as many entries, used evenly, would be as hard to guess."""
    dead: int
    """Entries that never occur."""
    counts: tuple[int, ...]
    """[E], by entry."""


class Transitions(StoredRecord):
    """Which code of codebook 0 follows which, within rows."""

    pairs: int
    """That were counted."""
    conditional_entropy_bits: float
    """Of a code when the one before it is known. An estimate from counts, too low where pairs are few."""
    repeat_share: float
    """Of the pairs: the same code twice."""
    rank_edges: tuple[int, ...]
    """Entries that occur, by how often they do, the most frequent first, in groups from one rank to the next."""
    table: tuple[tuple[int, ...], ...]
    """Pairs by the group of the first code and that of the second."""


class CodeCounter:
    """Counts codes batch by batch; its memory depends on the codebooks alone.

    Args:
        codebook_size: E as the output says it; a larger code makes room for itself.
    """

    def __init__(self, *, codebook_size: int = 0) -> None:
        self._size = codebook_size
        self._counts: Counts = np.zeros((0, codebook_size), dtype=np.int64)
        self._pairs: Counts | None = None

    def add(self, column: pa.ListArray) -> None:
        """Count the codes of a `codes` column."""
        starts = column.offsets.to_numpy().astype(np.int64)
        ends = column.values.offsets.to_numpy().astype(np.int64)[starts[0] : starts[-1] + 1]
        values = column.values.values.to_numpy(zero_copy_only=True)[ends[0] : ends[-1]]
        ends = ends - ends[0]
        if not len(values):
            return
        per_row = np.diff(starts)
        books = np.arange(len(ends) - 1) - np.repeat(starts[:-1] - starts[0], per_row)
        self._make_room(num_codebooks=int(per_row.max()), size=int(values.max()) + 1)
        for first, last in _chunks(ends):
            chunk = values[ends[first] : ends[last]].astype(np.int64)
            lengths = np.diff(ends[first : last + 1])
            keys = np.repeat(books[first:last] * self._size, lengths) + chunk
            found = np.bincount(keys, minlength=self._counts.size)
            self._counts += found.reshape(self._counts.shape)
        if self._size <= LARGEST_TABLE:
            self._add_pairs(values, ends, firsts=np.flatnonzero(books == 0))

    def uses(self, *, frame_rate: float) -> tuple[CodebookUse, ...]:
        """What was counted, by codebook."""
        return tuple(_use(index, counts, frame_rate=frame_rate) for index, counts in enumerate(self._counts))

    def transitions(self) -> Transitions | None:
        """What was counted of pairs; None where there are none, or codebooks are too large for a table of pairs."""
        num_pairs = 0 if self._pairs is None else int(self._pairs.sum())
        if self._pairs is None or not num_pairs:
            return None
        order = np.argsort(-self._counts[0], kind="stable")[: np.count_nonzero(self._counts[0])]
        edges = np.unique(np.linspace(0, len(order), min(RANK_BINS, len(order)) + 1).astype(np.int64))
        ranked = self._pairs[np.ix_(order, order)]
        table = np.add.reduceat(np.add.reduceat(ranked, edges[:-1], axis=0), edges[:-1], axis=1)
        return Transitions(
            pairs=num_pairs,
            conditional_entropy_bits=max(0.0, _entropy(self._pairs.reshape(-1)) - _entropy(self._pairs.sum(axis=1))),
            repeat_share=float(np.trace(self._pairs)) / num_pairs,
            rank_edges=tuple(edges.tolist()),
            table=tuple(tuple(row) for row in table.tolist()),
        )

    def _make_room(self, *, num_codebooks: int, size: int) -> None:
        books, before = self._counts.shape
        self._size = max(before, size)
        if num_codebooks > books or self._size > before:
            grown = np.zeros((max(books, num_codebooks), self._size), dtype=np.int64)
            grown[:books, :before] = self._counts
            self._counts = grown
        if self._size > LARGEST_TABLE:
            self._pairs = None
        elif self._pairs is None or len(self._pairs) < self._size:
            pairs = np.zeros((self._size, self._size), dtype=np.int64)
            if self._pairs is not None:
                pairs[: len(self._pairs), : len(self._pairs)] = self._pairs
            self._pairs = pairs

    def _add_pairs(self, values: npt.NDArray[np.uint16], ends: Counts, *, firsts: Counts) -> None:
        """Count neighbours within the lists of codebook 0; all of a batch in one go, since the table is large."""
        assert self._pairs is not None
        lists = [values[ends[place] : ends[place + 1]] for place in firsts]
        chosen = np.concatenate(lists).astype(np.int64)
        keys = chosen[:-1] * self._size + chosen[1:]
        within = np.ones(len(keys), dtype=bool)
        last = np.cumsum([len(one) for one in lists])[:-1] - 1
        within[last[(last >= 0) & (last < len(keys))]] = False
        found = np.bincount(keys[within], minlength=self._pairs.size)
        self._pairs += found.reshape(self._pairs.shape)


def _chunks(ends: Counts) -> Iterator[tuple[int, int]]:
    """Spans of lists that hold about as many codes as are counted at once, or one list."""
    bounds = np.searchsorted(ends, np.arange(0, ends[-1], CHUNK_CODES), side="left")
    bounds = np.unique(np.append(bounds, len(ends) - 1))
    yield from zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)


def _use(index: int, counts: Counts, *, frame_rate: float) -> CodebookUse:
    entropy = _entropy(counts)
    return CodebookUse(
        index=index,
        codes=int(counts.sum()),
        entropy_bits=entropy,
        ideal_kbps=entropy * frame_rate / 1000,
        perplexity=float(2**entropy),
        dead=int(np.count_nonzero(counts == 0)),
        counts=tuple(counts.tolist()),
    )


def _entropy(counts: Counts) -> float:
    """In bits."""
    total = int(counts.sum())
    if not total:
        return 0.0
    shares = counts[counts > 0] / total
    return max(0.0, float(-(shares * np.log2(shares)).sum()))
