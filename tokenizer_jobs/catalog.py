"""The catalog: snapshots of an output, each one Parquet file that lists every live shard.

A snapshot's totals are in the file's metadata, so that one read opens it, however many shards it lists.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenizer_jobs.accounting import Totals, total
from tokenizer_jobs.commits import Commit, read_all_commits
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.format_version import FORMAT_VERSION, check_record_version
from tokenizer_jobs.parquet import open_parquet
from tokenizer_jobs.planning import list_generations
from tokenizer_jobs.receipts import Receipts, read_receipts, receipt_path
from tokenizer_jobs.recipe import METADATA_KEY
from tokenizer_jobs.records import RowGroups
from tokenizer_jobs.storage import Storage, listed_numbers, numbers_in

__all__ = [
    "CATALOG_FOLDER",
    "Snapshot",
    "SnapshotFacts",
    "SnapshotShard",
    "check_receipts",
    "compared_sums",
    "newest_snapshot",
    "publish_snapshot",
    "read_snapshot",
    "retired_by",
    "snapshot_numbers",
    "snapshot_path",
]

CATALOG_FOLDER = "catalog"
_SHARD_COLUMNS = pa.schema(
    [
        ("path", pa.string()),
        ("unit_id", pa.string()),
        ("generation", pa.int32()),
        ("rows", pa.int64()),
        ("items", pa.int64()),
        ("frames", pa.int64()),
        ("hours", pa.float64()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("digest", pa.string()),
        ("group_rows", pa.list_(pa.int32())),
        ("group_shortest_frames", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotShard:
    """One live shard."""

    path: str
    unit_id: str
    generation: int
    rows: int
    items: int
    """Planned items of its unit: those with rows + rejects."""
    frames: int
    hours: float
    size_bytes: int
    sha256: str
    digest: str
    row_groups: RowGroups | None = None
    """None: its commit does not say, as those of earlier versions; its footer does."""


class SnapshotFacts(BaseModel):
    """What a snapshot says of itself as a whole."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False)

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    number: int = Field(ge=1)
    recipe_id: str
    created_at: datetime
    generations: tuple[int, ...]
    """Plans whose committed units are in it."""
    units: int
    items: int
    """Items of committed units: those with rows + rejects."""
    rows: int
    rejects: int
    """Filtered items are among them."""
    filtered: int
    rejects_by_reason: dict[str, int]
    frames: int
    hours: float
    """Of audio that has codes."""
    bytes: int
    """Of shards."""
    digest: str
    """Over all rows."""
    receipts: int = Field(default=0, ge=0)
    """Number of the newest receipt that it takes account of; 0: none."""
    dropped: int = Field(default=0, ge=0)
    """Items that were taken out on purpose; they are not counted among `items`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """All live shards at one time, in plan order."""

    facts: SnapshotFacts
    shards: tuple[SnapshotShard, ...]

    @property
    def number(self) -> int:
        """Its place in the catalog, from 1."""
        return self.facts.number


def publish_snapshot(
    storage: Storage, *, recipe_id: str, commits: Iterable[Commit] | None = None, receipts: Receipts | None = None
) -> Snapshot:
    """List every committed shard as the next snapshot, or return the newest one when nothing changed since.

    Crash points: the file appears whole or not at all; without it the previous snapshot is the newest, and the next
    run publishes this one.

    Args:
        storage: The output.
        recipe_id: Of the output.
        commits: All that count, as a run knows them; None reads them.
        receipts: That the commits take account of; None reads them.

    Raises:
        IntegrityError: a commit is unreadable or has another recipe id, or the newest snapshot knows more than these.
    """
    receipts = read_receipts(storage) if receipts is None else receipts
    if commits is None:
        commits = read_all_commits(storage, list_generations(storage), receipts=receipts)
    content = _gather(commits, recipe_id=recipe_id, receipts=receipts)
    while True:
        newest = newest_snapshot(storage)
        if newest is not None:
            _check_follows(newest.facts, receipts=receipts, generations=content.facts.generations)
        snapshot = _numbered(content, 1 if newest is None else newest.number + 1)
        if newest is not None and _same_content(newest, snapshot):
            return newest
        if storage.put_if_absent(snapshot_path(snapshot.number), _to_parquet(snapshot)):
            return snapshot


def check_receipts(receipts: Receipts, newest: Snapshot | None) -> None:
    """Make sure that no receipt is gone which the newest snapshot takes account of.

    Raises:
        IntegrityError: one is: what it took out would come back.
    """
    if newest is not None:
        _check_follows(newest.facts, receipts=receipts, generations=newest.facts.generations)


def _check_follows(newest: SnapshotFacts, *, receipts: Receipts, generations: Iterable[int]) -> None:
    """A snapshot leaves nothing out that the one before took account of."""
    if newest.receipts > receipts.newest:
        raise IntegrityError(
            f"{snapshot_path(newest.number)} takes account of {receipt_path(newest.receipts)}, which is not known "
            "here: either another run took over the output meanwhile, or the receipt was removed; if it is not there, "
            "restore it and the Parquet file beside it from a copy"
        )
    missing = sorted({*newest.generations}.difference(generations))
    if missing:
        raise IntegrityError(
            f"{snapshot_path(newest.number)} takes account of generations {missing}, which are not known here: either "
            "another run took over the output meanwhile, or their plans or commits were removed; run `verify`"
        )


def snapshot_path(number: int) -> str:
    """Where a snapshot is."""
    return f"{CATALOG_FOLDER}/{number:06d}.parquet"


def snapshot_numbers(storage: Storage) -> list[int]:
    """Numbers of all snapshots, in order, by one listing."""
    return listed_numbers(storage, CATALOG_FOLDER, suffix=".parquet")


def newest_snapshot(storage: Storage) -> Snapshot | None:
    """The newest snapshot, for those who build on it: also one that listings do not show yet; None before the first."""
    numbers = numbers_in(storage, CATALOG_FOLDER, suffix=".parquet")
    return _read(storage, numbers[-1]) if numbers else None


def read_snapshot(storage: Storage, number: int | None = None) -> Snapshot:
    """Open a snapshot.

    The newest can always be read: files that a receipt took out stay until a newer snapshot is there. It costs two
    requests, a listing and the file. Where listings lag behind it may be the one before, for as long as they do.

    Args:
        storage: The output.
        number: Which one; None is the newest.

    Raises:
        ConfigError: there is no such snapshot, or a receipt took out files that it lists.
        IntegrityError: it is damaged.
    """
    numbers = snapshot_numbers(storage)
    if number is None:
        if not numbers:
            raise ConfigError(f"output {storage.name!r} has no snapshot yet; `run` publishes one when it is done")
        return _read(storage, numbers[-1])
    try:
        snapshot = _read(storage, number)
    except FileNotFoundError as error:
        choice = ", ".join(map(str, numbers)) or "none"
        raise ConfigError(f"snapshot {number} is not in output {storage.name!r}; choose one of: {choice}") from error
    receipt = retired_by(snapshot, read_receipts(storage)) if number < max(numbers, default=0) else None
    if receipt is not None:
        raise ConfigError(
            f"snapshot {number} of output {storage.name!r} is retired: {receipt_path(receipt)} says which of its "
            f"shards were rewritten, and why; the newest is snapshot {numbers[-1]}"
        )
    return snapshot


def retired_by(snapshot: Snapshot, receipts: Receipts) -> int | None:
    """Number of the first receipt that took out a shard which a snapshot lists; None: all of its shards are live."""
    removed = receipts.removed_paths()
    return min((removed[shard.path] for shard in snapshot.shards if shard.path in removed), default=None)


def compared_sums(totals: Totals | SnapshotFacts) -> tuple[int | str, ...]:
    """The sums in which a snapshot and its commits must agree."""
    return totals.items, totals.rows, totals.rejects, totals.filtered, totals.frames, totals.bytes, totals.digest


def _gather(commits: Iterable[Commit], *, recipe_id: str, receipts: Receipts) -> Snapshot:
    """The snapshot of commits, not numbered yet, by one pass over them."""
    shards = list[tuple[int, int, SnapshotShard]]()
    generations = set[int]()

    def passing() -> Iterator[Commit]:
        for commit in commits:
            if commit.recipe_id != recipe_id:
                raise IntegrityError(
                    f"the commit of unit {commit.unit_id} has recipe id {commit.recipe_id}, the output has "
                    f"{recipe_id}: files of two outputs were mixed; restore the output from a copy"
                )
            generations.add(commit.generation)
            shards.extend((commit.generation, commit.index, shard) for shard in _shards_of(commit))
            yield commit

    totals = total(passing())
    facts = SnapshotFacts(
        number=1,
        recipe_id=recipe_id,
        created_at=datetime.now(UTC),
        generations=tuple(sorted(generations)),
        units=totals.units,
        items=totals.items,
        rows=totals.rows,
        rejects=totals.rejects,
        filtered=totals.filtered,
        rejects_by_reason=dict(totals.rejects_by_reason),
        frames=totals.frames,
        hours=totals.hours,
        bytes=totals.bytes,
        digest=totals.digest,
        receipts=receipts.newest,
        dropped=receipts.num_dropped,
    )
    shards.sort(key=lambda entry: entry[:2])
    return Snapshot(facts=facts, shards=tuple(shard for _, _, shard in shards))


def _shards_of(commit: Commit) -> Iterator[SnapshotShard]:
    for file in commit.shards:
        yield SnapshotShard(
            path=file.path,
            unit_id=commit.unit_id,
            generation=commit.generation,
            rows=file.rows,
            items=commit.num_items,
            frames=commit.num_frames,
            hours=commit.audio_seconds / 3600,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            digest=commit.digest,
            row_groups=file.row_groups,
        )


def _numbered(snapshot: Snapshot, number: int) -> Snapshot:
    return replace(snapshot, facts=snapshot.facts.model_copy(update={"number": number}))


def _same_content(one: Snapshot, other: Snapshot) -> bool:
    blank: dict[str, Any] = {"number": 1, "created_at": one.facts.created_at}
    return one.shards == other.shards and one.facts.model_copy(update=blank) == other.facts.model_copy(update=blank)


def _to_parquet(snapshot: Snapshot) -> bytes:
    plain = [name for name in _SHARD_COLUMNS.names if not name.startswith("group_")]
    columns = {name: [getattr(shard, name) for shard in snapshot.shards] for name in plain}
    groups = [shard.row_groups for shard in snapshot.shards]
    columns["group_rows"] = [None if known is None else known.rows for known in groups]
    columns["group_shortest_frames"] = [None if known is None else known.shortest_frames for known in groups]
    table = pa.table(columns, schema=_SHARD_COLUMNS)
    table = table.replace_schema_metadata({METADATA_KEY: snapshot.facts.model_dump_json().encode()})
    content = BytesIO()
    pq.write_table(table, content, compression="zstd", write_page_checksum=True)
    return content.getvalue()


def _read(storage: Storage, number: int) -> Snapshot:
    path = snapshot_path(number)
    content = storage.read_bytes(path)
    try:
        with open_parquet(BytesIO(content)) as file:
            table = file.read(use_threads=False)
        said = table.schema.metadata[METADATA_KEY]
        check_record_version(said, origin=path)
        facts = SnapshotFacts.model_validate_json(said)
        known = [name for name in _SHARD_COLUMNS.names if name in table.column_names]  # others are passed over
        shards = tuple(map(_to_shard, table.select(known).to_pylist()))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValidationError) as error:
        raise IntegrityError(
            f"{path} is damaged ({error}); delete it and run again: it is made anew from the commits"
        ) from error
    if facts.number != number:
        raise IntegrityError(f"{path} says it is snapshot {facts.number}: it was moved; put it back or delete it")
    return Snapshot(facts=facts, shards=shards)


def _to_shard(row: dict[str, Any]) -> SnapshotShard:
    rows, shortest_frames = row.pop("group_rows", None), row.pop("group_shortest_frames", None)
    known = None if rows is None else RowGroups(rows=tuple(rows), shortest_frames=tuple(shortest_frames))
    return SnapshotShard(**row, row_groups=known)
