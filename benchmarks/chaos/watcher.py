"""Looks at an output and its store once a second, in a thread, so that the blows never wait for a late answer."""

import threading
from collections import Counter
from contextlib import suppress

from benchmarks.chaos.store import Store
from tokenizer_jobs.commits import committed_unit_ids
from tokenizer_jobs.errors import TokenizerJobsError
from tokenizer_jobs.planning import list_generations, read_plan_summary
from tokenizer_jobs.storage import Storage

__all__ = ["Watcher"]

LOOK_SECONDS = 1.0


class Watcher:
    """Knows how many units are committed and what the store met; a context manager.

    Args:
        store: Whose requests are counted.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._output: str | None = None
        self._units: tuple[int, int | None] = (0, None)
        self._requests: tuple[int, Counter[str]] = (0, Counter())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="chaos-watcher", daemon=True)

    def __enter__(self) -> "Watcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def look_at(self, output: str) -> None:
        """Watch another output from now on."""
        self._units, self._output = (0, None), output

    def units(self) -> tuple[int, int | None]:
        """Committed units, and planned ones as soon as there is a plan."""
        return self._units

    def requests(self) -> tuple[int, Counter[str]]:
        """Requests to the store so far, and what went wrong by kind."""
        return self._requests

    def _look(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            with suppress(TokenizerJobsError, OSError, ValueError):
                self._requests = self._store.counts()
                output = self._output
                if output is not None:
                    units = _units(Storage.at(output), self._units[1])
                    if output == self._output:
                        self._units = units


def _units(storage: Storage, planned: int | None) -> tuple[int, int | None]:
    if planned is None:
        generations = list_generations(storage)
        if not generations:
            return 0, None
        planned = read_plan_summary(storage, generations[0]).num_units
    return len(committed_unit_ids(storage, 1)), planned
