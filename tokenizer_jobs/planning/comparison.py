"""What is new in a listing, against what the output has already: by ids, held as hashes.

An id is known by 96 bits of BLAKE2b, so that ten million known ids take 240 MB with the versions of their inputs; that
any two of ten million ids have the same has a probability of 10^-15. Ids that occur twice in one listing are told
exactly.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_table import ItemTable

__all__ = ["Comparison", "KnownItems", "compare_with_known", "duplicate_ids", "refuse_duplicates"]

KNOWN_COLUMNS = ("id", "source_size", "source_etag")

_Heads = npt.NDArray[np.uint64]
_Tails = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A listing set against what the output has already."""

    new: ItemTable
    changed: ItemTable
    """Known by id, with another size or etag."""
    unchanged: ItemTable
    is_vanished: npt.NDArray[np.bool_]
    """[known] which of the known ids are not listed."""

    @property
    def num_vanished(self) -> int:
        """Known ids that are not listed."""
        return int(self.is_vanished.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownItems:
    """Ids that are planned already, each once and sorted by hash, with the versions of their inputs."""

    heads: _Heads
    """[N] first 64 bits of each id's hash, in order."""
    tails: _Tails
    """[N] the other 32."""
    sizes: npt.NDArray[np.int64]
    """[N] bytes; -1 where not known."""
    etags: _Tails
    """[N] hashes; 0 where not known."""

    @classmethod
    def collect(cls, batches: Iterable[pa.RecordBatch | pa.Table]) -> Self:
        """Read the columns `id`, `source_size` and `source_etag`; of ids that come twice, the later one counts."""
        columns = array("Q"), array("I"), array("q"), array("I")
        for batch in batches:
            found: Sequence[npt.NDArray[Any]] = (*_id_hashes(batch), _sizes(batch), _etag_hashes(batch))
            for column, values in zip(columns, found, strict=True):
                column.frombytes(values.tobytes())
        heads, tails, sizes, etags = (np.frombuffer(column, column.typecode) for column in columns)
        del columns
        order = np.argsort(heads, kind="stable")
        # One column after the other, so that no more than one is held twice.
        heads = heads[order]
        tails = tails[order]
        sizes = sizes[order]
        etags = etags[order]
        del order
        # Of equal ids the last stays. Ids of which only the head is equal stay both.
        is_last = np.ones(len(heads), np.bool_)
        is_last[:-1] = (heads[1:] != heads[:-1]) | (tails[1:] != tails[:-1])
        if is_last.all():
            return cls(heads=heads, tails=tails, sizes=sizes, etags=etags)
        return cls(heads=heads[is_last], tails=tails[is_last], sizes=sizes[is_last], etags=etags[is_last])

    def __len__(self) -> int:
        return len(self.heads)

    def are_chosen(self, batch: pa.RecordBatch | pa.Table, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which ids of a batch a mask `[len(self)]` over this list chooses."""
        places = self.places_of(*_id_hashes(batch))
        return (places >= 0) & chosen[places]

    def places_of(self, heads: _Heads, tails: _Tails) -> npt.NDArray[np.int64]:
        """Where ids `[n]` are in this list; -1 for those that are not."""
        if not len(self):
            return np.full(len(heads), -1, np.int64)
        places = np.searchsorted(self.heads, heads).astype(np.int64)
        found = np.minimum(places, len(self) - 1)
        is_head = self.heads[found] == heads
        exact = is_head & (self.tails[found] == tails)
        # A head in common with another id, once in 10^5 listings of ten million: look at the ones beside it.
        for row in np.flatnonzero(is_head & ~exact):
            beside = np.arange(found[row], np.searchsorted(self.heads, heads[row], side="right"))
            matching = beside[self.tails[beside] == tails[row]]
            if len(matching):
                found[row], exact[row] = matching[0], True
        return np.where(exact, found, -1)


def duplicate_ids(items: ItemTable) -> tuple[str, ...]:
    """Ids that more than one item has, sorted."""
    firsts = array("Q")
    for batch in items.batches(["id"]):
        firsts.frombytes(_id_hashes(batch)[0].tobytes())
    ordered = np.frombuffer(firsts, np.uint64)
    ordered.sort()
    suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return ()
    counts: Counter[str] = Counter()
    for batch in items.batches(["id"]):
        hashes = _id_hashes(batch)[0].tolist()
        counts.update(batch.column("id")[row].as_py() for row, value in enumerate(hashes) if value in suspects)
    return tuple(sorted(item_id for item_id, count in counts.items() if count > 1))


def refuse_duplicates(items: ItemTable) -> None:
    """Raise where ids are not unique.

    Raises:
        ConfigError: names some of them.
    """
    duplicates = duplicate_ids(items)
    if duplicates:
        shown = ", ".join(repr(item_id) for item_id in duplicates[:5])
        more = f" and {len(duplicates) - 5} more" if len(duplicates) > 5 else ""
        raise ConfigError(
            f"ids are not unique: {shown}{more}; every item of selection.source needs an id of its own, "
            "so rename them in the source"
        )


def compare_with_known(items: ItemTable, known: KnownItems, *, dropped: Sequence[str] = ()) -> Comparison:
    """Split a listing into new, changed and unchanged items, and find what has vanished.

    An input has changed when its size or its etag is known on both sides and differs. What was dropped is not wanted
    any more: it is unchanged whatever became of its input, and not missed where that vanished.

    Args:
        items: The listing.
        known: What the output has.
        dropped: Known ids that were taken out on purpose.

    Raises:
        ConfigError: ids that are not unique.
    """
    refuse_duplicates(items)
    is_known, is_changed = np.zeros(len(items), np.bool_), np.zeros(len(items), np.bool_)
    is_vanished, is_dropped = np.ones(len(known), np.bool_), np.zeros(len(known), np.bool_)
    places = known.places_of(*_id_hashes(pa.table({"id": pa.array(dropped, pa.string())})))
    is_dropped[places[places >= 0]] = True
    start = 0
    for batch in items.batches(KNOWN_COLUMNS) if len(known) else ():
        rows = slice(start, start + batch.num_rows)
        start += batch.num_rows
        places = known.places_of(*_id_hashes(batch))
        is_known[rows] = places >= 0
        is_vanished[places[places >= 0]] = False
        is_changed[rows] = (
            (places >= 0)
            & ~is_dropped[places]
            & (
                _differ(_sizes(batch), known.sizes[places], unknown=-1)
                | _differ(_etag_hashes(batch), known.etags[places], unknown=0)
            )
        )
    return Comparison(
        new=items.where(~is_known),
        changed=items.where(is_changed),
        unchanged=items.where(is_known & ~is_changed),
        is_vanished=is_vanished & ~is_dropped,
    )


def _differ(now: npt.NDArray[np.generic], before: npt.NDArray[np.generic], *, unknown: int) -> npt.NDArray[np.bool_]:
    different: npt.NDArray[np.bool_] = (now != before) & (now != unknown) & (before != unknown)
    return different


def _id_hashes(batch: pa.RecordBatch | pa.Table) -> tuple[_Heads, _Tails]:
    texts = batch.column("id").cast(pa.binary()).to_pylist()
    words = _hashes(texts, num_bytes=12).reshape(-1, 3)
    return words[:, :2].copy().view(np.uint64)[:, 0], words[:, 2]


def _etag_hashes(batch: pa.RecordBatch | pa.Table) -> _Tails:
    etags = batch.column("source_etag").cast(pa.binary())
    hashes = np.zeros(batch.num_rows, np.uint32)
    known = etags.is_valid().to_numpy(zero_copy_only=False) if batch.num_rows else np.zeros(0, np.bool_)
    hashes[known] = np.maximum(_hashes(etags.drop_null().to_pylist(), num_bytes=4), np.uint32(1))
    return hashes


def _hashes(texts: Sequence[bytes], *, num_bytes: int) -> _Tails:
    """Words of 32 bits, as many for each text as make up so many bytes."""
    return np.frombuffer(b"".join(blake2b(text, digest_size=num_bytes).digest() for text in texts), np.uint32)


def _sizes(batch: pa.RecordBatch | pa.Table) -> npt.NDArray[np.int64]:
    column = batch.column("source_size").fill_null(-1)
    return np.asarray(
        column.to_numpy(zero_copy_only=False) if isinstance(column, pa.Array) else column.to_numpy(), np.int64
    )
