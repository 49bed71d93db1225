"""Status: what it says follows from plans, commits, lease and catalog alone."""

import json
import socket
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.tokenizer_jobs.counting import counting
from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tokenizer_jobs.audition import any_row_id, decode_to_wav
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.cli import main
from tokenizer_jobs.commits import commit_path
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.lease import LEASE_PATH, Lease
from tokenizer_jobs.recipe import store_recipe
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.status import StatusReader, read_status
from tokenizer_jobs.storage import Storage

RECIPE_ID = RECIPE.recipe_id


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


def _plan(storage: Storage, names: Sequence[str], *, generation: int = 1) -> list[WorkUnit]:
    """Plan items, one in each unit."""
    return plan_output(storage, [[name] for name in names], generation=generation)


def _set_clock(storage: Storage, unit: WorkUnit, *, started_at: datetime, seconds: float) -> None:
    """Give a commit other times."""
    path = commit_path(unit.generation, unit.unit_id)
    content = json.loads(storage.read_bytes(path))
    content["started_at"] = started_at.isoformat()
    content["finished_at"] = (started_at + timedelta(seconds=seconds)).isoformat()
    storage.replace(path, json.dumps(content).encode())


def _age_lease(storage: Storage, *, host: str, seconds: float) -> None:
    """Make the lease that of another host, last heard of a while ago."""
    content = json.loads(storage.read_bytes(LEASE_PATH))
    content |= {"host": host, "heartbeat": time.time() - seconds}
    storage.replace(LEASE_PATH, json.dumps(content).encode())


def test_an_output_whose_first_run_ended_before_its_plan_says_so(
    storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    store_recipe(storage, RECIPE)
    assert main(["status", storage.url]) == 0
    said = capsys.readouterr().out
    assert "not planned yet" in said
    assert "complete" not in said
    assert read_status(storage.url).is_settled
    assert main(["verify", storage.url]) == 1
    told = capsys.readouterr()
    assert "nothing is planned yet" in told.out + told.err
    assert "run the job" in told.out + told.err
    assert not any(line.startswith("sound") for line in told.out.splitlines())
    _plan(storage, ["a"])
    assert main(["status", storage.url]) == 0
    assert "not planned yet" not in capsys.readouterr().out


class TestCounts:
    def test_planned_is_committed_plus_left(self, storage: Storage) -> None:
        first, second, *_ = _plan(storage, ["a", "b", "c", "d"])
        finish_unit(storage, first)
        finish_unit(storage, second, rejected=[0])
        status = read_status(storage.url)
        assert (status.items, status.rows, status.rejects) == (4, 1, 1)
        assert (status.units, status.units_committed, status.left) == (4, 2, 2)
        assert status.rejects_by_reason == {"corrupt": 1}
        assert status.snapshot is None
        assert not status.is_settled

    def test_with_and_without_a_snapshot_the_sums_are_equal(self, storage: Storage) -> None:
        for position, unit in enumerate(_plan(storage, ["a", "b", "c"])):
            finish_unit(storage, unit, rejected=[0] if position == 1 else [])
        before = read_status(storage.url)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        after = read_status(storage.url)
        assert after.snapshot == 1
        assert after.model_copy(update={"snapshot": None}) == before
        assert after.is_settled

    def test_growth_adds_to_the_snapshot(self, storage: Storage) -> None:
        for unit in _plan(storage, ["a", "b"]):
            finish_unit(storage, unit)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        finish_unit(storage, _plan(storage, ["c", "d"], generation=2)[0])
        status = read_status(storage.url)
        assert (status.items, status.rows, status.left, status.generations) == (4, 3, 1, 2)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        assert read_status(storage.url).digest == status.digest

    def test_a_commit_after_the_snapshot_of_its_generation_counts(self, storage: Storage) -> None:
        first, second = _plan(storage, ["a", "b"])
        finish_unit(storage, first)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        finish_unit(storage, second)
        assert read_status(storage.url).rows == 2

    def test_no_output_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"holds no recipe\.json"):
            read_status(str(tmp_path))


