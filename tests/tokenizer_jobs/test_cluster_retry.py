from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.factories import make_unit
from tokenizer_jobs.cluster.retry import MAX_SINGLES_SECONDS, UNITS_PER_ENCODER, Attempt, Failure, Schedule
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.executors import UnitFailed
from tokenizer_jobs.outages import (
    MAX_OUTAGE_SECONDS,
    MAX_STORAGE_FAILURES,
    Outage,
    Resumable,
    StorageOutageError,
    pause_seconds,
)
from tokenizer_jobs.records import Item, WorkUnit

ENCODERS = ["one", "two"]


@dataclass
class Trace:
    tries: list[tuple[float, int]] = field(default_factory=list)
    in_flight: list[tuple[float, str, Attempt]] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    seconds: float = 0.0


def units(count: int) -> list[WorkUnit]:
    return [make_unit(["clip"], index=index, unit_id=f"{index:016x}") for index in range(count)]


def fail(
    schedule: Schedule, encoder: str, attempt: Attempt, failure: Failure, *, now: float = 0.0
) -> UnitFailed | None:
    return schedule.failed(encoder, attempt, failure, message="gone", now=now)


@given(
    num_units=st.integers(0, 12),
    num_encoders=st.integers(1, 4),
    max_lost_workers=st.integers(0, 3),
    events=st.randoms(use_true_random=False),
)
def test_every_unit_ends_exactly_once_whatever_fails(
    num_units: int, num_encoders: int, max_lost_workers: int, events: object
) -> None:
    choose = events.choice  # type: ignore[attr-defined]
    schedule = Schedule(units(num_units), max_lost_workers=max_lost_workers)
    encoders = [f"encoder-{index}" for index in range(num_encoders)]
    in_flight: list[tuple[str, Attempt]] = []
    ended: Counter[str] = Counter()
    now = 0.0
    while not schedule.finished:
        in_flight += schedule.assign(encoders, now=now)
        loads = Counter(encoder for encoder, _ in in_flight)
        assert max(loads.values(), default=0) <= UNITS_PER_ENCODER
        assert all(loads[encoder] == 1 for encoder, attempt in in_flight if attempt.careful)
        assert schedule.num_in_flight == len(in_flight)
        now += choose([0.25, 4.0, 40.0])
        if not in_flight:
            continue
        encoder, attempt = choose(in_flight)
        in_flight.remove((encoder, attempt))
        failure = choose([None, *Failure])
        if failure is None:
            ended[attempt.unit.unit_id] += schedule.done(encoder, attempt, now=now)
        elif outcome := fail(schedule, encoder, attempt, failure, now=now):
            assert outcome.attempts == attempt.number
            ended[attempt.unit.unit_id] += 1
    assert ended == Counter({unit.unit_id: 1 for unit in units(num_units)})


def test_an_encoder_gets_more_units_only_where_each_is_a_single_short_recording() -> None:
    def loads(*, num_items: int, seconds: float) -> int:
        clips = [Item(id=f"clip-{i}", source_uri=f"/clip-{i}", estimated_seconds=seconds) for i in range(num_items)]
        singles = [replace(unit, items=tuple(clips)) for unit in units(8)]
        return len(Schedule(singles, max_lost_workers=1, max_units=4).assign(["one"], now=0.0))

    assert loads(num_items=1, seconds=240.0) == 4
    assert loads(num_items=2, seconds=240.0) == UNITS_PER_ENCODER
    assert loads(num_items=1, seconds=MAX_SINGLES_SECONDS / 2) == UNITS_PER_ENCODER


def test_recordings_that_come_in_stretches_weigh_nothing_however_many_a_unit_has() -> None:
    def loads(*lengths: float) -> int:
        items = tuple(Item(id=f"{i}", source_uri=f"/{i}", estimated_seconds=each) for i, each in enumerate(lengths))
        schedule = Schedule(
            [replace(unit, items=items) for unit in units(20)], max_lost_workers=1, max_units=16, stretched_seconds=700
        )
        return len(schedule.assign(["one"], now=0.0))

    assert loads(MAX_SINGLES_SECONDS) == loads(3600.0, 700.0, 7200.0) == 16
    assert loads(3600.0, 699.0) == UNITS_PER_ENCODER
    assert loads(600.0) == MAX_SINGLES_SECONDS / 600


