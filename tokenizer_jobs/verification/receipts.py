"""Whether receipts add up: each with the list beside it, and from every touched commit to what is left of its unit."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from tokenizer_jobs.commit_records import Commit
from tokenizer_jobs.digest import Digest
from tokenizer_jobs.receipts import Receipt, Receipts, Rewrite, read_removed, receipt_path
from tokenizer_jobs.storage import Storage

__all__ = ["ReceiptChecks"]

_ADVICE = "it was edited: restore it from a copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Removed:
    """What one rewrite took out of its unit."""

    num_rows: int
    num_rejects: int
    items: frozenset[str]
    digest: str


@dataclass(slots=True)
class ReceiptChecks:
    """The receipts of an output, against their lists and its commits."""

    receipts: Receipts
    _removed: dict[tuple[int, int, str], _Removed] = field(default_factory=dict)
    """By receipt, generation and unit."""

    def problems(self, storage: Storage, *, recipe_id: str) -> Iterator[str]:
        """Read every list, and say which receipts are of another.

        Raises:
            IntegrityError: a list is missing or damaged.
        """
        for receipt in self.receipts.all:
            table, start, is_whole = read_removed(storage, receipt), 0, True
            for rewrite in receipt.rewrites:
                part = table.slice(start, rewrite.num_removed)
                start += rewrite.num_removed
                units = {*zip(part["generation"].to_pylist(), part["unit_id"].to_pylist(), strict=True)}
                is_whole &= part.num_rows == rewrite.num_removed and units <= {(rewrite.generation, rewrite.unit_id)}
                key = (receipt.number, rewrite.generation, rewrite.unit_id)
                self._removed[key] = _removed_of(part, recipe_id=recipe_id)
            if not is_whole or start != table.num_rows or _counts(receipt) != _counts_of(table):
                yield f"{receipt_path(receipt.number)} does not say what the list beside it says; {_ADVICE}"

    def items_of(self, *, generation: int, unit_id: str) -> frozenset[str]:
        """Items that a unit lost rows or rejects of."""
        numbers = (number for number, _ in self.receipts.rewrites_of(generation=generation, unit_id=unit_id))
        return frozenset[str]().union(*(self._removed[number, generation, unit_id].items for number in numbers))

    def broken_step(self, commit: Commit) -> str | None:
        """Say which receipt does not lead from a commit, as it was published, to what it says is left.

        Raises:
            IntegrityError: the commit is not the one that was there then.
        """
        self.receipts.effective(commit)
        for number, rewrite in self.receipts.rewrites_of(generation=commit.generation, unit_id=commit.unit_id):
            removed = self._removed[number, commit.generation, commit.unit_id]
            if not _adds_up(commit, rewrite, removed):
                return (
                    f"{receipt_path(number)} says of unit {commit.unit_id} what does not follow from its commit and "
                    f"what was removed; {_ADVICE}"
                )
            commit = rewrite.applied_to(commit)
        return None


def _removed_of(part: pa.Table, *, recipe_id: str) -> _Removed:
    digest, hashes = Digest(), part["codes_sha256"].to_pylist()
    for row_id, sha256 in zip(part["id"].to_pylist(), hashes, strict=True):
        if sha256 is not None:
            digest.add_row(row_id, codes_sha256=sha256, recipe_id=recipe_id)
    return _Removed(
        num_rows=len(hashes) - hashes.count(None),
        num_rejects=hashes.count(None),
        items=frozenset(part["item_id"].to_pylist()),
        digest=digest.hex,
    )


def _counts(receipt: Receipt) -> tuple[int, int]:
    return receipt.num_rows, receipt.num_rejects


def _counts_of(table: pa.Table) -> tuple[int, int]:
    num_rejects = table["codes_sha256"].null_count
    return table.num_rows - num_rejects, num_rejects


def _adds_up(before: Commit, after: Rewrite, removed: _Removed) -> bool:
    return (before.num_items, before.num_rows, before.num_rejects, before.digest) == (
        after.num_items + after.items_removed,
        after.num_rows + removed.num_rows,
        after.num_rejects + removed.num_rejects,
        Digest.total([after.digest, removed.digest]).hex,
    )
