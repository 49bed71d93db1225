"""The commit record: what one unit has come to. Written once, never changed; receipts say what was removed since."""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.format_version import parse_record
from tokenizer_jobs.records import RowGroups, ShardFile

__all__ = [
    "Commit",
    "CommittedFile",
    "EncodeWork",
    "StoredRecord",
    "commit_folder",
    "commit_path",
    "ids_sha256",
    "parse_commit",
]

COMMITS_FOLDER = "_commits"


class StoredRecord(BaseModel):
    """A record that is stored as JSON: frozen; fields that later versions of the package add are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, allow_inf_nan=False)


class CommittedFile(StoredRecord):
    """One file that a commit names."""

    path: str
    """Relative to the output."""
    rows: int = Field(ge=1)
    size_bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    row_groups: RowGroups | None = None
    """Of a shard, so that readers need not ask each shard for them; None in outputs of earlier versions."""

    @classmethod
    def of(cls, file: ShardFile) -> Self:
        """The record of a published file."""
        return cls(
            path=file.path,
            rows=file.rows,
            size_bytes=file.size_bytes,
            sha256=file.sha256,
            row_groups=file.row_groups,
        )

    @model_validator(mode="after")
    def _groups_hold_the_rows(self) -> Self:
        groups = self.row_groups
        if groups is not None and (
            sum(groups.rows) != self.rows or len(groups.rows) != len(groups.shortest_frames) or min(groups.rows) < 1
        ):
            raise ValueError(f"row groups {groups} do not hold the {self.rows} rows of {self.path}")
        return self


class EncodeWork(StoredRecord):
    """How a unit was batched for the codec."""

    num_calls: int = Field(ge=0)
    peak_items: int = Field(ge=0)
    """Items in the largest call, those of other units among them."""
    num_samples: int = Field(ge=0)
    """Per channel, that were encoded."""
    num_padded_samples: int = Field(ge=0)
    """That were computed beyond these, since items of different lengths shared a batch."""


class Commit(StoredRecord):
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
    supersedes: tuple[str, ...] = ()
    """Ids of items that earlier units have too, as rejects or with old rows: the unit counts once a receipt has taken
    them out there. Empty for a unit of new items."""
    attempt: int = Field(ge=1)
    device: str
    host: str
    started_at: datetime
    finished_at: datetime
    stage_seconds: dict[str, float]
    """Of the attempt that published: decode_wait, encode_wait (for the codec, while other units have it), encode,
    write. What publishing takes is known only when this record is out."""
    encode_work: EncodeWork | None = None
    """None in outputs of earlier versions, and where nothing was encoded."""

    @property
    def shards(self) -> tuple[CommittedFile, ...]:
        """The files that hold rows."""
        return tuple(file for file in self.files if file.path.startswith("codes/"))

    @property
    def rejects(self) -> tuple[CommittedFile, ...]:
        """The files that hold rejects."""
        return tuple(file for file in self.files if file.path.startswith("rejects/"))


def commit_folder(generation: int) -> str:
    """Where the commits of a generation are."""
    return f"{COMMITS_FOLDER}/{generation:06d}"


def commit_path(generation: int, unit_id: str) -> str:
    """Where the commit of a unit is."""
    return f"{commit_folder(generation)}/{unit_id}.json"


def parse_commit(content: bytes, *, path: str) -> Commit:
    """Understand a commit record.

    Raises:
        NewerFormatError: it has a higher format version.
        IntegrityError: it is none, or not the one of its path.
    """
    commit = parse_record(
        Commit,
        content,
        origin=path,
        fault="not a commit record",
        remedy="restore it from a copy, or delete it and run again",
    )
    if commit_path(commit.generation, commit.unit_id) != path:
        raise IntegrityError(
            f"{path} is the commit of unit {commit.unit_id} of generation {commit.generation}: it was moved; "
            "put it back, or delete it and run again"
        )
    return commit


def ids_sha256(ids: Sequence[str]) -> str:
    """Hex sha256 over ids in order."""
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()