def test_idle_encoders_come_before_second_units() -> None:
    schedule = Schedule(units(3), max_lost_workers=1)
    assert [encoder for encoder, _ in schedule.assign(ENCODERS, now=0)] == ["one", "two", "one"]


def test_the_first_encoder_leaves_their_share_to_those_that_are_starting() -> None:
    schedule = Schedule(units(4), max_lost_workers=1, max_units=4)
    given = schedule.assign(["one"], now=0, num_coming=1)
    assert [encoder for encoder, _ in given] == ["one", "one"]
    assert [encoder for encoder, _ in schedule.assign(ENCODERS, now=0)] == ["two", "two"]


def test_an_idle_encoder_waits_for_nobody() -> None:
    schedule = Schedule(units(2), max_lost_workers=1)
    ((encoder, attempt),) = schedule.assign(["one"], now=0, num_coming=3)
    schedule.done(encoder, attempt, now=0)
    ((encoder, attempt),) = schedule.assign(["one"], now=0, num_coming=3)
    schedule.done(encoder, attempt, now=0)
    assert schedule.assign(["one"], now=0, num_coming=3) == []
    assert schedule.finished


def test_units_are_pulled_only_as_encoders_have_room() -> None:
    source = iter(units(10))
    schedule = Schedule(source, max_lost_workers=1)
    schedule.assign(ENCODERS, now=0)
    assert next(source).index == len(ENCODERS) * UNITS_PER_ENCODER


def test_a_unit_whose_worker_died_is_tried_again_alone_and_carefully() -> None:
    schedule = Schedule(units(8), max_lost_workers=1)
    (encoder, first), *_ = schedule.assign(["one"], now=0)
    assert fail(schedule, encoder, first, Failure.WORKER_LOST) is None
    assert schedule.assign(["one"], now=0) == [], "the encoder must become idle first"
    schedule.done("one", Attempt(unit=units(2)[1], number=1, careful=False), now=0)
    ((_, again),) = schedule.assign(["one"], now=0)
    assert (again.unit, again.number, again.careful) == (first.unit, 2, True)
    assert schedule.assign(["one"], now=0) == [], "nothing may join it"


def test_one_careful_unit_does_not_hold_up_other_encoders() -> None:
    schedule = Schedule(units(9), max_lost_workers=1)
    given = schedule.assign(ENCODERS, now=0)
    lost = next(attempt for encoder, attempt in given if encoder == "one")
    other = next(attempt for encoder, attempt in given if encoder == "two")
    fail(schedule, "one", lost, Failure.WORKER_LOST)
    schedule.done("two", other, now=0)
    assert [encoder for encoder, _ in schedule.assign(ENCODERS, now=0)] == ["two"]


def test_a_dead_encoder_gets_nothing_and_its_units_go_elsewhere() -> None:
    schedule = Schedule(units(2), max_lost_workers=1)
    for encoder, attempt in schedule.assign(["dead"], now=0):
        fail(schedule, encoder, attempt, Failure.WORKER_LOST)
    given = schedule.assign(ENCODERS, now=0)
    assert [(encoder, attempt.careful) for encoder, attempt in given] == [("one", True), ("two", True)]


def test_lost_workers_have_a_budget() -> None:
    schedule = Schedule(units(1), max_lost_workers=2)
    outcomes = []
    while not schedule.finished:
        ((encoder, attempt),) = schedule.assign(["one"], now=0)
        outcomes.append(fail(schedule, encoder, attempt, Failure.WORKER_LOST))
    assert outcomes[:-1] == [None, None]
    assert outcomes[-1] == UnitFailed(unit=units(1)[0], attempts=3, message="a worker was lost: gone")


def test_a_node_that_left_counts_as_a_lost_worker_and_blames_no_record() -> None:
    schedule = Schedule(units(1), max_lost_workers=1)
    ((encoder, attempt),) = schedule.assign(["one"], now=0)
    assert fail(schedule, encoder, attempt, Failure.NODE_LOST) is None
    ((encoder, attempt),) = schedule.assign(["one"], now=0)
    assert (attempt.number, attempt.careful) == (2, False)
    outcome = fail(schedule, encoder, attempt, Failure.NODE_LOST)
    assert outcome == UnitFailed(unit=units(1)[0], attempts=2, message="its node left: gone")


