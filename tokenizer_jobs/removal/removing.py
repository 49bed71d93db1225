"""Removal: which rows and rejects of committed units go, their files once more without them, and the receipt.

find ─▶ rewritten files, under names with their own hash ─▶ receipt: here it happens ─▶ snapshot ─▶ sweep of the old
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from math import fsum
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.commit_records import Commit, CommittedFile, ids_sha256
from tokenizer_jobs.commits import publish_by_hash, read_commits
from tokenizer_jobs.digest import Digest
from tokenizer_jobs.errors import IntegrityError, Stage
from tokenizer_jobs.planning import list_generations, read_item_ids
from tokenizer_jobs.receipts import REMOVED_COLUMNS, Cause, Receipt, Receipts, Rewrite, publish_receipt
from tokenizer_jobs.row_checks import file_facts
from tokenizer_jobs.row_filter import RowFilter
from tokenizer_jobs.row_places import PLACE_COLUMNS, has_row_per_channel, placed_rows
from tokenizer_jobs.shards import StagedFile, read_batches, read_schema, stage_rewritten
from tokenizer_jobs.steps import Steps, untold
from tokenizer_jobs.storage import Storage

__all__ = ["Matcher", "MatchingRows", "NamedItems", "UnitRemoval", "find_removals", "remove"]

_Mask = npt.NDArray[np.bool_]

_COUNTED_COLUMNS = ("id", "codes_sha256", "num_frames", "duration_seconds")


class Matcher(Protocol):
    """What is to be removed."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of rows that it looks at, besides ids."""

    def may_touch(self, planned: Set[str]) -> bool:
        """Whether a unit of these items can have something to remove; its files are read then."""

    def rows(self, batch: pa.RecordBatch, *, item_ids: Sequence[str]) -> _Mask:
        """[rows] that go; the items that they belong to are given beside them."""

    def rejects(self, ids: Sequence[str]) -> _Mask:
        """[rejects] that go."""


@dataclass(frozen=True, slots=True)
class NamedItems:
    """Items with all their rows, or their rejects; and rows by ids of their own."""

    ids: Set[str]
    row_owners: Set[str] = frozenset()
    """Ids of items that `ids` may name rows of."""
    columns: tuple[str, ...] = ()

    def may_touch(self, planned: Set[str]) -> bool:
        """See `Matcher`."""
        return not planned.isdisjoint(self.ids) or not planned.isdisjoint(self.row_owners)

    def rows(self, batch: pa.RecordBatch, *, item_ids: Sequence[str]) -> _Mask:
        """See `Matcher`."""
        row_ids = batch.column("id").to_pylist() if self.row_owners else item_ids
        pairs = zip(row_ids, item_ids, strict=True)
        return np.array([row in self.ids or item in self.ids for row, item in pairs], np.bool_)

    def rejects(self, ids: Sequence[str]) -> _Mask:
        """See `Matcher`."""
        return np.array([item_id in self.ids for item_id in ids], np.bool_)


