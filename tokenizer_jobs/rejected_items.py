"""The rejects of an output one by one: what a person reads before mending the inputs and trying them again."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from tokenizer_jobs.errors import Stage
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.planning import list_generations
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import Storage

__all__ = ["RejectedRow", "read_rejects"]

_COLUMNS = ("id", "source_uri", "source_member", "stage", "reason", "message", "attempts")


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRow:
    """One item that has no codes."""

    id: str
    source_uri: str
    source_member: str | None
    stage: str
    reason: str
    message: str
    attempts: int


def read_rejects(output: str, *, most: int) -> list[RejectedRow]:
    """The first rejects of an output in the order of its plans, those that a filter left out after all others.

    Args:
        output: Local path or fsspec URL.
        most: Rejects to give.

    Raises:
        ConfigError: there is no output.
        IntegrityError: what is stored is damaged.
    """
    storage = Storage.at(output)
    read_recipe(storage)  # an output
    found, filtered = list[RejectedRow](), list[RejectedRow]()
    for row in _rejects(storage):
        if len(found) == most:
            break
        if row.stage != Stage.FILTER:
            found.append(row)
        elif len(filtered) < most:
            filtered.append(row)
    return [*found, *islice(filtered, most - len(found))]


def _rejects(storage: Storage) -> Iterator[RejectedRow]:
    for commit in Ledger(storage).commits(*list_generations(storage)):
        for file in commit.rejects:
            for batch in read_batches(storage, file.path, columns=_COLUMNS):
                yield from (RejectedRow(**row) for row in batch.to_pylist())
