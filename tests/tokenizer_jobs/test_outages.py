"""Failing storage in one process: units wait and are tried again, and an outage costs none."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tokenizer_jobs.cluster_parts import HashCodec
from tests.tokenizer_jobs.plugins import FlakyClips
from tests.tokenizer_jobs.test_cluster import commits, make_job, make_units
from tokenizer_jobs import executors, outages
from tokenizer_jobs.executors import InlineExecutor, UnitOutcome
from tokenizer_jobs.pipeline import UnitDone
from tokenizer_jobs.source_config import PluginSource
from tokenizer_jobs.stopping import StopRequest
from tokenizer_jobs.storage import Storage

MAX_FAILURES = 3


@pytest.fixture
def down(tmp_path: Path) -> Path:
    """While it exists, storage fails; each line is a try."""
    path = tmp_path / "down"
    path.touch()
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(outages, "MAX_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(executors, "MAX_STORAGE_FAILURES", MAX_FAILURES)  # each costs a decoder's process


def run_inline(output: Path, *, down: Path, failing: list[str], stop: StopRequest) -> Iterator[UnitOutcome]:
    kind = f"{FlakyClips.__module__}:{FlakyClips.__qualname__}"
    source = PluginSource.model_validate({"kind": kind, "down": str(down), "failing": failing})
    storage = Storage.open(str(output))
    job = make_job(output, source)
    with InlineExecutor(job, load_codec=HashCodec, storage=storage, device="cpu", encoders=1) as executor:
        yield from executor.run(UNITS, stop=stop)


UNITS = make_units(2)
ALL = [item.id for unit in UNITS for item in unit.items]


def test_a_unit_whose_storage_fails_waits_while_others_go_on(
    tmp_path: Path, down: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(outages, "MAX_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(executors, "MAX_STORAGE_FAILURES", 1000)  # however long the other takes on a busy machine
    order = []
    for outcome in run_inline(tmp_path / "out", down=down, failing=[ALL[0]], stop=StopRequest(grace_seconds=0)):
        assert isinstance(outcome, UnitDone)
        order.append(outcome.unit.index)
        down.unlink(missing_ok=True)
    assert order == [1, 0]
    assert commits(tmp_path / "out")[UNITS[0].unit_id].attempt > 1


def test_a_unit_that_storage_always_fails_is_reported(tmp_path: Path, down: Path) -> None:
    outcomes = list(run_inline(tmp_path / "out", down=down, failing=[ALL[0]], stop=StopRequest(grace_seconds=0)))
    (failed,) = [outcome for outcome in outcomes if not isinstance(outcome, UnitDone)]
    assert (failed.unit.index, failed.attempts) == (0, MAX_FAILURES)
    assert "503 SlowDown" in failed.message
    assert len(commits(tmp_path / "out")) == len(UNITS) - 1


def test_an_outage_longer_than_a_units_budget_costs_none(
    tmp_path: Path, down: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def mend() -> None:
        while len(down.read_text().splitlines()) <= len(UNITS) * MAX_FAILURES:
            time.sleep(0.02)
        down.unlink()

    mending = threading.Thread(target=mend)
    mending.start()
    outcomes = list(run_inline(tmp_path / "out", down=down, failing=ALL, stop=StopRequest(grace_seconds=0)))
    mending.join()
    assert all(isinstance(outcome, UnitDone) for outcome in outcomes)
    assert len(commits(tmp_path / "out")) == len(UNITS)
    assert "storage fails for every unit" in caplog.text
    assert "storage serves again" in caplog.text


def test_a_stop_does_not_wait_for_storage(tmp_path: Path, down: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "FIRST_PAUSE_SECONDS", 60.0)
    monkeypatch.setattr(outages, "MAX_PAUSE_SECONDS", 60.0)
    stop = StopRequest(grace_seconds=60)
    timer = threading.Timer(1.0, stop.request)
    timer.start()
    began = time.monotonic()
    assert list(run_inline(tmp_path / "out", down=down, failing=ALL, stop=stop)) == []
    timer.join()
    assert time.monotonic() - began < 50
