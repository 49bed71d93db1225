"""Items with the same bytes: only those whose sizes agree with another's are read, and hashed as they are read.

An item is its bytes and what is cut from them: two cuts of one recording are no duplicates, and the same cut of two
copies of it is one. Of items that are equal the first stays, in this order: what the output has, then the plan's order.
Ten million items take some 300 MB while they are compared, and 24 bytes more for each that is read.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from itertools import chain, islice
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.errors import ItemError, TransientError
from tokenizer_jobs.item_columns import to_items
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item

__all__ = ["OpenItem", "find_duplicates"]

READ_THREADS = 8
"""Reads at once: hashing lets go of the interpreter, and a remote read is mostly waiting."""
GROUP_ITEMS = 4096
"""Read as one group, within which the cuts of a recording share one reading of it."""
BLOCK_BYTES = 1 << 20
CONTENT_BYTES = 16

OpenItem = Callable[[Item], IO[bytes]]
_Batches = Callable[[], Iterable[pa.RecordBatch | pa.Table]]
_Mask = npt.NDArray[np.bool_]
_Keys = npt.NDArray[np.uint64]

_CUT_COLUMNS = (("source_size", -1), ("start_seconds", 0.0), ("duration_seconds", -1.0), ("channel", -1))
_MIX = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)


def find_duplicates(new: ItemTable, *, known: _Batches, open_item: OpenItem) -> dict[int, str]:
    """Find the new items that have the same bytes as an earlier one.

    Items of unknown size are all read; of the others those whose size, and cut, another item has too. An item that
    cannot be read, or that is not what was planned any more, is not a duplicate of anything.

    Args:
        new: Items that are about to be planned.
        known: Gives the columns of the items that the output has, from the beginning at every call.
        open_item: Opens an item's bytes; called by several threads.

    Returns:
        By the place of each duplicate in `new`: the id of the item that it repeats.
    """
    if not new:
        return {}

    def everything() -> Iterator[pa.RecordBatch | pa.Table]:
        return chain(known(), new.batches())

    keys, is_sized = _keys(everything())
    contents = _Contents(len(keys))
    contents.read(everything(), ~is_sized, open_item=open_item)
    keys[contents.sizes_at] = contents.keys
    contents.read(everything(), is_sized & _occur_twice(keys), open_item=open_item)
    first = len(keys) - len(new)
    originals = {place: original for place, original in contents.repeats() if place >= first}
    wanted = frozenset(originals.values())
    ids = dict(_ids_at(everything(), wanted | frozenset(originals)))
    return {
        place - first: ids[original][1]
        for place, original in originals.items()
        if ids[original][1] != ids[place][0]  # an input that replaces its own earlier version
    }


class _Contents:
    """Hashes of what items hold, as far as they were read."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items
        self._places: list[int] = []
        self._hashes = bytearray()
        self._sizes_at: list[int] = []
        self._keys: list[int] = []

    @property
    def sizes_at(self) -> npt.NDArray[np.int64]:
        """Places `[n]` of items that were read without a size."""
        return np.array(self._sizes_at, np.int64)

    @property
    def keys(self) -> _Keys:
        """Keys `[n]` of these items, by the sizes that were found."""
        return np.array(self._keys, np.uint64)

    def read(self, batches: Iterable[pa.RecordBatch | pa.Table], chosen: _Mask, *, open_item: OpenItem) -> None:
        """Read the items at which a mask is true."""
        if not chosen.any():
            return
        waiting = _items_at(batches, chosen)
        with ThreadPoolExecutor(READ_THREADS, thread_name_prefix="duplicates") as readers:
            while group := list(islice(waiting, GROUP_ITEMS)):
                recordings = {_recording(item): item for _, item in group}
                found = dict(zip(recordings, readers.map(_reading(open_item), recordings.values()), strict=True))
                for place, item in group:
                    content = found[_recording(item)]
                    if content is not None:
                        self._add(place, item, *content)

    def _add(self, place: int, item: Item, content: bytes, num_bytes: int) -> None:
        start, duration = item.start_seconds or 0.0, -1.0 if item.duration_seconds is None else item.duration_seconds
        channel = -1 if item.channel is None else item.channel
        self._places.append(place)
        cut = struct.pack("<ddq", start, duration, channel)
        self._hashes += blake2b(content + cut, digest_size=CONTENT_BYTES).digest()
        if item.source_size is None:
            self._sizes_at.append(place)
            columns = [np.array([value]) for value in (num_bytes, start, duration, channel)]
            self._keys.append(int(_mixed(columns)[0]))

    def repeats(self) -> Iterator[tuple[int, int]]:
        """Pairs of places: an item, and the first one with the same content."""
        hashes = np.frombuffer(bytes(self._hashes), np.uint64).reshape(-1, 2)
        places = np.array(self._places, np.int64)
        order = np.lexsort((places, hashes[:, 1], hashes[:, 0]))
        hashes, places = hashes[order], places[order]
        is_first = np.ones(len(places), np.bool_)
        is_first[1:] = (hashes[1:] != hashes[:-1]).any(axis=1)
        originals = places[np.maximum.accumulate(np.where(is_first, np.arange(len(places)), 0))]
        yield from zip(places[~is_first].tolist(), originals[~is_first].tolist(), strict=True)


