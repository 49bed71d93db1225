"""Receipts: what was taken out of an output after it was committed, why, from which files, and their hashes.

    receipts/000001-<hash>.parquet   one line for every row and reject that was removed; named by its own bytes
    receipts/000001.json             why, and each touched unit's files and counts before and after; published last

A receipt is the one step by which a removal happens: until its JSON is there nothing has changed for anybody, and from
then on every reader of commits sees the touched units as the receipt leaves them. Commits themselves stay as they are.
Receipts hold in the order of their numbers.
"""

import hashlib
import re
import socket
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from tokenizer_jobs.commit_records import Commit, CommittedFile, StoredRecord, commit_path
from tokenizer_jobs.errors import IntegrityError, OutputBusyError
from tokenizer_jobs.format_version import parse_record
from tokenizer_jobs.parquet import open_parquet
from tokenizer_jobs.storage import Storage, StoredFile, numbers_in

__all__ = [
    "REMOVED_COLUMNS",
    "Cause",
    "Receipt",
    "Receipts",
    "Rewrite",
    "dropped_items",
    "forgotten_lists",
    "publish_receipt",
    "read_receipts",
    "read_removed",
    "receipt_path",
]

RECEIPTS_FOLDER = "receipts"

REMOVED_COLUMNS = pa.schema(
    [
        ("id", pa.string()),  # of the row, or of the reject
        ("item_id", pa.string()),
        ("unit_id", pa.string()),
        ("generation", pa.int32()),
        ("path", pa.string()),  # the file that it was in
        ("codes_sha256", pa.string()),  # null for a reject
    ]
)

Cause = Literal["drop", "replace", "retry"]


class Rewrite(StoredRecord):
    """One unit before and after a removal."""

    unit_id: str
    generation: int = Field(ge=1)
    before: tuple[CommittedFile, ...]
    after: tuple[CommittedFile, ...]
    """What has no rows left has no file."""
    num_removed: int = Field(ge=0)
    """Its lines in the receipt's Parquet file, where rewrites follow one another in order."""
    items_removed: int = Field(ge=0)
    """Items that have neither a row nor a reject in the unit any more."""
    num_items: int = Field(ge=0)
    """This and the rest as in a commit, after the removal."""
    num_rows: int = Field(ge=0)
    num_rejects: int = Field(ge=0)
    num_filtered: int = Field(ge=0)
    rejects_by_reason: dict[str, int]
    num_frames: int = Field(ge=0)
    audio_seconds: float = Field(ge=0)
    digest: str = Field(pattern="^[0-9a-f]{64}$")
    row_ids_sha256: str = Field(pattern="^[0-9a-f]{64}$")

    def applied_to(self, commit: Commit) -> Commit:
        """The commit as the removal leaves it."""
        left = self.model_dump(exclude={"unit_id", "generation", "before", "after", "num_removed", "items_removed"})
        return commit.model_copy(update={**left, "files": self.after})


