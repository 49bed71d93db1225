"""Which attempt at which unit runs next, and where; pure: the caller gives the time and reports what happened.

fresh ──▶ in flight ──▶ done
            │  ▲
            │  └── again after a pause ◀── storage failed (a budget of its own; an outage for all costs none)
            │  └── again at once ◀── its node left (infrastructure budget)
            │
            └── a worker died ──▶ again, carefully and alone on its encoder (infrastructure budget)

When nothing else is left, an idle encoder takes a unit that a much slower one has in hand as well: the first wins.
"""

import heapq
import itertools
import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tokenizer_jobs.executors import UnitFailed
from tokenizer_jobs.outages import MAX_STORAGE_FAILURES, Outage, Supply, pause_seconds
from tokenizer_jobs.records import WorkUnit

__all__ = [
    "MAX_UNITS_PER_ENCODER",
    "MAX_UNITS_PER_GPU",
    "UNITS_PER_ENCODER",
    "Attempt",
    "Failure",
    "Schedule",
]

_log = logging.getLogger(__name__)

UNITS_PER_ENCODER = 2
"""Units in flight on one encoder, so that one decodes while the other encodes."""

MAX_UNITS_PER_ENCODER = 4
"""Units in flight where each is a single recording, so that two meet in one call of the encoder while two decode, or of
recordings in stretches, whose streams meet: four take 11 % less time than alone (`benchmarks.lanes`, AMD EPYC)."""
MAX_UNITS_PER_GPU = 16
"""The same where the encoder has a GPU, whose LSTM takes as long for the streams of 16 as for one. As a recording is
decoded by one task, they also keep 16 CPUs at it."""
MAX_SINGLES_SECONDS = 3600.0
"""Audio of single recordings on one encoder from which it gets no more: they are in its memory whole."""

LATE_FACTOR = 3.0
LATE_SECONDS = 30.0
"""A unit is late when it has been in hand for so much longer than the slowest of the last units took, and this at
least: shorter than that is not worth decoding it twice."""

LAST_DURATIONS = 64
"""Units whose time is remembered for that."""


