"""The units of a generation that are still to be done, read as they are asked for."""

from collections.abc import Container, Iterator

from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.outages import Resumable
from tokenizer_jobs.planning.stored import read_units
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.storage import Storage

__all__ = ["OpenUnits"]


class OpenUnits(Resumable[WorkUnit]):
    """Units without a commit, in order; where storage fails, the next call goes on with the unit that was due.

    Args:
        storage: The output.
        generation: Which one.
        committed: Ids of units that are done, which may become more meanwhile.
    """

    def __init__(self, storage: Storage, generation: int, *, committed: Container[str]) -> None:
        self._storage = storage
        self._generation = generation
        self._committed = committed
        self._last_index = -1
        self._units: Iterator[WorkUnit] | None = None

    def __next__(self) -> WorkUnit:
        """The next one.

        Raises:
            TransientError: the plan could not be read now.
            IntegrityError: the stored plan contradicts its summary.
        """
        if self._units is None:
            self._units = read_units(self._storage, self._generation, after_index=self._last_index)
        try:
            unit = next(unit for unit in self._units if unit.unit_id not in self._committed)
        except TransientError:
            self._units = None
            raise
        self._last_index = unit.index
        return unit
