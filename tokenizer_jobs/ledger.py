"""The commits of an output as one run knows them: each read once, and kept as its record's bytes.

A driver asks for them again and again: to resume, to judge, to publish, to sweep, to sum up. As objects, 50,000 take
265 MB, as records 60 MB.
"""

from collections.abc import Iterator

from tokenizer_jobs.commit_index import read_records, write_index
from tokenizer_jobs.commits import Commit, commit_folder, commit_path, parse_commit
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.storage import Storage

__all__ = ["Ledger"]


class Ledger:
    """Commits by generation.

    Args:
        storage: The output.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._records: dict[int, dict[str, bytes]] = {}
        self._receipts: Receipts | None = None

    @property
    def receipts(self) -> Receipts:
        """The receipts of the output, read once."""
        if self._receipts is None:
            self._receipts = read_receipts(self._storage)
        return self._receipts

    def forget_receipts(self) -> None:
        """Read the receipts again when they are next asked for: there is a new one."""
        self._receipts = None

    def add(self, commit: Commit) -> None:
        """Take note of a commit that stands."""
        path = commit_path(commit.generation, commit.unit_id)
        self._known(commit.generation)[path] = commit.model_dump_json().encode()

    def num_committed(self, generation: int) -> int:
        """How many units of a generation have a commit."""
        return len(self._known(generation))

    def commits(self, *generations: int, with_pending: bool = False) -> Iterator[Commit]:
        """Commits of generations as receipts have left them, in the order of unit ids within each.

        Args:
            generations: Which ones.
            with_pending: As in `read_commits`.

        Raises:
            IntegrityError: one is unreadable, or not the one that a receipt was written for.
        """
        for generation in generations:
            records = self._known(generation)
            for path in sorted(records):
                commit = self.receipts.effective(parse_commit(records[path], path=path))
                if with_pending or self.receipts.is_live(commit):
                    yield commit

    def settle(self, generation: int) -> None:
        """Read what others have committed meanwhile, and leave an index for those who read this generation next."""
        folder, known = commit_folder(generation), self._known(generation)
        found = dict(read_records(self._storage, folder, known=known))
        self._records[generation] = found
        if not self._storage.is_local and found:
            write_index(self._storage, folder, found)

    def _known(self, generation: int) -> dict[str, bytes]:
        if generation not in self._records:
            self._records[generation] = dict(read_records(self._storage, commit_folder(generation)))
        return self._records[generation]