def run_storage(num_units: int, *, serves: Callable[[WorkUnit, float], bool], num_encoders: int = 2) -> Trace:
    """Run units that take a second against a storage; when each was tried, what failed, and when it ended."""
    schedule = Schedule(units(num_units), max_lost_workers=0)
    encoders = [f"encoder-{index}" for index in range(num_encoders)]
    trace, now = Trace(), 0.0
    while not schedule.finished:
        for encoder, attempt in schedule.assign(encoders, now=now):
            trace.tries.append((now, attempt.unit.index))
            trace.in_flight.append((now + 1, encoder, attempt))
        now += 0.5
        for due, encoder, attempt in [entry for entry in trace.in_flight if entry[0] <= now]:
            trace.in_flight.remove((due, encoder, attempt))
            if serves(attempt.unit, now):
                schedule.done(encoder, attempt, now=now)
            elif failed := fail(schedule, encoder, attempt, Failure.STORAGE, now=now):
                trace.failed.append(failed.unit.index)
    trace.seconds = now
    return trace


def test_a_unit_that_storage_always_fails_is_given_up_after_minutes_and_holds_up_nobody() -> None:
    trace = run_storage(60, serves=lambda unit, _: unit.index != 3)
    assert trace.failed == [3]
    times = [when for when, index in trace.tries if index == 3]
    assert len(times) == MAX_STORAGE_FAILURES
    assert 300 < times[-1] - times[0] < 600
    assert max(when for when, index in trace.tries if index != 3) < 60


def test_an_outage_costs_no_unit_however_many_there_are() -> None:
    trace = run_storage(200, serves=lambda _, now: not 20 < now < 1200, num_encoders=8)
    assert trace.failed == []
    during = [when for when, _ in trace.tries if 60 < when < 1200]
    assert len(during) < 25, "one at a time, after longer and longer pauses"
    assert trace.seconds < 1200 + 2 * 120 + 60


def test_an_outage_that_does_not_end_ends_the_run() -> None:
    with pytest.raises(StorageOutageError, match=r"storage failed for every unit for 6[0-3] minutes"):
        run_storage(50, serves=lambda *_: False)


def test_the_time_of_an_outage_begins_when_it_opens() -> None:
    outage = Outage()
    assert not outage.failed("a", message="", num_in_flight=1, now=0.0)
    assert not outage.failed("b", message="", num_in_flight=1, now=MAX_OUTAGE_SECONDS)
    assert outage.failed("a", message="", num_in_flight=1, now=2 * MAX_OUTAGE_SECONDS), "units of an hour each"


class FlakyPlan(Resumable[WorkUnit]):
    """Units whose list cannot be read before a moment."""

    def __init__(self, units: list[WorkUnit], *, fails_at: int) -> None:
        self.left = units
        self.fails_at = len(units) - fails_at
        self.serves = False

    def __next__(self) -> WorkUnit:
        if not self.serves and len(self.left) <= self.fails_at:
            raise TransientError("503 SlowDown")
        if not self.left:
            raise StopIteration
        return self.left.pop(0)


def test_a_plan_that_cannot_be_read_for_a_while_costs_no_unit() -> None:
    plan = FlakyPlan(units(3), fails_at=1)
    schedule = Schedule(plan, max_lost_workers=0)
    ((encoder, attempt),) = schedule.assign(["one"], now=0.0)
    assert schedule.done(encoder, attempt, now=1.0)
    plan.serves = True
    assert not schedule.finished
    assert schedule.assign(["one"], now=0.5) == [], "not before the pause is over"
    assert [given.unit.index for _, given in schedule.assign(["one"], now=9.0)] == [1, 2]