class Receipt(StoredRecord):
    """One removal."""

    number: int = Field(ge=1)
    """From 1."""
    cause: Cause
    """drop: asked for; retry: rejects that were tried again; replace: rows of inputs that changed."""
    generation: int | None
    """retry and replace: the generation that has the items from now on; null for drop."""
    recipe_id: str
    base_snapshot: int | None
    """The newest when the removal was made; null: there was none."""
    created_at: datetime
    host: str
    condition: str | None = None
    """drop: the SQL that chose the rows; null: ids did."""
    num_rows: int = Field(ge=0)
    """Removed."""
    num_rejects: int = Field(ge=0)
    """Removed."""
    removed_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the Parquet file beside it."""
    rewrites: tuple[Rewrite, ...]

    @property
    def num_items(self) -> int:
        """Items removed whole from their units."""
        return sum(rewrite.items_removed for rewrite in self.rewrites)


def receipt_path(number: int) -> str:
    """Where a receipt is."""
    return f"{RECEIPTS_FOLDER}/{number:06d}.json"


def _removed_path(number: int, sha256: str) -> str:
    return f"{RECEIPTS_FOLDER}/{number:06d}-{sha256[:8]}.parquet"


def forgotten_lists(storage: Storage) -> list[StoredFile]:
    """Lists of removals that did not happen: of such as died before their receipt, or as may be about to publish it."""
    listed = [file for file in storage.list(RECEIPTS_FOLDER) if re.search(r"/\d+-[0-9a-f]{8}\.parquet$", file.path)]
    named = {_removed_path(receipt.number, receipt.removed_sha256) for receipt in read_receipts(storage).all}
    return [file for file in listed if file.path not in named]


@dataclass(frozen=True, slots=True)
class Receipts:
    """All receipts of an output, in order, at one moment."""

    all: tuple[Receipt, ...] = ()
    _rewrites: dict[tuple[int, str], list[tuple[int, Rewrite]]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rewrites = defaultdict[tuple[int, str], list[tuple[int, Rewrite]]](list)
        for receipt in self.all:
            for rewrite in receipt.rewrites:
                rewrites[rewrite.generation, rewrite.unit_id].append((receipt.number, rewrite))
        object.__setattr__(self, "_rewrites", dict(rewrites))

    @property
    def newest(self) -> int:
        """Number of the newest; 0 before the first."""
        return self.all[-1].number if self.all else 0

    @property
    def num_dropped(self) -> int:
        """Items that were dropped whole."""
        return sum(receipt.num_items for receipt in self.all if receipt.cause == "drop")

    def rewrites_of(self, *, generation: int, unit_id: str) -> tuple[tuple[int, Rewrite], ...]:
        """What happened to a unit, each with the number of its receipt."""
        return tuple(self._rewrites.get((generation, unit_id), ()))

    def effective(self, commit: Commit) -> Commit:
        """A commit as it was published → as removals have left it.

        Raises:
            IntegrityError: the commit is not the one that was there then.
        """
        for number, rewrite in self._rewrites.get((commit.generation, commit.unit_id), ()):
            if _contents(rewrite.before) != _contents(commit.files):
                raise IntegrityError(
                    f"{commit_path(commit.generation, commit.unit_id)} names other files than {receipt_path(number)} "
                    "was written for: one of the two was replaced since; restore it from a copy"
                )
            commit = rewrite.applied_to(commit)
        return commit

    def is_live(self, commit: Commit) -> bool:
        """Whether a commit counts: of items that earlier units had, it does once they are taken out there."""
        return not commit.supersedes or self.has_taken_over(commit.generation)

    def has_taken_over(self, generation: int) -> bool:
        """Whether a generation of items that were known before has been put in place of what was there."""
        return any(receipt.generation == generation for receipt in self.all)

    def kept_paths(self) -> set[str]:
        """Files that the units which lost something have now."""
        return {file.path for rewrites in self._rewrites.values() for file in rewrites[-1][1].after}

    def removed_paths(self) -> dict[str, int]:
        """Files that are no part of the output any more, each with the number of the receipt."""
        return {
            file.path: receipt.number
            for receipt in self.all
            for rewrite in receipt.rewrites
            for file in rewrite.before
            if file not in rewrite.after
        }


def _contents(files: Sequence[CommittedFile]) -> list[tuple[str, str]]:
    return sorted((file.path.partition("/")[0], file.sha256) for file in files)


def dropped_items(storage: Storage, receipts: Receipts) -> frozenset[str]:
    """Ids of the items that were dropped, with all of their rows or with some.

    Raises:
        IntegrityError: what a receipt removed is missing or damaged.
    """
    lists = (read_removed(storage, receipt) for receipt in receipts.all if receipt.cause == "drop")
    return frozenset(item_id for removed in lists for item_id in removed.column("item_id").to_pylist())


def read_receipts(storage: Storage) -> Receipts:
    """Read all receipts.

    Raises:
        IntegrityError: one is unreadable or missing.
    """
    numbers = _numbers(storage)
    if numbers != list(range(1, len(numbers) + 1)):
        raise IntegrityError(
            f"{RECEIPTS_FOLDER}/ has the numbers {numbers}, of which some are missing: restore them from a copy"
        )
    return Receipts(tuple(_read(storage, number) for number in numbers))


def read_removed(storage: Storage, receipt: Receipt) -> pa.Table:
    """Read what a receipt removed, with `REMOVED_COLUMNS`, in the order of its rewrites.

    Raises:
        IntegrityError: the file is missing or damaged.
    """
    path = _removed_path(receipt.number, receipt.removed_sha256)
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing; restore it from a copy") from error
    if hashlib.sha256(content).hexdigest() != receipt.removed_sha256:
        raise IntegrityError(
            f"{path} is not the file that {receipt_path(receipt.number)} names; restore it from a copy"
        )
    with open_parquet(BytesIO(content)) as file:
        return file.read(use_threads=False)


def publish_receipt(
    storage: Storage,
    rewrites: Sequence[Rewrite],
    *,
    removed: pa.Table,
    number: int,
    cause: Cause,
    recipe_id: str,
    base_snapshot: int | None,
    generation: int | None = None,
    condition: str | None = None,
) -> Receipt:
    """Let a removal happen; the new files of its units are published already.

    Crash points, and what a reader sees after each:
        1. before the Parquet file: nothing; new files that no commit names are swept;
        2. before the JSON: the same, and a Parquet file that no reader looks at and a later sweep takes;
        3. after the JSON: the removal, whole. Old files stay until the next snapshot is there, so that the snapshot
           that names them can be read until then.

    Args:
        storage: The output.
        rewrites: The units that it touches.
        removed: With `REMOVED_COLUMNS`, in the order of the rewrites.
        number: One more than that of the newest receipt.
        cause: Why.
        recipe_id: Of the output.
        base_snapshot: The newest.
        generation: What takes the place of the removed, if anything does.
        condition: SQL that chose the rows, if any did.

    Raises:
        OutputBusyError: another run has published this number meanwhile.
    """
    sink = BytesIO()
    pq.write_table(removed.cast(REMOVED_COLUMNS), sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue()
    num_rejects = removed.column("codes_sha256").null_count
    receipt = Receipt(
        number=number,
        cause=cause,
        generation=generation,
        recipe_id=recipe_id,
        base_snapshot=base_snapshot,
        created_at=datetime.now(UTC),
        host=socket.gethostname(),
        condition=condition,
        num_rows=removed.num_rows - num_rejects,
        num_rejects=num_rejects,
        removed_sha256=hashlib.sha256(content).hexdigest(),
        rewrites=tuple(rewrites),
    )
    # Two at once publish lists under names of their own, so that neither spoils what the other's receipt names.
    storage.put_if_absent(_removed_path(number, receipt.removed_sha256), content)
    if storage.put_if_absent(receipt_path(number), receipt.model_dump_json(indent=1).encode()):
        return receipt
    raise OutputBusyError(f"{receipt_path(number)} was published by another run meanwhile; do the same again")


def _numbers(storage: Storage) -> list[int]:
    return numbers_in(storage, RECEIPTS_FOLDER, suffix=".json")


def _read(storage: Storage, number: int) -> Receipt:
    path = receipt_path(number)
    content = storage.read_bytes(path)
    receipt = parse_record(Receipt, content, origin=path, fault="no receipt", remedy="restore it from a copy")
    if receipt.number != number:
        raise IntegrityError(f"{path} is receipt {receipt.number}: it was moved; put it back")
    return receipt
