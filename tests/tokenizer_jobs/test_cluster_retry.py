from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.factories import make_unit
from tokenizer_jobs.cluster.retry import MAX_SINGLES_SECONDS, UNITS_PER_ENCODER, Attempt, Failure, Schedule
from tokenizer_jobs.executors import MAX_TRANSIENT_FAILURES, UnitFailed
from tokenizer_jobs.records import Item, WorkUnit

ENCODERS = ["one", "two"]


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
        now += 0.25
        if not in_flight:
            continue
        encoder, attempt = choose(in_flight)
        in_flight.remove((encoder, attempt))
        failure = choose([None, *Failure])
        if failure is None:
            schedule.done(encoder, attempt)
            ended[attempt.unit.unit_id] += 1
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
    schedule.done(encoder, attempt)
    ((encoder, attempt),) = schedule.assign(["one"], now=0, num_coming=3)
    schedule.done(encoder, attempt)
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
    schedule.done("one", Attempt(unit=units(2)[1], number=1, careful=False))
    ((_, again),) = schedule.assign(["one"], now=0)
    assert (again.unit, again.number, again.careful) == (first.unit, 2, True)
    assert schedule.assign(["one"], now=0) == [], "nothing may join it"


def test_one_careful_unit_does_not_hold_up_other_encoders() -> None:
    schedule = Schedule(units(9), max_lost_workers=1)
    given = schedule.assign(ENCODERS, now=0)
    lost = next(attempt for encoder, attempt in given if encoder == "one")
    other = next(attempt for encoder, attempt in given if encoder == "two")
    fail(schedule, "one", lost, Failure.WORKER_LOST)
    schedule.done("two", other)
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


def test_failing_storage_has_a_budget_of_its_own_and_pauses() -> None:
    schedule = Schedule(units(1), max_lost_workers=0)
    pauses, now = [], 0.0
    for _ in range(MAX_TRANSIENT_FAILURES):
        ((encoder, attempt),) = schedule.assign(["one"], now=now)
        assert not attempt.careful
        outcome = fail(schedule, encoder, attempt, Failure.STORAGE, now=now)
        began = now
        while not schedule.finished and not outcome and not schedule._waiting[0][0] <= now:
            now += 0.25
        pauses.append(now - began)
    assert outcome is not None
    assert pauses == [0.5, 1.0, 0.0]


def test_after_a_stop_nothing_is_handed_out_and_what_is_in_flight_may_end() -> None:
    schedule = Schedule(units(9), max_lost_workers=1)
    first, second = schedule.assign(["one"], now=0)
    schedule.stop()
    schedule.done(*first)
    assert schedule.assign(ENCODERS, now=0) == []
    assert not schedule.finished
    schedule.done(*second)
    assert schedule.finished