def test_a_plan_that_is_never_read_ends_the_run() -> None:
    schedule = Schedule(FlakyPlan(units(1), fails_at=0), max_lost_workers=0)
    assert schedule.assign(["one"], now=0.0) == []
    with pytest.raises(StorageOutageError, match="the plan could not be read for 60 minutes"):
        schedule.assign(["one"], now=MAX_OUTAGE_SECONDS + 1)


def test_units_that_cannot_go_on_where_they_failed_are_not_taken_for_ended() -> None:
    def broken() -> Iterator[WorkUnit]:
        yield from units(1)
        raise TransientError("503 SlowDown")

    schedule = Schedule(broken(), max_lost_workers=0)
    with pytest.raises(TransientError, match="503"):
        schedule.assign(["one"], now=0.0)


def test_one_failing_unit_among_the_last_is_no_outage() -> None:
    outage = Outage()
    assert not any(outage.failed("a", message="", num_in_flight=0, now=now) for now in range(9))
    assert not outage.is_open


def test_pauses_double_up_to_two_minutes_and_are_spread() -> None:
    pauses = [pause_seconds(count, key="a") for count in range(1, 12)]
    assert all(2.0**n <= pause <= 1.5 * 2**n for n, pause in enumerate(pauses[:7]))
    assert all(120 <= pause <= 180 for pause in pauses[7:])
    assert len({pause_seconds(3, key=str(key)) for key in range(50)}) == 50


def test_an_idle_encoder_takes_a_late_unit_as_well_and_the_first_to_end_wins() -> None:
    schedule = Schedule(units(3), max_lost_workers=0)
    (slow, late), (fast, attempt), _ = (given := schedule.assign(["slow", "fast"], now=0))
    schedule.done(fast, attempt, now=10)
    third = next((encoder, one) for encoder, one in given if one not in (late, attempt))
    schedule.done(*third, now=10)
    assert schedule.assign(["slow", "fast"], now=29) == []
    ((encoder, second),) = schedule.assign(["slow", "fast"], now=31)
    assert (encoder, second.unit, second.number) == (fast, late.unit, 2)
    assert schedule.assign(["slow", "fast", "third"], now=99) == [], "two are enough"
    assert schedule.done(fast, second, now=40)
    assert schedule.finished, "nobody waits for the slow one"
    assert not schedule.done(slow, late, now=50), "its unit ended before"


def test_when_the_late_attempt_fails_the_second_goes_on() -> None:
    schedule = Schedule(units(2), max_lost_workers=0)
    (slow, late), (fast, attempt) = schedule.assign(["slow", "fast"], now=0)
    schedule.done(fast, attempt, now=1)
    ((_, second),) = schedule.assign(["slow", "fast"], now=50)
    assert fail(schedule, slow, late, Failure.WORKER_LOST) is None
    assert not schedule.finished
    assert schedule.done(fast, second, now=60)
    assert schedule.finished


def test_no_more_units_are_in_flight_than_can_be_decoded() -> None:
    schedule = Schedule(units(9), max_lost_workers=0)
    assert len(schedule.assign(ENCODERS, now=0, max_in_flight=3)) == 3
    assert schedule.assign(ENCODERS, now=0, max_in_flight=2) == []


@pytest.mark.parametrize(("num_items", "num_in_flight"), [(1, 13), (3, 5), (4, 4), (9, 4)])
def test_units_of_few_items_leave_decode_tasks_to_others(num_items: int, num_in_flight: int) -> None:
    """There are 16 places, for four units of four tasks."""
    clips = tuple(Item(id=f"{i}", source_uri=f"/{i}") for i in range(num_items))
    schedule = Schedule([replace(unit, items=clips) for unit in units(20)], max_lost_workers=0, max_units=20)
    encoders = [str(number) for number in range(20)]
    assert len(schedule.assign(encoders, now=0, max_in_flight=4, decode_tasks=4)) == num_in_flight


def test_after_a_stop_nothing_is_handed_out_and_what_is_in_flight_may_end() -> None:
    schedule = Schedule(units(9), max_lost_workers=1)
    first, second = schedule.assign(["one"], now=0)
    schedule.stop()
    schedule.done(*first, now=0)
    assert schedule.assign(ENCODERS, now=0) == []
    assert not schedule.finished
    schedule.done(*second, now=0)
    assert schedule.finished