class Failure(StrEnum):
    """Why an attempt failed, as far as it can be tried again."""

    WORKER_LOST = "a worker was lost"
    NODE_LOST = "its node left"
    """Nothing that the unit did."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """An attempt on an encoder."""

    encoder: str
    attempt: Attempt
    since: float


class Schedule:
    """Hands out attempts to encoders, and turns failures into further attempts.

    Args:
        units: Pulled one at a time, as encoders become free.
        max_lost_workers: Lost workers that one unit may meet before it is given up.
        max_units: In flight on one encoder where each is a single recording, or comes in stretches.
        stretched_seconds: Audio of a recording from which it comes in stretches, so that an encoder never holds it; a
            unit of such is as good as a single recording, and weighs nothing. Infinite: none does.
    """

    def __init__(
        self,
        units: Iterable[WorkUnit],
        *,
        max_lost_workers: int,
        max_units: int = UNITS_PER_ENCODER,
        stretched_seconds: float = math.inf,
    ) -> None:
        self._max_units = max_units
        self._stretched_seconds = stretched_seconds
        self._supply = Supply(units)
        self._pulled: deque[WorkUnit] = deque()
        self._max_lost_workers = max_lost_workers
        self._waiting: list[tuple[float, int, Attempt]] = []
        self._order = itertools.count()
        self._held: dict[str, list[_Held]] = {}
        self._durations: deque[float] = deque(maxlen=LAST_DURATIONS)
        self._ended: set[str] = set()
        """Units that ended while a second attempt was in flight, which is of no more interest."""
        self._outage = Outage()

    @property
    def num_in_flight(self) -> int:
        """Attempts that were handed out and have not ended."""
        return sum(map(len, self._held.values()))

    @property
    def finished(self) -> bool:
        """Every unit has ended, and nothing is left to hand out; a second attempt at one that ended may still run."""
        if not self._supply.has_ended or self._pulled or self._waiting:
            return False
        return all(held.attempt.unit.unit_id in self._ended for helds in self._held.values() for held in helds)

    def stop(self) -> None:
        """Hand out nothing any more; what is in flight may end."""
        self._supply.end()
        self._pulled.clear()
        self._waiting.clear()

    def assign(
        self,
        encoders: Sequence[str],
        *,
        now: float,
        num_coming: int = 0,
        max_in_flight: int | None = None,
        decode_tasks: int = 1,
    ) -> list[tuple[str, Attempt]]:
        """Choose attempts for encoders that have room, idle encoders first.

        Args:
            encoders: Names of those that are ready for work.
            now: In seconds, on the clock of `failed`.
            num_coming: Encoders that are starting. The last units are left to them: the first one to be ready must not
                take all of a short job.
            max_in_flight: Attempts at once, on all encoders, at units that take all their decode tasks; None: as many
                as they take.
            decode_tasks: Of a unit, at most: one of fewer items takes no more than it has, and leaves room for others.
        """
        given: list[tuple[str, Attempt]] = []
        choices = self._choices(encoders, now=now, num_coming=num_coming)
        while max_in_flight is None or self._num_decoding(decode_tasks) + decode_tasks <= max_in_flight * decode_tasks:
            choice = next(choices, None)
            if choice is None:
                break
            encoder, attempt = choice
            self._held.setdefault(encoder, []).append(_Held(encoder=encoder, attempt=attempt, since=now))
            given.append(choice)
        return given

    def _num_decoding(self, decode_tasks: int) -> int:
        """Decode tasks of all attempts in flight, at most."""
        return sum(min(decode_tasks, len(held.attempt.unit.items)) for helds in self._held.values() for held in helds)

    def done(self, encoder: str, attempt: Attempt, *, now: float) -> bool:
        """Take note that an attempt ended well; False when the unit had ended before, by another attempt."""
        held = self._take_back(encoder, attempt)
        self._durations.append(now - held.since)
        self._outage.passed(attempt.unit.unit_id)
        return self._end(attempt.unit)

    def failed(
        self, encoder: str, attempt: Attempt, failure: Failure, *, message: str, now: float
    ) -> UnitFailed | None:
        """Plan the next attempt of a unit; None when there will be one, or when the unit had ended.

        Args:
            encoder: Where it ran.
            attempt: The attempt that failed.
            failure: Decides which budget it counts against.
            message: What was seen, for a person.
            now: In seconds, on the clock of `assign`.

        Raises:
            StorageOutageError: storage fails for every unit, and did so for too long.
        """
        unit = attempt.unit
        self._take_back(encoder, attempt)
        blameless = False
        if failure is Failure.STORAGE:
            num_others = self.num_in_flight
            blameless = self._outage.failed(unit.unit_id, message=message, num_in_flight=num_others, now=now)
        else:
            self._outage.left(unit.unit_id)
        if unit.unit_id in self._ended or self._is_held(unit):  # the other attempt at it decides
            self._forget(unit)
            return None
        lost = attempt.num_lost_workers + (failure is not Failure.STORAGE)
        storage = attempt.num_storage_failures + (failure is Failure.STORAGE and not blameless)
        if lost > self._max_lost_workers or storage >= MAX_STORAGE_FAILURES:
            return UnitFailed(unit=unit, attempts=attempt.number, message=f"{failure}: {message}")
        again = Attempt(
            unit=unit,
            number=attempt.number + 1,
            careful=attempt.careful or failure is Failure.WORKER_LOST,
            num_lost_workers=lost,
            num_storage_failures=storage,
        )
        pause = 0.0
        if failure is Failure.STORAGE and not blameless:
            pause = pause_seconds(storage, key=unit.unit_id)
            _log.warning(
                "%s, attempt %d: storage failed, next try in %.0f s: %s",
                unit.part_name,
                again.number - 1,
                pause,
                message,
            )
        heapq.heappush(self._waiting, (now + pause, next(self._order), again))
        return None

    def _choices(self, encoders: Sequence[str], *, now: float, num_coming: int) -> Iterator[tuple[str, Attempt]]:
        """Who gets what; each choice is held before the next one is asked for."""
        if self._outage.is_open:
            yield from self._probe(encoders, now=now)
            return
        for encoder in encoders:
            if not self._in_hand(encoder) and (attempt := self._pop_due(careful=True, now=now)):
                yield encoder, attempt
        kept_free = self._kept_free(encoders, now=now)
        for load in range(self._max_units):
            for encoder in encoders:
                in_hand = self._in_hand(encoder)
                if len(in_hand) != load or encoder in kept_free or not self._has_room(in_hand):
                    continue
                attempt = self._pop_due(careful=False, now=now)
                if attempt is None:
                    if load and not self._has_more_than(num_coming * (load + 1), now=now):
                        return
                    attempt = self._next_fresh(now=now)
                    if attempt is None and not load and self._supply.has_ended and not self._waiting:
                        attempt = self._second(now=now)
                if attempt is None:
                    return
                yield encoder, attempt

    def _probe(self, encoders: Sequence[str], *, now: float) -> Iterator[tuple[str, Attempt]]:
        """One unit on an idle encoder, to see whether the storage serves again."""
        idle = next((encoder for encoder in encoders if not self._in_hand(encoder)), None)
        if idle is None or not (self._waiting or self._has_more_than(0, now=now)):
            return
        unit = min(self._waiting)[2].unit if self._waiting else self._pulled[0]
        if not self._outage.enter(unit.unit_id, now=now):
            return
        attempt = heapq.heappop(self._waiting)[2] if self._waiting else self._next_fresh(now=now)
        if attempt is not None:
            yield idle, attempt

    def _second(self, *, now: float) -> Attempt | None:
        """A second attempt at the latest of the units that are late; None when there is none."""
        if not self._durations:
            return None
        limit = max(LATE_SECONDS, LATE_FACTOR * max(self._durations))
        held = sorted((held for helds in self._held.values() for held in helds), key=lambda held: held.since)
        count = Counter(one.attempt.unit.unit_id for one in held)
        for one in held:
            attempt = one.attempt
            if now - one.since > limit and not attempt.careful and count[attempt.unit.unit_id] == 1:
                _log.info("%s is late on %s; another encoder tries it too", attempt.unit.part_name, one.encoder)
                return replace(attempt, number=attempt.number + 1)
        return None

    def _in_hand(self, encoder: str) -> list[Attempt]:
        return [held.attempt for held in self._held.get(encoder, [])]

    def _is_held(self, unit: WorkUnit) -> bool:
        return any(held.attempt.unit.unit_id == unit.unit_id for helds in self._held.values() for held in helds)

    def _take_back(self, encoder: str, attempt: Attempt) -> _Held:
        held = next(held for held in self._held[encoder] if held.attempt == attempt)
        self._held[encoder].remove(held)
        if not self._held[encoder]:
            del self._held[encoder]
        return held

    def _end(self, unit: WorkUnit) -> bool:
        if unit.unit_id in self._ended:
            self._forget(unit)
            return False
        if self._is_held(unit):
            self._ended.add(unit.unit_id)
        return True

    def _forget(self, unit: WorkUnit) -> None:
        if not self._is_held(unit):
            self._ended.discard(unit.unit_id)

    def _kept_free(self, encoders: Sequence[str], *, now: float) -> set[str]:
        """Encoders that get nothing new, so that they become idle for the careful attempts that wait."""
        num_waiting = sum(attempt.careful and due <= now for due, _, attempt in self._waiting)
        busy = [e for e in encoders if not any(a.careful for a in self._in_hand(e))]
        return set(sorted(busy, key=lambda e: len(self._in_hand(e)))[:num_waiting])

    def _pop_due(self, *, careful: bool, now: float) -> Attempt | None:
        due = sorted(entry for entry in self._waiting if entry[0] <= now and entry[2].careful == careful)
        if not due:
            return None
        self._waiting.remove(due[0])
        heapq.heapify(self._waiting)
        return due[0][2]

    def _next_fresh(self, *, now: float) -> Attempt | None:
        if not self._has_more_than(0, now=now):
            return None
        return Attempt(unit=self._pulled.popleft(), number=1, careful=False)

    def _has_more_than(self, num_units: int, *, now: float) -> bool:
        """Whether more fresh units are at hand than so many; no more of them are pulled than that takes."""
        while len(self._pulled) <= num_units and (unit := self._supply.take(now=now)) is not None:
            self._pulled.append(unit)
        return len(self._pulled) > num_units

    def _has_room(self, in_flight: Sequence[Attempt]) -> bool:
        """Whether an encoder takes another unit; up to how many is for the caller to know."""
        if any(attempt.careful for attempt in in_flight):
            return False
        if len(in_flight) < UNITS_PER_ENCODER:
            return True
        units = [attempt.unit for attempt in in_flight if not self._is_stretched(attempt.unit)]
        return all(len(unit.items) == 1 for unit in units) and (
            sum(unit.estimated_seconds for unit in units) < MAX_SINGLES_SECONDS
        )

    def _is_stretched(self, unit: WorkUnit) -> bool:
        return all(item.estimated_seconds >= self._stretched_seconds for item in unit.items)
