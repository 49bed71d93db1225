"""The commits of an output as one run knows them: each read once, and kept as its record's bytes.

A driver asks for them again and again: to resume, to judge, to publish, to sweep, to sum up. As objects, 50,000 take
265 MB, as packed records 25 MB.
"""

import logging
from collections.abc import Iterator

from tokenizer_jobs.commit_index import list_records, read_listed, read_records, write_index
from tokenizer_jobs.commits import Commit, commit_folder, commit_path, parse_commit
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.logs import log_event
from tokenizer_jobs.packed_records import PackedRecords
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.storage import Storage

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

FIRST_INDEX = 1024
"""Records from which an index is kept while a run goes on: fewer are read in some seconds."""
INDEX_GROWTH = 1.25
"""Records at the next index to those at this one: a reader misses a fifth at most, and all the indices that a run
writes are five times the last."""


class Ledger:
    """Commits by generation.

    Args:
        storage: The output.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._records: dict[int, PackedRecords] = {}
        self._index_due: dict[int, int] = {}
        """Records of a generation at which its index is next written."""
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
        known = self._known(commit.generation)
        known[path] = commit.model_dump_json().encode()
        if not self._storage.is_local and len(known) >= self._index_due.get(commit.generation, FIRST_INDEX):
            self._write_index(commit.generation)

    def _write_index(self, generation: int) -> None:
        """Leave an index in the middle of a run, for who asks how it goes, and for a resume."""
        known = self._known(generation)
        self._index_due[generation] = int(INDEX_GROWTH * len(known))
        try:
            write_index(self._storage, commit_folder(generation), known)
        except TransientError as error:  # it is only a copy, and the next one comes
            log_event(_log, logging.WARNING, "index_not_written", generation=generation, detail=str(error))

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
        """Read what others have committed meanwhile, and leave an index for those who read this generation next.

        A commit that this run knows stays known where a listing lags behind and does not show it yet. Where the store
        let two writers believe that they won, the records are read again: what it has now is what counts.
        """
        folder, known = commit_folder(generation), self._known(generation)
        held = known if self._storage.is_exclusive else PackedRecords()
        listed = list_records(self._storage, folder)
        new = {path: version for path, version in listed.items() if path not in held}
        known.update(read_listed(self._storage, folder, new))
        if not self._storage.is_local and known:
            write_index(self._storage, folder, known)

    def _known(self, generation: int) -> PackedRecords:
        if generation not in self._records:
            self._records[generation] = PackedRecords(read_records(self._storage, commit_folder(generation)))
        return self._records[generation]