def _recording(item: Item) -> tuple[str, str | None, int | None, str | None]:
    return item.source_uri, item.source_member, item.source_row, item.source_etag


def _reading(open_item: OpenItem) -> Callable[[Item], tuple[bytes, int] | None]:
    def read(item: Item) -> tuple[bytes, int] | None:
        hashed, num_bytes = blake2b(digest_size=CONTENT_BYTES), 0
        try:
            with open_item(item) as file:
                while block := file.read(BLOCK_BYTES):
                    hashed.update(block)
                    num_bytes += len(block)
        except (ItemError, OSError, TransientError):
            return None  # decoding will say why, in a reject of its own
        return hashed.digest(), num_bytes

    return read


def _keys(batches: Iterable[pa.RecordBatch | pa.Table]) -> tuple[_Keys, _Mask]:
    """A number for each item's size and cut, equal where these are, and whether the size is known."""
    keys, is_sized = bytearray(), bytearray()
    for batch in batches:
        columns = [_filled(batch.column(name), missing) for name, missing in _CUT_COLUMNS]
        keys += _mixed(columns).tobytes()
        is_sized += (columns[0] >= 0).tobytes()
    return np.frombuffer(keys, np.uint64), np.frombuffer(bytes(is_sized), np.bool_)


def _filled(column: pa.Array | pa.ChunkedArray, missing: float) -> npt.NDArray[Any]:
    filled = pc.fill_null(column, missing)
    return np.asarray(filled.to_numpy() if isinstance(filled, pa.ChunkedArray) else filled.to_numpy(False))


def _mixed(columns: Sequence[npt.NDArray[Any]]) -> _Keys:
    # Equal sizes and cuts must give equal keys; that others rarely do only saves reading.
    key = np.zeros(len(columns[0]), np.uint64)
    for column, factor in zip(columns, _MIX, strict=True):
        key = (key ^ (key >> np.uint64(29)) ^ column.astype(np.float64).view(np.uint64)) * np.uint64(factor)
    return key


def _occur_twice(keys: _Keys) -> _Mask:
    ordered = np.sort(keys)
    return np.isin(keys, np.unique(ordered[1:][ordered[1:] == ordered[:-1]]))


def _items_at(batches: Iterable[pa.RecordBatch | pa.Table], chosen: _Mask) -> Iterator[tuple[int, Item]]:
    start = 0
    for batch in batches:
        rows = np.flatnonzero(chosen[start : start + batch.num_rows])
        if len(rows):
            yield from zip((rows + start).tolist(), to_items(batch.take(pa.array(rows))), strict=True)
        start += batch.num_rows


def _ids_at(
    batches: Iterable[pa.RecordBatch | pa.Table], places: frozenset[int]
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Of items at these places: the id, and the id of the item that stands for it."""
    start, wanted = 0, np.array(sorted(places), np.int64)
    for batch in batches:
        rows = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
        if len(rows):
            some = batch.take(pa.array(rows))
            ids, originals = some.column("id").to_pylist(), some.column("duplicate_of").to_pylist()
            stand_ins = (original or item_id for item_id, original in zip(ids, originals, strict=True))
            yield from zip((rows + start).tolist(), zip(ids, stand_ins, strict=True), strict=True)
        start += batch.num_rows
