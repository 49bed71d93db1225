"""A snapshot opened for training: where its row groups are, and which of their rows are chosen. No code is read."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import acero

from tokenizer_jobs.catalog import Snapshot, SnapshotFacts, SnapshotShard, read_snapshot
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.format_version import check_format_version
from tokenizer_jobs.recipe import METADATA_KEY
from tokenizer_jobs.records import RowGroups
from tokenizer_jobs.row_filter import RowFilter
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training.reading import Footer, GroupPlace, read_columns, read_footer

__all__ = ["ChosenRows", "OpenedSnapshot", "choose_rows", "open_snapshot"]

_CODES = frozenset({"codes", "scales", "window_frames"})
_REMOTE_READS = 32
"""At once, where a storage is far away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedSnapshot:
    """One snapshot of an output: G row groups, in the order of the plan. Later snapshots do not change it."""

    url: str
    facts: SnapshotFacts
    paths: tuple[str, ...]
    """Of its shards."""
    recorded: Mapping[str, Any]
    """What its files say of codec and recipe."""
    schema: pa.Schema
    group_paths: npt.NDArray[np.int32]
    """[G] index of each row group's shard."""
    group_numbers: npt.NDArray[np.int32]
    """[G] its number in the shard."""
    group_starts: npt.NDArray[np.int64]
    """[G + 1] rows before each."""
    group_shortest: npt.NDArray[np.int32]
    """[G] no row has fewer frames; 0: not known."""

    def place(self, group: int) -> GroupPlace:
        """Where a row group is."""
        return GroupPlace(path=self.paths[self.group_paths[group]], number=int(self.group_numbers[group]))

    def check_rows(self, group: int, num_rows: int) -> None:
        """Make sure that a row group has as many rows as it is said to have.

        Raises:
            IntegrityError: it has others.
        """
        expected = int(self.group_starts[group + 1] - self.group_starts[group])
        if num_rows != expected:
            place = self.place(group)
            raise IntegrityError(
                f"{place.path} has {num_rows} rows in row group {place.number}, its snapshot says {expected}; run "
                "`verify`"
            )

    @property
    def num_groups(self) -> int:
        """G."""
        return self.group_paths.size


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenRows:
    """The rows that passed the filters, in the order of the snapshot."""

    group_starts: npt.NDArray[np.int64]
    """[G + 1] chosen rows before each row group."""
    places: npt.NDArray[np.int32] | None
    """[rows] place in its row group; None: every row is chosen."""
    num_frames: npt.NDArray[np.int32] | None
    """[rows]; None: nobody asked."""

    def places_of(self, group: int) -> npt.NDArray[Any]:
        """[rows of the group] places of those chosen."""
        start, end = self.group_starts[group : group + 2]
        return np.arange(end - start) if self.places is None else self.places[start:end]


def open_snapshot(output: str, *, number: int | None) -> OpenedSnapshot:
    """Read a snapshot, and the footer of its first shard for the columns.

    Row groups are in the snapshot. Of shards whose commit does not say (those of earlier versions) every footer is
    read, 32 at once where the output is far away: minutes for a million of them.

    Raises:
        ConfigError: there is no such output or snapshot, or it has no rows.
        IntegrityError: a file of it is damaged.
    """
    storage = Storage.at(output)
    snapshot = read_snapshot(storage, number)
    paths = tuple(shard.path for shard in snapshot.shards)
    if not paths:
        raise ConfigError(f"snapshot {snapshot.number} of {storage.name!r} has no rows; tokenize audio into it first")
    footers = _read_footers(storage, snapshot)
    groups = [_groups_of(shard, footers) for shard in snapshot.shards]
    group_rows = [rows for each in groups for rows in each.rows]
    schema = footers[paths[0]].schema
    recorded = json.loads((schema.metadata or {}).get(METADATA_KEY, b"{}"))
    check_format_version(recorded.get("format_version"), origin=paths[0])
    return OpenedSnapshot(
        url=storage.url,
        facts=snapshot.facts,
        paths=paths,
        recorded=recorded,
        schema=schema.remove_metadata(),
        group_paths=np.repeat(np.arange(len(paths), dtype=np.int32), [len(each.rows) for each in groups]),
        group_numbers=np.array([number for each in groups for number in range(len(each.rows))], np.int32),
        group_starts=np.concatenate([[0], np.cumsum(group_rows)]).astype(np.int64),
        group_shortest=np.array([frames for each in groups for frames in each.shortest_frames], np.int32),
    )


def _read_footers(storage: Storage, snapshot: Snapshot) -> dict[str, Footer]:
    """Footers by path: of the first shard, and of those whose row groups the snapshot does not tell."""
    wanted = [shard.path for index, shard in enumerate(snapshot.shards) if index == 0 or shard.row_groups is None]
    read = _on_many(lambda path: read_footer(storage, path), wanted, storage=storage)
    return dict(zip(wanted, read, strict=True))


