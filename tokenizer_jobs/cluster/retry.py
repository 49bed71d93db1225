"""Which attempt at which unit runs next, and where; pure: the caller gives the time and reports what happened.

fresh ──▶ in flight ──▶ done
            │  ▲
            │  └── again after a pause ◀── storage failed (3 tries)
            │
            └── a worker died ──▶ again, carefully and alone on its encoder (infrastructure budget)
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tokenizer_jobs.executors import MAX_TRANSIENT_FAILURES, UnitFailed
from tokenizer_jobs.records import WorkUnit

__all__ = ["MAX_UNITS_PER_ENCODER", "UNITS_PER_ENCODER", "Attempt", "Failure", "Schedule"]

UNITS_PER_ENCODER = 2
"""Units in flight on one encoder, so that one decodes while the other encodes."""

MAX_UNITS_PER_ENCODER = 4
"""Units in flight where each is a single recording: two meet in one call of the encoder while two decode."""
MAX_SINGLES_SECONDS = 3600.0
"""Audio of such units on one encoder from which it gets no more: they are in its memory whole."""

FIRST_PAUSE_SECONDS = 0.5
"""Wait before a unit meets failing storage again; doubled each time."""


class Failure(StrEnum):
    """Why an attempt failed, as far as it can be tried again."""

    WORKER_LOST = "a worker was lost"
    STORAGE = "storage failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one unit."""

    unit: WorkUnit
    number: int
    """From 1."""
    careful: bool
    """A worker died on the unit before: run it alone on an encoder, and decode its records in killable processes."""
    num_lost_workers: int = 0
    num_storage_failures: int = 0


class Schedule:
    """Hands out attempts to encoders, and turns failures into further attempts.

    Args:
        units: Pulled one at a time, as encoders become free.
        max_lost_workers: Lost workers that one unit may meet before it is given up.
        max_units: In flight on one encoder where each is a single recording.
    """

    def __init__(self, units: Iterable[WorkUnit], *, max_lost_workers: int, max_units: int = UNITS_PER_ENCODER) -> None:
        self._max_units = max_units
        self._units: Iterator[WorkUnit] | None = iter(units)
        self._pulled: deque[WorkUnit] = deque()
        self._max_lost_workers = max_lost_workers
        self._waiting: list[tuple[float, int, Attempt]] = []
        self._order = itertools.count()
        self._in_flight: dict[str, list[Attempt]] = {}

    @property
    def num_in_flight(self) -> int:
        """Attempts that were handed out and have not ended."""
        return sum(map(len, self._in_flight.values()))

    @property
    def finished(self) -> bool:
        """Nothing is in flight and nothing is left to hand out."""
        return self._units is None and not self._pulled and not self._waiting and not self.num_in_flight

    def stop(self) -> None:
        """Hand out nothing any more; what is in flight may end."""
        self._units = None
        self._pulled.clear()
        self._waiting.clear()

    def assign(self, encoders: Sequence[str], *, now: float, num_coming: int = 0) -> list[tuple[str, Attempt]]:
        """Choose attempts for encoders that have room, idle encoders first.

        Args:
            encoders: Names of those that are ready for work.
            now: In seconds, on the clock of `failed`.
            num_coming: Encoders that are starting. The last units are left to them: the first one to be ready must not
                take all of a short job.
        """
        given = [*self._assign_careful(encoders, now=now)]
        kept_free = self._kept_free(encoders, now=now)
        for load in range(self._max_units):
            for encoder in encoders:
                in_flight = self._in_flight.get(encoder, [])
                if len(in_flight) != load or encoder in kept_free or not _has_room(in_flight):
                    continue
                attempt = self._pop_due(careful=False, now=now)
                if attempt is None:
                    if load and not self._has_more_than(num_coming * (load + 1)):
                        return given
                    attempt = self._next_fresh()
                if attempt is None:
                    return given
                given.append(self._start(encoder, attempt))
        return given

    def done(self, encoder: str, attempt: Attempt) -> None:
        """Take note that an attempt ended well."""
        self._in_flight[encoder].remove(attempt)

    def failed(
        self, encoder: str, attempt: Attempt, failure: Failure, *, message: str, now: float
    ) -> UnitFailed | None:
        """Plan the next attempt of a unit; None when there will be one.

        Args:
            encoder: Where it ran.
            attempt: The attempt that failed.
            failure: Decides which budget it counts against.
            message: What was seen, for a person.
            now: In seconds, on the clock of `assign`.
        """
        self._in_flight[encoder].remove(attempt)
        lost = attempt.num_lost_workers + (failure is Failure.WORKER_LOST)
        storage = attempt.num_storage_failures + (failure is Failure.STORAGE)
        if lost > self._max_lost_workers or storage >= MAX_TRANSIENT_FAILURES:
            return UnitFailed(unit=attempt.unit, attempts=attempt.number, message=f"{failure}: {message}")
        again = Attempt(
            unit=attempt.unit,
            number=attempt.number + 1,
            careful=attempt.careful or failure is Failure.WORKER_LOST,
            num_lost_workers=lost,
            num_storage_failures=storage,
        )
        pause = FIRST_PAUSE_SECONDS * 2 ** (storage - 1) if failure is Failure.STORAGE else 0.0
        heapq.heappush(self._waiting, (now + pause, next(self._order), again))
        return None

    def _assign_careful(self, encoders: Sequence[str], *, now: float) -> Iterator[tuple[str, Attempt]]:
        for encoder in encoders:
            if not self._in_flight.get(encoder):
                attempt = self._pop_due(careful=True, now=now)
                if attempt is None:
                    return
                yield self._start(encoder, attempt)

    def _kept_free(self, encoders: Sequence[str], *, now: float) -> set[str]:
        """Encoders that get nothing new, so that they become idle for the careful attempts that wait."""
        num_waiting = sum(attempt.careful and due <= now for due, _, attempt in self._waiting)
        busy = [e for e in encoders if not any(a.careful for a in self._in_flight.get(e, []))]
        return set(sorted(busy, key=lambda e: len(self._in_flight.get(e, [])))[:num_waiting])

    def _pop_due(self, *, careful: bool, now: float) -> Attempt | None:
        due = sorted(entry for entry in self._waiting if entry[0] <= now and entry[2].careful == careful)
        if not due:
            return None
        self._waiting.remove(due[0])
        heapq.heapify(self._waiting)
        return due[0][2]

    def _next_fresh(self) -> Attempt | None:
        return Attempt(unit=self._pulled.popleft(), number=1, careful=False) if self._has_more_than(0) else None

    def _has_more_than(self, num_units: int) -> bool:
        """Whether more fresh units are left than so many; no more of them are pulled than that takes."""
        while self._units is not None and len(self._pulled) <= num_units:
            unit = next(self._units, None)
            if unit is None:
                self._units = None
            else:
                self._pulled.append(unit)
        return len(self._pulled) > num_units

    def _start(self, encoder: str, attempt: Attempt) -> tuple[str, Attempt]:
        self._in_flight.setdefault(encoder, []).append(attempt)
        return encoder, attempt


def _has_room(in_flight: Sequence[Attempt]) -> bool:
    """Whether an encoder takes another unit; up to how many is for the caller to know."""
    if any(attempt.careful for attempt in in_flight):
        return False
    if len(in_flight) < UNITS_PER_ENCODER:
        return True
    units = [attempt.unit for attempt in in_flight]
    return all(len(unit.items) == 1 for unit in units) and (
        sum(unit.estimated_seconds for unit in units) < MAX_SINGLES_SECONDS
    )