class TestLiveRun:
    def test_no_lease_no_live_run(self, storage: Storage) -> None:
        _plan(storage, ["a"])
        status = read_status(storage.url)
        assert (status.running, status.live_run, status.rate, status.problems) == (False, None, None, [])

    def test_rate_and_eta_follow_from_the_commits_of_the_live_run(self, storage: Storage) -> None:
        units = _plan(storage, ["old", "b", "c", "d", "e"])
        for unit in units[:3]:
            finish_unit(storage, unit, num_frames=7500)  # 100 s of audio, less 5 samples
        with Lease(storage, "run1"):
            now = datetime.now(UTC)
            _set_clock(storage, units[0], started_at=now - timedelta(days=1), seconds=5)
            _set_clock(storage, units[1], started_at=now + timedelta(seconds=1), seconds=5)
            _set_clock(storage, units[2], started_at=now + timedelta(seconds=6), seconds=5)
            status = read_status(storage.url)
        assert status.running
        assert status.live_run is not None
        assert status.live_run.run_id == "run1"
        assert status.rate == pytest.approx(20, rel=1e-3)  # 200 s in 10 s
        assert status.eta_seconds == pytest.approx(10)  # two units left, 5 s each

    def test_a_dead_run_of_another_host_is_told(self, storage: Storage) -> None:
        _plan(storage, ["a"])
        with Lease(storage, "run1"):
            _age_lease(storage, host="elsewhere", seconds=600)
            status = read_status(storage.url)
            storage.delete(LEASE_PATH)
        assert not status.running
        assert "run run1 on elsewhere" in status.problems[0]
        assert "run the job again to resume" in status.problems[0]

    def test_a_silent_run_of_another_host_is_live_for_a_while(self, storage: Storage) -> None:
        _plan(storage, ["a"])
        with Lease(storage, "run1"):
            _age_lease(storage, host="elsewhere", seconds=30)
            status = read_status(storage.url)
            storage.delete(LEASE_PATH)
        assert status.live_run is not None
        assert status.live_run.host == "elsewhere"
        assert status.live_run.heartbeat_age_seconds == pytest.approx(30, abs=5)


class TestRecentWork:
    def test_speed_is_of_what_ended_after_the_first_of_the_latest(self, storage: Storage) -> None:
        units = _plan(storage, [str(number) for number in range(4)])
        now = datetime.now(UTC)
        for number, unit in enumerate(units):
            finish_unit(storage, unit, num_frames=75 * 100, attempt=1 + (number == 2))  # 100 s of audio
            _set_clock(storage, unit, started_at=now + timedelta(seconds=5 * number), seconds=5)
        recent = read_status(storage.url).recent
        assert recent is not None
        assert recent.speed == pytest.approx(20, rel=1e-3)  # 300 s in 15 s
        assert (recent.units, recent.retried) == (4, 1)
        assert recent.stage_shares == {"encode": pytest.approx(0.1), "other": pytest.approx(0.9)}
        assert recent.bound_by == "other"
        (encoder,) = recent.encoders
        assert (encoder.device, encoder.units) == ("cpu", 4)
        assert encoder.audio_seconds == pytest.approx(400, rel=1e-3)

    def test_what_ended_long_before_is_not_now(self, storage: Storage) -> None:
        units = _plan(storage, ["a", "b", "c"])
        now = datetime.now(UTC)
        for unit, ago in zip(units, (86400, 10, 5), strict=True):
            finish_unit(storage, unit, num_frames=75 * 100)
            _set_clock(storage, unit, started_at=now - timedelta(seconds=ago), seconds=5)
        recent = read_status(storage.url).recent
        assert recent is not None
        assert recent.speed == pytest.approx(20, rel=1e-3)

    def test_a_commit_of_an_earlier_version_says_less_and_is_read(self, storage: Storage) -> None:
        (unit,) = _plan(storage, ["a"])
        finish_unit(storage, unit)
        path = commit_path(unit.generation, unit.unit_id)
        content = json.loads(storage.read_bytes(path))
        del content["encode_work"]
        storage.replace(path, json.dumps(content).encode())
        recent = read_status(storage.url).recent
        assert recent is not None
        assert recent.padding_share is None


