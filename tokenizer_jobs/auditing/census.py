"""Everything in a dump, read once, item by item: what each one is, in some kilobyte, without its codes.

Legend of shapes: K codebooks, T frames.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from tokenizer_jobs.auditing.layout import Settled
from tokenizer_jobs.auditing.matching import Matching
from tokenizer_jobs.auditing.reading import Array, OpenedDump
from tokenizer_jobs.errors import ItemError
from tokenizer_jobs.importing.candidates import Candidate

__all__ = ["Census", "Row", "take_census", "without_offsets"]

LEAST_REPEATED = 8
"""Frames of a half: shorter ones repeat by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One item of a dump."""

    candidate: Candidate
    id: str
    audio: int
    """Place of its audio; -1: there is none."""
    num_codebooks: int
    """0: it cannot be read, or does not have the layout."""
    num_frames: int
    lowest: int
    highest: int
    digest: bytes
    """Of its codes, 8 bytes."""
    num_distinct_frames: int
    """Up to 3 are counted."""
    is_repeated: bool
    """Whether its second half equals the first."""
    has_offsets: bool
    """Whether codebook k has the ids from k x size on, the second one and more."""


@dataclass(slots=True, kw_only=True)
class Census:
    """What all of a dump's items are."""

    rows: list[Row] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Id and reason."""
    odd_shapes: list[str] = field(default_factory=list)
    """Ids of those that do not have the layout at all."""

    @property
    def num_items(self) -> int:
        """In the dump."""
        return len(self.rows) + len(self.unreadable)

    def with_offsets(self) -> bool:
        """Whether nearly all rows have an offset for each codebook."""
        several = [row.has_offsets for row in self.rows if row.num_codebooks > 1]
        return bool(several) and sum(several) / len(several) >= 0.9

    def highest_seen(self) -> int:
        """The largest code of all."""
        return max((row.highest for row in self.rows), default=-1)

    def codebooks(self) -> Counter[int]:
        """Items by their number of codebooks."""
        return Counter(row.num_codebooks for row in self.rows if row.num_codebooks)


def take_census(
    dump: OpenedDump,
    matching: Matching,
    settled: Settled,
    *,
    codebook_size: int,
    say: Callable[[str], None] = lambda _: None,
) -> Census:
    """Read all of a dump once.

    Raises:
        TransientError: the storage failed.
    """
    census = Census()
    with dump.reader() as reader:
        for number, candidate in enumerate(dump.candidates(), 1):
            name = matching.rule.of(candidate) or candidate.name
            try:
                array = dump.read(reader, candidate)
            except ItemError as error:
                census.unreadable.append((name, error.message))
                continue
            row = _row(candidate, name, array, matching=matching, settled=settled, codebook_size=codebook_size)
            census.rows.append(row)
            if row.num_codebooks == 0:
                census.odd_shapes.append(name)
            if number % 10_000 == 0:
                say(f"progress items={number}")
    return census


def without_offsets(codes: Array, *, codebook_size: int) -> Array:
    """Codes [K, T] of a flat vocabulary as codes of their codebooks."""
    return codes - codebook_size * np.arange(len(codes))[:, None]


def matched(census: Census) -> Iterator[tuple[int, Row]]:
    """Rows that have audio and can be read, with their places."""
    return ((place, row) for place, row in enumerate(census.rows) if row.audio >= 0 and row.num_codebooks)


def _row(
    candidate: Candidate, name: str, array: Array, *, matching: Matching, settled: Settled, codebook_size: int
) -> Row:
    codes = settled.matrix(array) if array.size else None
    if codes is None or codes.shape[1] == 0:
        codes = np.zeros((0, 0), np.int64)
    num_codebooks, num_frames = codes.shape
    half, is_odd = divmod(num_frames, 2)
    low = codes.min(axis=1) if codes.size else np.zeros(0)
    return Row(
        candidate=replace(candidate, fields={}),
        id=name,
        audio=matching.place(name),
        num_codebooks=num_codebooks,
        num_frames=num_frames,
        lowest=int(codes.min()) if codes.size else 0,
        highest=int(codes.max()) if codes.size else 0,
        digest=hashlib.sha256(f"{codes.shape}".encode() + np.ascontiguousarray(codes).tobytes()).digest()[:8],
        num_distinct_frames=_num_distinct(codes),
        is_repeated=bool(half >= LEAST_REPEATED and not is_odd and (codes[:, :half] == codes[:, half:]).all())
        and _num_distinct(codes) > 2,
        has_offsets=num_codebooks > 1 and bool((low >= codebook_size * np.arange(num_codebooks)).all()),
    )


def _num_distinct(codes: Array) -> int:
    if not codes.size:
        return 0
    return 1 + min(2, int((codes[:, 1:] != codes[:, :-1]).any(0).sum()))
