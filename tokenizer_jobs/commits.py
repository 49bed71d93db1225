"""Commits: the record that makes a unit's files exist, published once and last.

    staged files ──publish_if_absent──▶ codes/, rejects/ ──put_if_absent──▶ _commits/<generation>/<unit>.json

No published file is ever overwritten, so any number of attempts at one unit may run at once, and one that was given
up for dead may come back at any moment (a zombie): whoever puts the commit first decides, and its files are the very
bytes it hashed. An attempt that finds other bytes under its name publishes under a name with its own hash instead.
"""

import hashlib
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from tokenizer_jobs.commit_index import read_records
from tokenizer_jobs.commit_records import (
    Commit,
    CommittedFile,
    EncodeWork,
    commit_folder,
    commit_path,
    ids_sha256,
    parse_commit,
)
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.records import ShardFile, WorkUnit
from tokenizer_jobs.shards import StagedFile, StagedRejects, StagedShard, read_batches
from tokenizer_jobs.storage import Storage

__all__ = [
    "Attempt",
    "Commit",
    "CommittedFile",
    "EncodeWork",
    "Outcome",
    "Published",
    "commit_folder",
    "commit_path",
    "committed_unit_ids",
    "parse_commit",
    "publish_by_hash",
    "publish_unit",
    "read_all_commits",
    "read_commit",
    "read_commits",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What only the commit record says of how a unit was done."""

    number: int
    """From 1."""
    device: str
    started_at: datetime
    stage_seconds: Mapping[str, float]
    encode_work: EncodeWork | None = None


class Outcome(StrEnum):
    """What became of an attempt's work."""

    PUBLISHED = "published"
    """It is the unit's commit."""
    SAME = "same"
    """An earlier commit stands, with the same codes."""
    DIFFERS = "differs"
    """An earlier commit stands, with other codes in some rows: near ties, or worse."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The end of one attempt at a unit."""

    outcome: Outcome
    commit: Commit
    """The one that stands."""
    num_differing: int = 0
    """Rows whose codes differ from those of the commit that stands."""


def publish_unit(
    storage: Storage,
    *,
    unit: WorkUnit,
    recipe_id: str,
    shard: StagedShard,
    rejects: StagedRejects,
    attempt: Attempt,
    takes_over: bool = False,
) -> Published:
    """Publish the staged files of a unit and then its commit; the first commit of a unit wins.

    Crash points, and what a reader sees after each:
        1. before the shard: nothing new; the staged files are swept;
        2. after the shard or the rejects: files that no commit names, which no reader opens. The next attempt keeps
           them where its bytes are equal, else it takes another name and they are swept;
        3. after the commit: the unit, whole.

    Args:
        storage: The output.
        unit: What was planned.
        recipe_id: Of the output.
        shard: Its rows.
        rejects: Its rejects.
        attempt: What only the commit says.
        takes_over: Whether earlier units have these items too, so that the commit counts only once they are out there.

    Raises:
        IntegrityError: rows and rejects are not the planned items; or an earlier commit of the unit has other ids
            or counts.
    """
    staged = [file for file in (shard.file, rejects.file) if file is not None]
    _check_accounting(unit, shard=shard, rejects=rejects)
    try:
        files, new_paths = list[ShardFile](), list[str]()
        for file in staged:
            # A name that is free says that no attempt got this far, or that a receipt took out what had it, which is
            # found where the commit is refused: only a taken one is worth a look for a commit.
            if storage.is_exclusive and storage.publish_if_absent(file.staged, file.target.path):
                files.append(file.target)
                new_paths.append(file.target.path)
                continue
            standing = read_commit(storage, generation=unit.generation, unit_id=unit.unit_id)
            if standing is not None:
                return _lost(storage, standing, files=files, new_paths=new_paths, shard=shard, rejects=rejects)
            files.append(_publish_beside(storage, file))
        commit = _build_commit(
            unit,
            recipe_id=recipe_id,
            files=files,
            shard=shard,
            rejects=rejects,
            attempt=attempt,
            takes_over=takes_over,
        )
        path = commit_path(unit.generation, unit.unit_id)
        if storage.put_if_absent(path, commit.model_dump_json(indent=2).encode()):
            return Published(outcome=Outcome.PUBLISHED, commit=commit)
        standing = parse_commit(storage.read_bytes(path), path=path)
        return _lost(storage, standing, files=files, new_paths=new_paths, shard=shard, rejects=rejects)
    finally:
        for file in staged:
            file.staged.unlink(missing_ok=True)


def committed_unit_ids(storage: Storage, generation: int) -> frozenset[str]:
    """Ids of a generation's committed units, by one listing."""
    files = storage.list(commit_folder(generation))
    return frozenset(_unit_id(file.path) for file in files if file.path.endswith(".json"))


def read_commit(storage: Storage, *, generation: int, unit_id: str, receipts: Receipts | None = None) -> Commit | None:
    """Read the commit of a unit; None when it has none.

    Args:
        storage: The output.
        generation: Of the unit.
        unit_id: Which one.
        receipts: The commit is given as they have left it; None: as it was published.

    Raises:
        IntegrityError: it is unreadable, or not the one that a receipt was written for.
    """
    path = commit_path(generation, unit_id)
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        return None
    commit = parse_commit(content, path=path)
    return commit if receipts is None else receipts.effective(commit)


def read_commits(
    storage: Storage, generation: int, *, receipts: Receipts | None = None, with_pending: bool = False
) -> Iterator[Commit]:
    """Read a generation's commits as receipts have left them, in the order of unit ids.

    Args:
        storage: The output.
        generation: Which one.
        receipts: Of the output, where they are at hand; None reads them.
        with_pending: Whether commits come too that do not count yet, since their items still are in earlier units.

    Raises:
        IntegrityError: one is unreadable, or not the one that a receipt was written for.
    """
    receipts = read_receipts(storage) if receipts is None else receipts
    for path, content in read_records(storage, commit_folder(generation)):
        commit = receipts.effective(parse_commit(content, path=path))
        if with_pending or receipts.is_live(commit):
            yield commit


def read_all_commits(
    storage: Storage, generations: Iterable[int], *, receipts: Receipts, with_pending: bool = False
) -> Iterator[Commit]:
    """Read the commits of several generations, as `read_commits`."""
    for generation in sorted(set(generations)):
        yield from read_commits(storage, generation, receipts=receipts, with_pending=with_pending)


def _unit_id(path: str) -> str:
    return path.rpartition("/")[2].removesuffix(".json")


def _check_accounting(unit: WorkUnit, *, shard: StagedShard, rejects: StagedRejects) -> None:
    done = sorted([*shard.item_ids, *rejects.item_ids])
    if done != sorted(item.id for item in unit.items) or len(set(shard.row_ids)) < len(shard.row_ids):
        raise IntegrityError(
            f"unit {unit.unit_id} has {len(unit.items)} planned items, {len(shard.item_ids)} with rows "
            f"+ {len(rejects.item_ids)} rejects, which are not the same ids each once; nothing was published"
        )


def _build_commit(
    unit: WorkUnit,
    *,
    recipe_id: str,
    files: Sequence[ShardFile],
    shard: StagedShard,
    rejects: StagedRejects,
    attempt: Attempt,
    takes_over: bool,
) -> Commit:
    return Commit(
        unit_id=unit.unit_id,
        generation=unit.generation,
        index=unit.index,
        recipe_id=recipe_id,
        files=tuple(map(CommittedFile.of, files)),
        num_items=len(unit.items),
        num_rows=len(shard.row_ids),
        num_rejects=len(rejects.item_ids),
        num_filtered=rejects.num_filtered,
        rejects_by_reason=dict(rejects.by_reason),
        num_frames=shard.num_frames,
        audio_seconds=shard.audio_seconds,
        digest=shard.digest,
        row_ids_sha256=ids_sha256(shard.row_ids),
        supersedes=tuple(item.id for item in unit.items) if takes_over else (),
        attempt=attempt.number,
        device=attempt.device,
        host=socket.gethostname(),
        started_at=attempt.started_at,
        finished_at=datetime.now(UTC),
        stage_seconds=dict(attempt.stage_seconds),
        encode_work=attempt.encode_work,
    )


def _publish_beside(storage: Storage, file: StagedFile) -> ShardFile:
    """Publish a file whose name is taken: as the one that has it, if that has the same bytes, else under its hash.

    A store that lets two writers have one name gets names with hashes alone: there the later bytes are the same.
    """
    target = file.target
    # An earlier attempt died, or is still alive, between its shard and its commit. Its file may be named by a
    # commit at any moment, so it must stay as it is.
    if storage.is_exclusive and _sha256(storage, target.path) == target.sha256:
        return target
    stem, _, suffix = target.path.rpartition(".")
    return publish_by_hash(storage, replace(file, target=replace(target, path=f"{stem}-{target.sha256[:8]}.{suffix}")))


def publish_by_hash(storage: Storage, file: StagedFile) -> ShardFile:
    """Publish a file whose name holds its own hash; where one is there already, it has the same bytes.

    Crash points: before the publication nothing, after it a file that no commit and no receipt names, which the next
    sweep takes unless one comes to name it.

    Raises:
        IntegrityError: the file that is there has other bytes.
    """
    target = file.target
    if not storage.publish_if_absent(file.staged, target.path) and _sha256(storage, target.path) != target.sha256:
        raise IntegrityError(f"{target.path} is named by its hash and holds other bytes; delete it and run again")
    return target


def _lost(
    storage: Storage,
    standing: Commit,
    *,
    files: Sequence[ShardFile],
    new_paths: Sequence[str],
    shard: StagedShard,
    rejects: StagedRejects,
) -> Published:
    # The files of this attempt are compared and left where they are: no commit names them, and the sweep that ends
    # a run takes them. Deleting them here could hit a twin that was about to be named under equal bytes.
    mine = next(
        (file.path for file in files if shard.file is not None and file.sha256 == shard.file.target.sha256), None
    )
    try:
        return _compare(storage, standing, shard=shard, rejects=rejects, published=mine)
    finally:
        _withdraw(storage, standing, new_paths)


def _withdraw(storage: Storage, standing: Commit, new_paths: Sequence[str]) -> None:
    """Take back what this attempt published of a unit that has lost something since: dropped rows would be back.

    Nobody can come to name these files: their names were free, so that what had them was swept after its receipt.
    """
    left = read_receipts(storage).effective(standing).files
    if left != standing.files:
        for path in new_paths:
            if path not in {file.path for file in left}:
                storage.delete(path)


def _compare(
    storage: Storage,
    standing: Commit,
    *,
    shard: StagedShard,
    rejects: StagedRejects,
    published: str | None = None,
) -> Published:
    counts = (len(shard.row_ids), len(rejects.item_ids))
    if counts != (standing.num_rows, standing.num_rejects) or ids_sha256(shard.row_ids) != standing.row_ids_sha256:
        raise IntegrityError(
            f"unit {standing.unit_id} is committed with {standing.num_rows} rows and {standing.num_rejects} rejects; "
            f"another attempt had {counts[0]} and {counts[1]}, or other ids. An input changed between them, or reading "
            "it fails now and then: run `verify`, then look at the unit's rejects"
        )
    if shard.digest == standing.digest or shard.file is None:
        return Published(outcome=Outcome.SAME, commit=standing)
    try:
        if published is not None:
            ours = _codes_by_id(storage, published)
        else:
            staged = shard.file.staged
            ours = _codes_by_id(Storage.at(staged.parent), staged.name)
        theirs = {row: codes for file in standing.shards for row, codes in _codes_by_id(storage, file.path).items()}
    except FileNotFoundError:  # rewritten, and swept or withdrawn since: this attempt comes very late
        return Published(outcome=Outcome.DIFFERS, commit=standing)
    num_differing = sum(theirs.get(row_id) != codes for row_id, codes in ours.items())
    return Published(outcome=Outcome.DIFFERS, commit=standing, num_differing=num_differing)


def _codes_by_id(storage: Storage, path: str) -> dict[str, str]:
    return {
        row_id: codes
        for batch in read_batches(storage, path, columns=["id", "codes_sha256"])
        for row_id, codes in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    }


def _sha256(storage: Storage, path: str) -> str:
    with storage.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO is what fsspec promises
