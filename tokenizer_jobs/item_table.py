"""Any number of items in plan order, in bounded memory: sorted runs on disk, merged once, read batch by batch.

items ──▶ runs of 2^18, each sorted ──▶ merged ──▶ one file of batches, read again and again

Ten million items as records take more than 5 GB. Here no more than a run and one batch of each run are in memory;
a listing of less than a run never touches the disk.
"""

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.item_columns import item_schema, to_batch, to_items
from tokenizer_jobs.records import Item

__all__ = ["BATCH_ITEMS", "ItemTable"]

BATCH_ITEMS = 1 << 14
RUN_ITEMS = 1 << 18
"""About 40 MB of paths, sizes and etags, and as much again while they are sorted."""

_KEYS = ("source_uri", "source_member", "source_row", "start_seconds", "id")
_NULLS = {"source_member": "", "source_row": 0, "start_seconds": 0.0}

_Key = tuple[str, str, int, float, str]


class ItemTable(Sequence[Item]):
    """Items in plan order: by `source_uri`, then member, row, start and id. Made by `of` or `sort`.

    Its file, if it needs one, is in the folder for temporary files and without a name: it goes with the table.

    Args:
        schema: As `item_schema` gives it.
        stored: Batches in plan order.
        kept: Which of their rows are in this table; None: all.
    """

    def __init__(self, schema: pa.Schema, stored: "_Stored", *, kept: npt.NDArray[np.bool_] | None = None) -> None:
        self.schema = schema
        self._stored = stored
        self._kept = kept
        self._num_items = stored.num_items if kept is None else int(kept.sum())

    @classmethod
    def of(cls, items: Iterable[Item], *, user_schema: pa.Schema | None = None) -> Self:
        """Sort items into a table; one that is a table already comes back as it is.

        Raises:
            ConfigError: a user column does not fit its type.
        """
        if isinstance(items, cls):
            return items
        schema, waiting = item_schema(user_schema), iter(items)
        groups = iter(lambda: list(islice(waiting, BATCH_ITEMS)), [])
        return cls.sort((to_batch(group, schema=schema) for group in groups), schema=schema)

    @classmethod
    def sort(cls, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema) -> Self:
        """Sort batches of `item_schema`, in any order, into a table."""
        runs = [_Stored.make([run], schema=schema, on_disk=is_full) for run, is_full in _sorted_runs(batches, schema)]
        if len(runs) < 2:
            return cls(schema, runs[0] if runs else _Stored.make([], schema=schema, on_disk=False))
        table = cls(schema, _Stored.make(_merged(runs), schema=schema, on_disk=True))
        pa.default_memory_pool().release_unused()  # a hundred megabytes of sorting, which what follows needs
        return table

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The table from its beginning, batch by batch; only some columns, if named."""
        start = 0
        for batch in self._stored.batches():
            kept = None if self._kept is None else self._kept[start : start + batch.num_rows]
            start += batch.num_rows
            chosen = batch if columns is None else batch.select(list(columns))
            yield chosen if kept is None else chosen.filter(pa.array(kept))

    def where(self, kept: npt.NDArray[np.bool_]) -> "ItemTable":
        """The items at which a mask `[len(self)]` is true; they stay where they are."""
        if self._kept is not None:
            whole = np.zeros_like(self._kept)
            whole[np.flatnonzero(self._kept)[kept]] = True
            kept = whole
        return ItemTable(self.schema, self._stored, kept=kept)

    def with_seconds(self, seconds: npt.NDArray[np.float64]) -> "ItemTable":
        """The same items with other estimates of their duration `[len(self)]`."""
        return self._with("estimated_seconds", lambda start, length: seconds[start : start + length])

    def with_duplicates(self, originals: Mapping[int, str]) -> "ItemTable":
        """The same items; those at the given places are duplicates of the item of the given id."""
        if not originals:
            return self
        return self._with("duplicate_of", lambda start, length: [originals.get(start + row) for row in range(length)])

    def _with(self, name: str, values: Callable[[int, int], Any]) -> "ItemTable":
        """The same items with another column: `values(start, length)` of each batch."""
        on_disk = len(self) > RUN_ITEMS
        return ItemTable(self.schema, _Stored.make(self._replaced(name, values), schema=self.schema, on_disk=on_disk))

    def _replaced(self, name: str, values: Callable[[int, int], Any]) -> Iterator[pa.RecordBatch]:
        start, place = 0, self.schema.names.index(name)
        for batch in self.batches():
            column = pa.array(values(start, batch.num_rows), type=self.schema.field(place).type)
            start += batch.num_rows
            yield batch.set_column(place, self.schema.field(place), column)

    def __len__(self) -> int:
        return self._num_items

    def __iter__(self) -> Iterator[Item]:
        for batch in self.batches():
            yield from to_items(batch)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...

    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        if isinstance(index, slice):
            wanted = range(len(self))[index]
            found = dict(self._at(frozenset(wanted)))
            return tuple(found[place] for place in wanted)
        place = range(len(self))[index]
        return next(item for _, item in self._at(frozenset([place])))

    def _at(self, places: frozenset[int]) -> Iterator[tuple[int, Item]]:
        start = 0
        for batch in self.batches():
            inside = sorted(place for place in range(start, start + batch.num_rows) if place in places)
            if inside:
                yield from zip(inside, to_items(batch.take(pa.array([p - start for p in inside]))), strict=True)
            start += batch.num_rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ItemTable):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ItemTable({len(self)} items)"


class _Stored:
    """Batches in memory, or in a file without a name."""

    def __init__(self, batches: list[pa.RecordBatch], file: Any, num_items: int) -> None:
        self._batches, self._file, self.num_items = batches, file, num_items

    @classmethod
    def make(cls, batches: Iterable[pa.RecordBatch], *, schema: pa.Schema, on_disk: bool) -> Self:
        """Keep batches, which may be longer than `BATCH_ITEMS` and are then cut."""
        pieces = (
            batch.slice(start, BATCH_ITEMS) for batch in batches for start in range(0, batch.num_rows, BATCH_ITEMS)
        )
        if not on_disk:
            held = list(pieces)
            return cls(held, None, sum(batch.num_rows for batch in held))
        descriptor, path = tempfile.mkstemp(prefix="tokenizer-jobs-items-", suffix=".arrow")
        os.close(descriptor)
        try:
            num_items = 0
            # zstd at its lowest level: paths shrink to a tenth, at more than a million items a second.
            options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), use_threads=False)
            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
                for piece in pieces:
                    writer.write_batch(piece)
                    num_items += piece.num_rows
            return cls([], pa.OSFile(path, "rb"), num_items)
        finally:
            Path(path).unlink()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches in order."""
        if self._file is None:
            yield from self._batches
            return
        self._file.seek(0)
        reader = pa.ipc.open_file(self._file, options=pa.ipc.IpcReadOptions(use_threads=False))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _sorted_runs(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[tuple[pa.RecordBatch, bool]]:
    """Runs in plan order, and whether each was full when it was cut."""
    run, num_items = list[pa.RecordBatch](), 0
    for batch in batches:
        run.append(batch)
        num_items += batch.num_rows
        if num_items >= RUN_ITEMS:
            yield _in_plan_order(run, schema), True
            run, num_items = [], 0
    if run:
        yield _in_plan_order(run, schema), False


def _in_plan_order(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    table = pa.Table.from_batches(batches, schema=schema)
    # Arrow compares the bytes of UTF-8 and Python compares code points: the same order.
    keys = table.select(list(_KEYS))
    for name, value in _NULLS.items():
        keys = keys.set_column(_KEYS.index(name), name, pc.fill_null(keys[name], value))
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in _KEYS])
    return pa.RecordBatch.from_arrays([column.take(order).combine_chunks() for column in table.columns], schema=schema)