def _groups_of(shard: SnapshotShard, footers: Mapping[str, Footer]) -> RowGroups:
    groups = footers[shard.path].row_groups if shard.row_groups is None else shard.row_groups
    if sum(groups.rows) != shard.rows:
        raise IntegrityError(f"{shard.path} has {sum(groups.rows)} rows, its snapshot says {shard.rows}; run `verify`")
    return groups


def choose_rows(
    opened: OpenedSnapshot, *, where: str | pc.Expression | None, min_frames: int, with_frames: bool
) -> ChosenRows:
    """Choose rows by their columns; the codes are not read, and nothing is of row groups without short rows.

    A condition, and lengths that are wanted, are read from columns of every row group.

    Args:
        opened: The snapshot.
        where: A condition in SQL (see `row_filter`), or an Arrow expression; None chooses all.
        min_frames: Shorter rows are left out.
        with_frames: Whether the lengths are wanted.

    Raises:
        ConfigError: the condition is not understood, or nothing is chosen.
    """
    if where is None and not with_frames and (opened.group_shortest >= min_frames).all():
        return ChosenRows(group_starts=opened.group_starts, places=None, num_frames=None)
    names, mask = _condition(where, schema=opened.schema)
    names = [*dict.fromkeys(["num_frames", *names])]
    storage = Storage.at(opened.url)

    def chosen(group: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        if where is None and not with_frames and opened.group_shortest[group] >= min_frames:
            count = int(opened.group_starts[group + 1] - opened.group_starts[group])
            return np.arange(count, dtype=np.int32), np.empty(0, np.int32)
        table = read_columns(storage, opened.place(group), columns=names)
        opened.check_rows(group, table.num_rows)
        num_frames = table.column("num_frames").to_numpy()
        places = np.flatnonzero(mask(table) & (num_frames >= min_frames))
        return places.astype(np.int32), num_frames[places].astype(np.int32)

    parts = list(_on_many(chosen, range(opened.num_groups), storage=storage))
    starts = np.concatenate([[0], np.cumsum([places.size for places, _ in parts])]).astype(np.int64)
    if starts[-1] == 0:
        raise ConfigError(
            f"no row of {storage.name!r} is chosen: where = {str(where)!r}, at least {min_frames} frames, of "
            f"{opened.facts.rows} rows; loosen `where`, or `crop_frames` with short='drop'"
        )
    every_row = bool(starts[-1] == opened.group_starts[-1])
    return ChosenRows(
        group_starts=starts,
        places=None if every_row else np.concatenate([places for places, _ in parts]),
        num_frames=np.concatenate([frames for _, frames in parts]) if with_frames else None,
    )


def _condition(where: str | pc.Expression | None, *, schema: pa.Schema) -> Any:
    """The columns that a condition reads, and a function of a table to a mask [rows]."""
    if where is None:
        return [], lambda table: np.ones(table.num_rows, np.bool_)
    if isinstance(where, str):
        parsed = RowFilter.parse(where, schema=schema)
        return parsed.columns, lambda table: parsed.mask(_one_batch(table))
    # Which columns an expression reads it does not say.
    names = [name for name in schema.names if name not in _CODES]
    _matching(schema.empty_table().select(names), where)
    return names, lambda table: _matching(table, where)


def _matching(table: pa.Table, expression: pc.Expression) -> npt.NDArray[np.bool_]:
    numbered = table.append_column("", pa.array(np.arange(table.num_rows)))
    steps = [
        acero.Declaration("table_source", acero.TableSourceNodeOptions(numbered)),
        acero.Declaration("filter", acero.FilterNodeOptions(expression)),
    ]
    try:
        # Not in Arrow's own threads: see `tokenizer_jobs.parquet`.
        found = acero.Declaration.from_sequence(steps).to_table(use_threads=False)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise ConfigError(
            f"where = {expression} cannot be evaluated ({error}); choose of the columns {', '.join(table.column_names)}"
        ) from error
    mask = np.zeros(table.num_rows, np.bool_)
    mask[found.column("").to_numpy()] = True
    return mask


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)


def _on_many(function: Any, subjects: Sequence[Any] | range, *, storage: Storage) -> Iterator[Any]:
    if storage.is_local:
        return map(function, subjects)
    return _in_threads(function, subjects)


def _in_threads(function: Any, subjects: Sequence[Any] | range) -> Iterator[Any]:
    with ThreadPoolExecutor(_REMOTE_READS) as pool:
        yield from pool.map(function, subjects)
