"""Commits: the record that makes a unit's files exist, published once and last.

    staged files ──publish_if_absent──▶ codes/, rejects/ ──put_if_absent──▶ _commits/<generation>/<unit>.json

No published file is ever overwritten, so any number of attempts at one unit may run at once, and one that was given
up for dead may come back at any moment (a zombie): whoever puts the commit first decides, and its files are the very
bytes it hashed. An attempt that finds other bytes under its name publishes under a name with its own hash instead.
"""

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenizer_jobs.commit_index import read_records
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import ShardFile, WorkUnit
from tokenizer_jobs.shards import StagedFile, StagedRejects, StagedShard, read_batches
from tokenizer_jobs.storage import Storage

__all__ = [
    "Attempt",
    "Commit",
    "CommittedFile",
    "Outcome",
    "Published",
    "commit_folder",
    "commit_path",
    "committed_unit_ids",
    "parse_commit",
    "publish_unit",
    "read_commit",
    "read_commits",
]

COMMITS_FOLDER = "_commits"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class CommittedFile(_Stored):
    """One file that a commit names."""

    path: str
    """Relative to the output."""
    rows: int = Field(ge=1)
    size_bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Commit(_Stored):
    """One unit, done."""

    unit_id: str
    generation: int = Field(ge=1)
    index: int = Field(ge=0)
    """Place of the unit in its plan."""
    recipe_id: str
    files: tuple[CommittedFile, ...]
    """The shard and the rejects; what has no rows has no file."""
    num_items: int = Field(ge=0)
    """Items with at least one row + rejects."""
    num_rows: int = Field(ge=0)
    num_rejects: int = Field(ge=0)
    """Filtered items are among them."""
    num_filtered: int = Field(ge=0)
    rejects_by_reason: dict[str, int]
    num_frames: int = Field(ge=0)
    audio_seconds: float = Field(ge=0)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    row_ids_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Over the rows' ids in order; with the counts it says whether two attempts agree on what has rows."""
    attempt: int = Field(ge=1)
    device: str
    host: str
    started_at: datetime
    finished_at: datetime
    stage_seconds: dict[str, float]

    @property
    def shards(self) -> tuple[CommittedFile, ...]:
        """The files that hold rows."""
        return tuple(file for file in self.files if file.path.startswith("codes/"))

    @property
    def rejects(self) -> tuple[CommittedFile, ...]:
        """The files that hold rejects."""
        return tuple(file for file in self.files if file.path.startswith("rejects/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What only the commit record says of how a unit was done."""

    number: int
    """From 1."""
    device: str
    started_at: datetime
    stage_seconds: Mapping[str, float]


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
) -> Published:
    """Publish the staged files of a unit and then its commit; the first commit of a unit wins.

    Crash points, and what a reader sees after each:
        1. before the shard: nothing new; the staged files are swept;
        2. after the shard or the rejects: files that no commit names, which no reader opens. The next attempt keeps
           them where its bytes are equal, else it takes another name and they are swept;
        3. after the commit: the unit, whole.

    Raises:
        IntegrityError: rows and rejects are not the planned items; or an earlier commit of the unit has other ids
            or counts.
    """
    staged = [file for file in (shard.file, rejects.file) if file is not None]
    _check_accounting(unit, shard=shard, rejects=rejects)
    try:
        files = list[ShardFile]()
        for file in staged:
            # A name that is free says that no attempt got this far: only a taken one is worth a look for a commit.
            if storage.publish_if_absent(file.staged, file.target.path):
                files.append(file.target)
                continue
            standing = read_commit(storage, generation=unit.generation, unit_id=unit.unit_id)
            if standing is not None:
                return _lost(storage, standing, files=files, shard=shard, rejects=rejects)
            files.append(_publish_beside(storage, file))
        commit = _build_commit(unit, recipe_id=recipe_id, files=files, shard=shard, rejects=rejects, attempt=attempt)
        path = commit_path(unit.generation, unit.unit_id)
        if storage.put_if_absent(path, commit.model_dump_json(indent=2).encode()):
            return Published(outcome=Outcome.PUBLISHED, commit=commit)
        standing = parse_commit(storage.read_bytes(path), path=path)
        return _lost(storage, standing, files=files, shard=shard, rejects=rejects)
    finally:
        for file in staged:
            file.staged.unlink(missing_ok=True)


def commit_folder(generation: int) -> str:
    """Where the commits of a generation are."""
    return f"{COMMITS_FOLDER}/{generation:06d}"


def commit_path(generation: int, unit_id: str) -> str:
    """Where the commit of a unit is."""
    return f"{commit_folder(generation)}/{unit_id}.json"


def committed_unit_ids(storage: Storage, generation: int) -> frozenset[str]:
    """Ids of a generation's committed units, by one listing."""
    files = storage.list(commit_folder(generation))
    return frozenset(_unit_id(file.path) for file in files if file.path.endswith(".json"))


def read_commit(storage: Storage, *, generation: int, unit_id: str) -> Commit | None:
    """Read the commit of a unit; None when it has none.

    Raises:
        IntegrityError: it is unreadable.
    """
    path = commit_path(generation, unit_id)
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        return None
    return parse_commit(content, path=path)


def read_commits(storage: Storage, generation: int) -> Iterator[Commit]:
    """Read a generation's commits, in the order of unit ids.

    Raises:
        IntegrityError: one is unreadable.
    """
    for path, content in read_records(storage, commit_folder(generation)):
        yield parse_commit(content, path=path)


def parse_commit(content: bytes, *, path: str) -> Commit:
    """Understand a commit record.

    Raises:
        IntegrityError: it is none, or not the one of its path.
    """
    try:
        commit = Commit.model_validate_json(content)
    except ValidationError as error:
        detail = error.errors()[0]
        raise IntegrityError(
            f"{path} is not a commit record ({'.'.join(map(str, detail['loc']))}: {detail['msg']}); "
            "restore it from a copy, or delete it and run again"
        ) from error
    if commit_path(commit.generation, commit.unit_id) != path:
        raise IntegrityError(
            f"{path} is the commit of unit {commit.unit_id} of generation {commit.generation}: it was moved; "
            "put it back, or delete it and run again"
        )
    return commit


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
) -> Commit:
    return Commit(
        unit_id=unit.unit_id,
        generation=unit.generation,
        index=unit.index,
        recipe_id=recipe_id,
        files=tuple(
            CommittedFile(path=file.path, rows=file.rows, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in files
        ),
        num_items=len(unit.items),
        num_rows=len(shard.row_ids),
        num_rejects=len(rejects.item_ids),
        num_filtered=rejects.num_filtered,
        rejects_by_reason=dict(rejects.by_reason),
        num_frames=shard.num_frames,
        audio_seconds=shard.audio_seconds,
        digest=shard.digest,
        row_ids_sha256=_ids_sha256(shard.row_ids),
        attempt=attempt.number,
        device=attempt.device,
        host=socket.gethostname(),
        started_at=attempt.started_at,
        finished_at=datetime.now(UTC),
        stage_seconds=dict(attempt.stage_seconds),
    )


def _publish_beside(storage: Storage, file: StagedFile) -> ShardFile:
    """Publish a file whose name is taken: as the one that has it, if that has the same bytes, else under its hash."""
    target = file.target
    # An earlier attempt died, or is still alive, between its shard and its commit. Its file may be named by a
    # commit at any moment, so it must stay as it is.
    if _sha256(storage, target.path) == target.sha256:
        return target
    stem, _, suffix = target.path.rpartition(".")
    path = f"{stem}-{target.sha256[:8]}.{suffix}"
    if not storage.publish_if_absent(file.staged, path) and _sha256(storage, path) != target.sha256:
        raise IntegrityError(f"{path} is named by its hash and holds other bytes; delete it and run again")
    return ShardFile(path=path, rows=target.rows, size_bytes=target.size_bytes, sha256=target.sha256)


def _lost(
    storage: Storage,
    standing: Commit,
    *,
    files: Sequence[ShardFile],
    shard: StagedShard,
    rejects: StagedRejects,
) -> Published:
    # The files of this attempt are compared and left where they are: no commit names them, and the sweep that ends
    # a run takes them. Deleting them here could hit a twin that was about to be named under equal bytes.
    mine = next(
        (file.path for file in files if shard.file is not None and file.sha256 == shard.file.target.sha256), None
    )
    return _compare(storage, standing, shard=shard, rejects=rejects, published=mine)


def _compare(
    storage: Storage,
    standing: Commit,
    *,
    shard: StagedShard,
    rejects: StagedRejects,
    published: str | None = None,
) -> Published:
    counts = (len(shard.row_ids), len(rejects.item_ids))
    if counts != (standing.num_rows, standing.num_rejects) or _ids_sha256(shard.row_ids) != standing.row_ids_sha256:
        raise IntegrityError(
            f"unit {standing.unit_id} is committed with {standing.num_rows} rows and {standing.num_rejects} rejects; "
            f"another attempt had {counts[0]} and {counts[1]}, or other ids. An input changed between them, or reading "
            "it fails now and then: run `verify`, then look at the unit's rejects"
        )
    if shard.digest == standing.digest or shard.file is None:
        return Published(outcome=Outcome.SAME, commit=standing)
    if published is not None:
        ours = _codes_by_id(storage, published)
    else:
        staged = shard.file.staged
        ours = _codes_by_id(Storage.at(staged.parent), staged.name)
    theirs = {row_id: codes for file in standing.shards for row_id, codes in _codes_by_id(storage, file.path).items()}
    num_differing = sum(theirs.get(row_id) != codes for row_id, codes in ours.items())
    return Published(outcome=Outcome.DIFFERS, commit=standing, num_differing=num_differing)


def _codes_by_id(storage: Storage, path: str) -> dict[str, str]:
    return {
        row_id: codes
        for batch in read_batches(storage, path, columns=["id", "codes_sha256"])
        for row_id, codes in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    }


def _ids_sha256(ids: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _sha256(storage: Storage, path: str) -> str:
    with storage.open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO is what fsspec promises