class TestReader:
    def test_every_look_is_what_a_first_look_says(self, storage: Storage) -> None:
        units = _plan(storage, ["a", "b", "c", "d"])
        reader = StatusReader(storage.url)
        for position, unit in enumerate(units):
            finish_unit(storage, unit, rejected=[0] if position == 1 else [])
            assert reader.read() == read_status(storage.url)
            if position == 2:
                publish_snapshot(storage, recipe_id=RECIPE_ID)
                assert reader.read() == read_status(storage.url)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        finish_unit(storage, _plan(storage, ["e", "f"], generation=2)[0])
        assert reader.read() == read_status(storage.url)

    def test_the_next_look_reads_only_what_is_new(self, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
        units = _plan(storage, [str(number) for number in range(8)])
        for unit in units[:7]:
            finish_unit(storage, unit)
        same, counts = counting(storage)
        monkeypatch.setattr("tokenizer_jobs.status.Storage.at", lambda _: same)
        reader = StatusReader(storage.url)
        reader.read()
        first = counts["read_bytes"]
        reader.read()
        idle = counts["read_bytes"] - first
        finish_unit(storage, units[7])
        assert reader.read().rows == 8
        assert counts["read_bytes"] - first - idle == idle + 1
        assert idle <= 3

    def test_of_what_a_snapshot_covers_only_the_latest_are_read(
        self, storage: Storage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("tokenizer_jobs.status.LATEST_UNITS", 2)
        for unit in _plan(storage, [str(number) for number in range(8)]):
            finish_unit(storage, unit)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        status = read_status(storage.url)
        assert status.rows == 8
        assert status.recent is not None
        assert status.recent.units == 2


class TestCommand:
    def test_json_is_one_object_with_the_fixed_fields(
        self, storage: Storage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        finish_unit(storage, _plan(storage, ["a", "b"])[0])
        assert main(["status", storage.url, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        fixed = "items rows rejects filtered units units_committed hours bytes digest snapshot problems"
        assert set(fixed.split()) <= set(content)
        assert (content["items"], content["rows"], content["problems"]) == (2, 1, [])

    def test_screen_says_what_is_left_and_what_to_do(
        self, storage: Storage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        finish_unit(storage, _plan(storage, ["a", "b"])[0])
        assert main(["status", storage.url]) == 0
        screen = capsys.readouterr().out
        assert "1 committed, 1 left of 2" in screen
        assert "run the job again to resume" in screen

    def test_screen_says_how_fast_what_for_and_where(
        self, storage: Storage, capsys: pytest.CaptureFixture[str]
    ) -> None:
        units = _plan(storage, ["a", "b", "c"])
        with Lease(storage, "run1"):
            for position, unit in enumerate(units[:2]):
                finish_unit(storage, unit, num_frames=7500, attempt=1 + position)
                began = datetime.now(UTC) + timedelta(seconds=1 + 5 * position)
                _set_clock(storage, unit, started_at=began, seconds=5)
            assert main(["status", storage.url]) == 0
        screen = capsys.readouterr().out
        assert "20 × real time now, 20 × real time since the run began; 5.0 s left" in screen
        assert "latest 2   all else 90 %, encoding 10 %" in screen
        assert "retried    1 of the latest 2 units" in screen
        assert f"encoders   {socket.gethostname()} (cpu, 2 units)" in screen

    def test_watch_ends_when_nothing_is_left(self, storage: Storage, capsys: pytest.CaptureFixture[str]) -> None:
        finish_unit(storage, _plan(storage, ["a"])[0])
        assert main(["status", storage.url, "--watch"]) == 0
        assert "complete" in capsys.readouterr().out


class TestDecodeRefusals:
    def test_unknown_id_names_close_ones(self, storage: Storage, tmp_path: Path) -> None:
        for unit in _plan(storage, ["speaker1/hello.wav", "speaker2/other.wav"]):
            finish_unit(storage, unit)
        publish_snapshot(storage, recipe_id=RECIPE_ID)
        with pytest.raises(ConfigError, match=r"did you mean 'speaker1/hello\.wav'"):
            decode_to_wav(storage.url, row_id="hello.wav", destination=tmp_path / "x.wav")

    def test_without_a_snapshot_there_is_nothing_to_decode(self, storage: Storage, tmp_path: Path) -> None:
        finish_unit(storage, _plan(storage, ["a"])[0])
        assert any_row_id(storage.url) is None
        with pytest.raises(ConfigError, match="no snapshot yet"):
            decode_to_wav(storage.url, row_id="a", destination=tmp_path / "x.wav")

    def test_missing_folder_for_the_wav(self, storage: Storage, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no folder"):
            decode_to_wav(storage.url, row_id="a", destination=tmp_path / "none" / "x.wav")
