"""When work that met failing storage is tried again: each unit after a pause of its own, all together in an outage.

    some units fail     each waits 1, 2, 4 … s and is tried again, 10 times over 6 to 9 minutes; then it is given up
    every unit fails    an outage: nothing is tried but one unit at a time, after 1, 2, 4 … s, which costs it nothing;
                        the first that gets through ends it; after an hour the run ends instead

Pure but for its log: the caller gives the time.
"""

import logging
import zlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from tokenizer_jobs.errors import TransientError

__all__ = ["MAX_STORAGE_FAILURES", "Outage", "Resumable", "StorageOutageError", "Supply", "pause_seconds"]

_log = logging.getLogger(__name__)

MAX_STORAGE_FAILURES = 10
"""Tries of one unit against storage that fails for it, while it serves others, before it is given up."""

FIRST_PAUSE_SECONDS = 1.0
"""Before the next try; doubled each time."""

MAX_PAUSE_SECONDS = 120.0
"""Of one pause, before it is spread by up to a half."""

MAX_OUTAGE_SECONDS = 3600.0
"""After which a run ends: encoders that wait cost what they cost at work, and a run that ended can be resumed."""

MIN_FAILURES = 3
"""In a row, that make an outage; more where more units are in flight: each of them must have failed."""


class StorageOutageError(TransientError):
    """Storage failed for every unit for so long that the run ended; what was committed stays."""


def pause_seconds(num_failures: int, *, key: str) -> float:
    """How long to wait after so many failures in a row.

    Args:
        num_failures: From 1.
        key: Spreads the pauses of those that failed together, by up to a half; always alike for one key.
    """
    spread = 1 + zlib.crc32(f"{key} {num_failures}".encode()) / 2**33
    return min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (num_failures - 1)) * spread


Unit = TypeVar("Unit")


class Resumable(Iterator[Unit]):
    """Units that, where reading them raised a `TransientError`, go on at that place; a generator would be over."""

    @abstractmethod
    def __next__(self) -> Unit: ...


class Supply(Generic[Unit]):
    """Pulls units one at a time; where storage fails for the list of them, there are none for a while.

    Args:
        units: What is pulled; only `Resumable` ones survive failing storage.
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units: Iterator[Unit] | None = iter(units)
        self._num_failures = 0
        self._failing_since = self._next_try = 0.0

    @property
    def has_ended(self) -> bool:
        """No more will come."""
        return self._units is None

    def end(self) -> None:
        """Pull no more."""
        self._units = None

    def take(self, *, now: float) -> Unit | None:
        """The next unit; None when there is none, or none now.

        Raises:
            StorageOutageError: their list could not be read for too long.
        """
        if self._units is None or (self._num_failures and now < self._next_try):
            return None
        try:
            unit = next(self._units, None)
        except TransientError as error:
            if not isinstance(self._units, Resumable):
                raise
            self._wait(error, now=now)
            return None
        self._num_failures = 0
        if unit is None:
            self._units = None
        return unit

    def _wait(self, error: TransientError, *, now: float) -> None:
        self._failing_since = self._failing_since if self._num_failures else now
        self._num_failures += 1
        if now - self._failing_since > MAX_OUTAGE_SECONDS:
            raise StorageOutageError(
                f"the plan could not be read for {MAX_OUTAGE_SECONDS / 60:.0f} minutes ({error}); what was committed "
                "stays; run again to go on once storage serves"
            ) from error
        pause = pause_seconds(self._num_failures, key="plan")
        self._next_try = now + pause
        _log.warning("the next units of the plan cannot be read, next try in %.0f s: %s", pause, error)


class Outage:
    """Whether storage fails for every unit, and who may try meanwhile."""

    def __init__(self) -> None:
        self._failed_units: set[str] = set()
        self._num_failures = 0
        self._since = 0.0
        """When it opened."""
        self._is_open = False
        self._num_tries = 0
        self._next_try = 0.0
        self._tried_by: str | None = None

    @property
    def is_open(self) -> bool:
        """Nobody gets through."""
        return self._is_open

    def enter(self, unit_id: str, *, now: float) -> bool:
        """Whether a unit may be tried now; during an outage it is the only one then, until it ended."""
        if not self._is_open:
            return True
        if self._tried_by is not None or now < self._next_try:
            return False
        self._tried_by = unit_id
        return True

    def left(self, unit_id: str) -> None:
        """Take note that a try ended in a way that says nothing of the storage."""
        self._tried_by = None if self._tried_by == unit_id else self._tried_by

    def passed(self, unit_id: str) -> None:
        """Take note that a unit got through."""
        self.left(unit_id)
        if self._is_open:
            _log.warning("storage serves again; all units go on")
        self._is_open = False
        self._num_failures = self._num_tries = 0
        self._failed_units.clear()

    def failed(self, unit_id: str, *, message: str, num_in_flight: int, now: float) -> bool:
        """Take note that storage failed for a unit; True when the unit itself is not to blame, since all fail.

        Args:
            unit_id: The unit.
            message: What was seen.
            num_in_flight: Other units that are being tried.
            now: In seconds, on the clock of `enter`.

        Raises:
            StorageOutageError: the outage lasts for too long.
        """
        self.left(unit_id)
        self._num_failures += 1
        self._failed_units.add(unit_id)
        in_a_row = max(MIN_FAILURES, num_in_flight + 1)
        opens = not self._is_open and len(self._failed_units) > 1 and self._num_failures >= in_a_row
        if opens:  # units may take hours: when the first of them failed says nothing of how long it lasts
            self._is_open, self._since = True, now
        if not self._is_open:
            return False
        lasted = now - self._since
        if lasted > MAX_OUTAGE_SECONDS:
            raise StorageOutageError(
                f"storage failed for every unit for {lasted / 60:.0f} minutes ({message}); what was committed "
                "stays; run again to go on once it serves"
            )
        if opens or now >= self._next_try:
            self._wait_on(unit_id, message=message, lasted=lasted, now=now)
        return True

    def _wait_on(self, unit_id: str, *, message: str, lasted: float, now: float) -> None:
        self._num_tries += 1
        pause = pause_seconds(self._num_tries, key=unit_id)
        self._next_try = now + pause
        _log.warning(
            "storage fails for every unit, for %.0f s now; the next try is in %.0f s, and the run ends after %.0f "
            "minutes of it: %s",
            lasted, pause, MAX_OUTAGE_SECONDS / 60, message,
        )  # fmt: skip