class _Run:
    """A sorted run that is read from its start: one batch at a time, up to a key."""

    def __init__(self, stored: _Stored) -> None:
        self._batches = stored.batches()
        self._batch: pa.RecordBatch | None = next(self._batches, None)

    @property
    def last(self) -> _Key | None:
        """Key of the last row in memory; None at the end of the run."""
        return None if self._batch is None else _key(self._batch, self._batch.num_rows - 1)

    def take(self, bound: _Key) -> pa.RecordBatch | None:
        """What is in memory up to a key."""
        if self._batch is None:
            return None
        low, high = 0, self._batch.num_rows
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if _key(self._batch, middle) <= bound else (low, middle)
        taken = self._batch.slice(0, low)
        self._batch = self._batch.slice(low) if low < self._batch.num_rows else next(self._batches, None)
        return taken


def _merged(runs: Iterable[_Stored]) -> Iterator[pa.RecordBatch]:
    """Batches in plan order: what is in memory up to the least of the runs' last keys comes before all the rest."""
    reading = [_Run(run) for run in runs]
    while reading := [run for run in reading if run.last is not None]:
        bound = min(run.last for run in reading if run.last is not None)
        parts = [part for run in reading if (part := run.take(bound)) is not None and part.num_rows]
        yield parts[0] if len(parts) == 1 else _in_plan_order(parts, parts[0].schema)


def _key(batch: pa.RecordBatch, place: int) -> _Key:
    uri, member, row, start, item_id = (batch.column(name)[place].as_py() for name in _KEYS)
    return uri, member or "", row or 0, start or 0.0, item_id