@dataclass(frozen=True, slots=True)
class MatchingRows:
    """Rows that a condition chooses; no rejects."""

    condition: RowFilter

    @property
    def columns(self) -> tuple[str, ...]:
        """See `Matcher`."""
        return self.condition.columns

    def may_touch(self, planned: Set[str]) -> bool:
        """See `Matcher`."""
        return bool(planned)

    def rows(self, batch: pa.RecordBatch, *, item_ids: Sequence[str]) -> _Mask:
        """See `Matcher`."""
        assert len(item_ids) == batch.num_rows
        return self.condition.mask(batch)

    def rejects(self, ids: Sequence[str]) -> _Mask:
        """See `Matcher`."""
        return np.zeros(len(ids), np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitRemoval:
    """What one unit loses."""

    commit: Commit
    """As it is until then."""
    kept: dict[str, _Mask] = field(default_factory=dict)
    """[rows of the file] by its path, for the files that change."""
    removed: pa.Table = field(default_factory=REMOVED_COLUMNS.empty_table)
    """With `REMOVED_COLUMNS`."""
    items_removed: int = 0
    """Items that have neither a row nor a reject left."""
    attempts: dict[str, int] = field(default_factory=dict)
    """By id of the removed rejects: how often they were tried."""
    more_attempts: dict[str, int] = field(default_factory=dict)
    """By id of rejects that stay: how often they were tried before, to be added."""


def find_removals(
    storage: Storage, matcher: Matcher, *, receipts: Receipts, report: Steps = untold
) -> Iterator[UnitRemoval]:
    """Find what each live unit loses; nothing is written.

    Args:
        storage: The output.
        matcher: What is to go.
        receipts: Of the output until now.
        report: Told how many `units` were looked at, of those of the generations so far.

    Raises:
        IntegrityError: a plan, a commit or a file is damaged.
    """
    done = total = 0
    for generation in list_generations(storage):
        commits = {commit.unit_id: commit for commit in read_commits(storage, generation, receipts=receipts)}
        total += len(commits)
        for unit_id, item_ids in read_item_ids(storage, generation) if commits else ():
            planned, commit = frozenset(item_ids), commits.get(unit_id)
            if commit is not None and commit.files and matcher.may_touch(planned):
                removal = _look_at(storage, commit, matcher=matcher)
                if removal is not None:
                    yield removal
            if commit is not None:
                done += 1
                report("units", done, total)


def remove(
    storage: Storage,
    removals: Iterable[UnitRemoval],
    *,
    receipts: Receipts,
    cause: Cause,
    recipe_id: str,
    base_snapshot: int | None,
    still_ours: Callable[[], object],
    generation: int | None = None,
    condition: str | None = None,
) -> Receipt:
    """Rewrite the units' files and publish the receipt, with which the removal happens.

    Crash points: rewritten files are new names, which no commit names until the receipt is there, so that a removal
    that dies before changes nothing and the next sweep takes them; after that see `publish_receipt`.

    Args:
        storage: The output.
        removals: From `find_removals`.
        receipts: Of the output until now.
        cause: Why.
        recipe_id: Of the output.
        base_snapshot: The newest.
        still_ours: Called before the receipt; raises when the output is another run's by now.
        generation: What takes the place of the removed, if anything does.
        condition: SQL that chose the rows, if any did.

    Raises:
        IntegrityError: a file is damaged, or its rows do not add up to its commit.
    """
    rewrites, removed = list[Rewrite](), [REMOVED_COLUMNS.empty_table()]
    for removal in removals:
        rewrites.append(_rewrite(storage, removal, recipe_id=recipe_id))
        removed.append(removal.removed)
    still_ours()
    return publish_receipt(
        storage,
        rewrites,
        removed=pa.concat_tables(removed),
        number=receipts.newest + 1,
        cause=cause,
        recipe_id=recipe_id,
        base_snapshot=base_snapshot,
        generation=generation,
        condition=condition,
    )


def _look_at(storage: Storage, commit: Commit, *, matcher: Matcher) -> UnitRemoval | None:
    kept, parts, attempts = dict[str, _Mask](), list[pa.Table](), dict[str, int]()
    gone, left = set[str](), set[str]()
    for file in commit.files:
        is_shard = file in commit.shards
        wanted = [*PLACE_COLUMNS, "codes_sha256", *matcher.columns] if is_shard else ["id", "attempts"]
        masks, per_channel = (
            list[_Mask](),
            is_shard and has_row_per_channel(file_facts(read_schema(storage, file.path))),
        )
        for batch in read_batches(storage, file.path, columns=list(dict.fromkeys(wanted))):
            item_ids: list[str] = batch.column("id").to_pylist()
            if is_shard:
                item_ids = [row.item_id for row in placed_rows(batch, per_channel=per_channel)]
            is_gone = matcher.rows(batch, item_ids=item_ids) if is_shard else matcher.rejects(item_ids)
            masks.append(~is_gone)
            for item_id, goes in zip(item_ids, is_gone.tolist(), strict=True):
                (gone if goes else left).add(item_id)
            if is_gone.any():
                part = _removed_part(batch, item_ids, is_gone, commit=commit, path=file.path)
                parts.append(part)
                if not is_shard:
                    tried = batch.column("attempts").filter(pa.array(is_gone)).to_pylist()
                    attempts |= dict(zip(part.column("id").to_pylist(), tried, strict=True))
        mask = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
        if not mask.all():
            kept[file.path] = mask
    if not kept:
        return None
    return UnitRemoval(
        commit=commit,
        kept=kept,
        removed=pa.concat_tables(parts),
        items_removed=len(gone - left),
        attempts=attempts,
    )


def _removed_part(
    batch: pa.RecordBatch, item_ids: Sequence[str], is_gone: _Mask, *, commit: Commit, path: str
) -> pa.Table:
    gone, num_gone = batch.filter(pa.array(is_gone)), int(is_gone.sum())
    hashes = gone.column("codes_sha256") if "codes_sha256" in batch.schema.names else pa.nulls(num_gone, pa.string())
    columns = [
        gone.column("id"),
        pa.array(item_ids, pa.string()).filter(pa.array(is_gone)),
        pa.repeat(pa.scalar(commit.unit_id), num_gone),
        pa.repeat(pa.scalar(commit.generation, pa.int32()), num_gone),
        pa.repeat(pa.scalar(path), num_gone),
        hashes,
    ]
    return pa.Table.from_arrays(columns, schema=REMOVED_COLUMNS)


@dataclass(slots=True)
class _Left:
    """Counts of what is left of one unit."""

    row_ids: list[str] = field(default_factory=list)
    digest: Digest = field(default_factory=Digest)
    num_frames: int = 0
    durations: list[float] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    num_filtered: int = 0

    def count_rows(self, storage: Storage, path: str, *, recipe_id: str) -> None:
        for batch in read_batches(storage, path, columns=_COUNTED_COLUMNS):
            for row_id, sha256, num_frames, seconds in zip(*(c.to_pylist() for c in batch.columns), strict=True):
                self.row_ids.append(row_id)
                self.digest.add_row(row_id, codes_sha256=sha256, recipe_id=recipe_id)
                self.num_frames += num_frames
                self.durations.append(seconds)

    def count_rejects(self, storage: Storage, path: str) -> None:
        for batch in read_batches(storage, path, columns=["reason", "stage"]):
            self.reasons.update(batch.column("reason").to_pylist())
            self.num_filtered += batch.column("stage").to_pylist().count(Stage.FILTER.value)


def _rewrite(storage: Storage, removal: UnitRemoval, *, recipe_id: str) -> Rewrite:
    """Publish the files of a unit without what it loses, and count what is left in them."""
    commit, left = removal.commit, _Left()
    part_name = f"part-{commit.generation:06d}-{commit.index:05d}-{commit.unit_id}"
    after = list[CommittedFile]()
    for file in commit.files:
        kept, is_shard = removal.kept.get(file.path), file in commit.shards
        more = {} if is_shard else removal.more_attempts
        if kept is None and not more:
            _count(left, storage, file.path, is_shard=is_shard, recipe_id=recipe_id)
            after.append(file)
            continue
        staged = stage_rewritten(
            storage,
            file.path,
            part_name=part_name,
            kept=np.ones(file.rows, np.bool_) if kept is None else kept,
            more_attempts=more,
        )
        if staged is not None:
            nearby = Storage.at(staged.staged.parent)
            _count(left, nearby, staged.staged.name, is_shard=is_shard, recipe_id=recipe_id)
            after.append(_publish(storage, staged))
    _check_digest(removal, left=left.digest, recipe_id=recipe_id)
    return Rewrite(
        unit_id=commit.unit_id,
        generation=commit.generation,
        before=commit.files,
        after=tuple(after),
        num_removed=removal.removed.num_rows,
        items_removed=removal.items_removed,
        num_items=commit.num_items - removal.items_removed,
        num_rows=len(left.row_ids),
        num_rejects=sum(left.reasons.values()),
        num_filtered=left.num_filtered,
        rejects_by_reason=dict(sorted(left.reasons.items())),
        num_frames=left.num_frames,
        audio_seconds=fsum(left.durations),
        digest=left.digest.hex,
        row_ids_sha256=ids_sha256(left.row_ids),
    )


def _count(left: _Left, storage: Storage, path: str, *, is_shard: bool, recipe_id: str) -> None:
    if is_shard:
        left.count_rows(storage, path, recipe_id=recipe_id)
    else:
        left.count_rejects(storage, path)


def _publish(storage: Storage, staged: StagedFile) -> CommittedFile:
    try:
        return CommittedFile.of(publish_by_hash(storage, staged))
    finally:
        staged.staged.unlink(missing_ok=True)


def _check_digest(removal: UnitRemoval, *, left: Digest, recipe_id: str) -> None:
    """What is left and what is removed add up to what there was, exactly."""
    whole = Digest(left.hex)
    ids, hashes = (removal.removed.column(name).to_pylist() for name in ("id", "codes_sha256"))
    for row_id, sha256 in zip(ids, hashes, strict=True):
        if sha256 is not None:
            whole.add_row(row_id, codes_sha256=sha256, recipe_id=recipe_id)
    if whole.hex != removal.commit.digest:
        files = json.dumps([file.path for file in removal.commit.shards])
        raise IntegrityError(
            f"the rows of {files} do not add up to the digest of their commit; nothing was removed: run `verify`"
        )
