"""Rejects by reason, with a few of each as examples; files of rejects are read only until the examples are found."""

from dataclasses import dataclass, field

from tokenizer_jobs.commit_records import Commit, StoredRecord
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import Storage

__all__ = ["ReasonShown", "RejectReader", "RejectShown"]

EXAMPLES = 5
"""Of each reason."""
LONGEST_TEXT = 500
"""Of an id or a message, in an example."""
_COLUMNS = ("id", "source_uri", "stage", "reason", "message", "attempts")


class RejectShown(StoredRecord):
    """One reject."""

    id: str
    source_uri: str
    message: str
    attempts: int


class ReasonShown(StoredRecord):
    """All rejects of one reason."""

    reason: str
    stage: str | None
    """Of the examples; null where none was found."""
    items: int
    examples: tuple[RejectShown, ...]


@dataclass(slots=True)
class RejectReader:
    """Counts rejects by their commits, and remembers where examples of each reason are."""

    _counts: dict[str, int] = field(default_factory=dict)
    _paths: dict[str, list[str]] = field(default_factory=dict)
    """A few files that hold rejects of a reason."""

    def add(self, commit: Commit) -> None:
        """Take in one commit."""
        for reason, count in commit.rejects_by_reason.items():
            self._counts[reason] = self._counts.get(reason, 0) + count
            paths = self._paths.setdefault(reason, [])
            if len(paths) < EXAMPLES:
                paths.extend(file.path for file in commit.rejects)

    def read(self, storage: Storage, problems: list[str]) -> tuple[ReasonShown, ...]:
        """Find the examples, the most frequent reason first.

        Args:
            storage: The output.
            problems: Takes a line for each file that cannot be read.
        """
        examples: dict[str, list[RejectShown]] = {reason: [] for reason in self._counts}
        stages: dict[str, str] = {}
        for path in sorted({path for paths in self._paths.values() for path in paths}):
            try:
                for batch in read_batches(storage, path, columns=_COLUMNS):
                    for row in batch.to_pylist():
                        found = examples.setdefault(row["reason"], [])
                        stages.setdefault(row["reason"], row["stage"])
                        if len(found) < EXAMPLES:
                            found.append(_shown(row))
            except FileNotFoundError:
                problems.append(f"{path} was not there any more: the output changed meanwhile, or the file was lost")
            except IntegrityError as error:
                problems.append(str(error))
        ordered = sorted(self._counts, key=lambda reason: (-self._counts[reason], reason))
        return tuple(
            ReasonShown(
                reason=reason, stage=stages.get(reason), items=self._counts[reason], examples=tuple(examples[reason])
            )
            for reason in ordered
        )


def _shown(row: dict[str, object]) -> RejectShown:
    attempts = row["attempts"]
    return RejectShown(
        id=_short(row["id"]),
        source_uri=_short(row["source_uri"]),
        message=_short(row["message"]),
        attempts=attempts if isinstance(attempts, int) else 1,
    )


def _short(text: object) -> str:
    words = "" if text is None else str(text)
    return words if len(words) <= LONGEST_TEXT else f"{words[:LONGEST_TEXT]}…"
