"""The measurements of the cluster in small: that each sees what it is to see, on a real Ray with real processes."""

import random
from itertools import chain
from pathlib import Path

import pytest
import ray

from benchmarks.cluster.bars import slope_per_hour
from benchmarks.cluster.drain import drain
from benchmarks.cluster.driver import UnitEnded
from benchmarks.cluster.inputs import opened_files, recordings
from benchmarks.cluster.processes import Held
from benchmarks.cluster.recovery import recover, seconds_to_recover
from benchmarks.cluster.resume import resume
from benchmarks.cluster.scaling import do_units, efficiency, growth
from benchmarks.cluster.soak import Life, soak


@pytest.fixture
def address(ray_cluster: None) -> str:  # it is connected to it
    """`host:port` of the cluster of all tests."""
    return str(ray.get_runtime_context().gcs_address)


def ended(encoder: str, at: float) -> UnitEnded:
    return UnitEnded(at=at, encoder=encoder, pid=1, attempt=1, encode_begun_at=at, driver_megabytes=None)


@pytest.mark.parametrize(("idle_seconds", "share"), [(0.0, 1.0), (0.5, 0.8), (2.0, 0.5)])
def test_idle_devices_are_missing_in_the_efficiency(idle_seconds: float, share: float) -> None:
    units = [ended(f"{n}", at=10 + 0.3 * n + turn * (2 + idle_seconds)) for n in range(16) for turn in range(10)]
    random.Random(0).shuffle(units)
    assert efficiency(units, encoders=16, unit_seconds=2.0).efficiency == pytest.approx(share)


def test_start_and_end_of_a_run_do_not_count_as_steady() -> None:
    early = [ended("early", at=2.0 * turn) for turn in range(30)]
    late = [ended("late", at=40 + 2.0 * turn) for turn in range(20)]
    state = efficiency([*early, *late], encoders=2, unit_seconds=2.0)
    assert state.efficiency == pytest.approx(1.0)
    assert state.units == 9 + 9


def test_an_encoder_that_did_nothing_is_no_steady_state() -> None:
    with pytest.raises(SystemExit, match="1 of 2 encoders were at work"):
        efficiency([ended("only", at=2.0 * turn) for turn in range(9)], encoders=2, unit_seconds=2.0)


def test_recovery_ends_with_the_first_window_at_the_old_rate() -> None:
    # 8 units a second before 0, 7 until 12, then 8 again: windows of 5 s are at 95 % of 40 from 10 or so on.
    slow, fast = [number / 7 for number in range(1, 84)], [12 + number / 8 for number in range(160)]
    seconds = seconds_to_recover([*slow, *fast], since=0.0, until=30.0, rate=8.0, window_seconds=5.0)
    assert seconds == pytest.approx(15.0, abs=1.0)
    assert seconds_to_recover(slow, since=0.0, until=30.0, rate=8.0, window_seconds=5.0) is None


def test_a_slope_is_that_of_the_line() -> None:
    assert slope_per_hour([(60.0 * minute, 400 + 0.5 * minute) for minute in range(9)]) == pytest.approx(30.0)


def test_a_process_that_gathers_files_is_seen() -> None:
    samples = tuple((10.0 * n, Held(megabytes=400.0, files=30 + n, threads=20)) for n in range(40))
    life = Life(name="leaking", samples=samples)
    assert (life.more("files"), life.more("threads")) == (21, 0)
    assert life.growth == pytest.approx(0.0)


def test_every_file_that_is_opened_is_counted_by_name(tmp_path: Path) -> None:
    recordings(tmp_path, num_files=3)
    folder = tmp_path / "0000"
    with opened_files([folder]) as names:
        (folder / "000001.wav").read_bytes()
        (folder / "000002.wav").stat()
    assert set(names) == {"000001.wav"}


def test_encoders_that_sleep_are_kept_busy_and_the_driver_is_looked_at(address: str) -> None:
    units = do_units(120, encoders=2, unit_seconds=0.1, ray_address=address)
    assert 0.5 < efficiency(units, encoders=2, unit_seconds=0.1).efficiency < 1.2
    assert 100 < growth(units).megabytes[100] < 2000


@pytest.mark.usefixtures("long")
def test_the_rate_comes_back_after_a_kill(address: str) -> None:
    [found] = recover(
        encoders=2,
        unit_seconds=0.2,
        kills=1,
        before_seconds=2.0,
        after_seconds=60.0,
        window_seconds=1.0,
        ray_address=address,
    )
    assert found.seconds is not None
    assert 1 <= found.redone <= 2


def test_a_resumed_run_does_what_is_left(address: str) -> None:
    found = resume(num_committed=60, num_new=6, encoders=2, processes=0, ray_address=address)
    assert (found.committed, found.units, found.new_opened, found.opened_before) == (60, 6, 6, 0)
    assert 0 < found.first_seconds <= found.all_seconds


def test_a_run_that_is_stopped_leaves_nothing_half_done(address: str) -> None:
    found = drain(encoders=2, unit_seconds=0.1, num_units=6, hangs=True, grace_seconds=1.0, ray_address=address)
    assert found.is_whole
    assert found.staged > 0, "nothing was staged, so that no sweep was seen"


@pytest.mark.usefixtures("long")
def test_a_soak_looks_at_everybody(address: str) -> None:
    found = soak(
        seconds=8.0,
        encoders=2,
        unit_seconds=0.2,
        kill_every=4.0,
        sample_every=0.5,
        output=None,
        faults={},
        ray_address=address,
    )
    assert (found.exit_code, found.kills > 0, found.units > found.kills) == (75, True, True)
    lives = [*chain([found.driver], found.encoders)]
    assert all(100 < life.peak_megabytes < 2000 for life in lives)
    assert len(lives) >= 2, "no encoder was looked at often enough"
