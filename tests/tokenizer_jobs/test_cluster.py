"""The Ray executor on a real Ray, with a codec that is quick; what can be killed is killed."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import pytest
import ray

from tests.tokenizer_jobs.cluster_parts import (
    BareEncoder,
    FrailEncoder,
    HashEncoder,
    LateEncoder,
    MortalEncoder,
    SlowEncoder,
)
from tests.tokenizer_jobs.factories import FACTS, METADATA, NO_COLUMNS, RECIPE
from tests.tokenizer_jobs.plugins import DeadlyClips
from tests.waiting import wait_until
from tokenizer_jobs.cluster import RayExecutor
from tokenizer_jobs.cluster.crew import MAX_LOST_AT_START
from tokenizer_jobs.commits import Commit, read_commits
from tokenizer_jobs.config import CodecRecipe, Runtime
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.executors import UnitOutcome
from tokenizer_jobs.pipeline import UnitDone, UnitJob
from tokenizer_jobs.recipe import store_recipe
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.source_config import PluginSource, SourceConfig
from tokenizer_jobs.sources.demo import DemoClips
from tokenizer_jobs.stopping import StopRequest
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.watch import EncoderNow, EncoderState

pytestmark = pytest.mark.usefixtures("ray_cluster")

CLIPS = DemoClips().list().items
ITEMS_PER_UNIT = 4
ON_CPU = Runtime(device="cpu")
DEADLINE_SECONDS = 60.0


def clips(*deadly: str, lives: Path | None = None) -> PluginSource:
    kind = f"{DeadlyClips.__module__}:{DeadlyClips.__qualname__}"
    options = {"deadly": list(deadly), "lives": None if lives is None else str(lives)}
    return PluginSource.model_validate({"kind": kind, **options})


def make_units(num_units: int) -> list[WorkUnit]:
    return [
        WorkUnit(
            generation=1,
            index=index,
            unit_id=f"{index:016x}",
            items=CLIPS[index * ITEMS_PER_UNIT : (index + 1) * ITEMS_PER_UNIT],
        )
        for index in range(num_units)
    ]


def make_job(output: Path, source: SourceConfig) -> UnitJob:
    store_recipe(Storage.open(str(output)), RECIPE)
    return UnitJob(
        output=str(output),
        run_id="test",
        recipe_id=RECIPE.recipe_id,
        weights_sha256=FACTS.weights_sha256,
        source=source,
        target=AudioTarget(sample_rate=FACTS.sample_rate, channels=1),
        metadata=METADATA,
        user_schema=NO_COLUMNS,
        shard_format="parquet",
        batch_seconds=5.0,
    )


@contextmanager
def executor(
    output: Path,
    *,
    source: SourceConfig | None = None,
    encoder_class: type[HashEncoder] = HashEncoder,
    runtime: Runtime = ON_CPU,
) -> Iterator[RayExecutor]:
    job = make_job(output, source or clips())
    recipe = CodecRecipe(model="demo")
    with RayExecutor(job, codec_recipe=recipe, runtime=runtime, encoder_class=encoder_class) as running:
        yield running


@contextmanager
def stop_in_time() -> Iterator[StopRequest]:
    """A request to stop that comes by itself, should a run hang."""
    stop = StopRequest(grace_seconds=0)
    timer = threading.Timer(DEADLINE_SECONDS, stop.request)
    timer.start()
    yield stop
    timer.cancel()
    timer.join()


def run_all(running: RayExecutor, units: list[WorkUnit]) -> list[UnitOutcome]:
    with stop_in_time() as stop:
        return list(running.run(units, stop=stop))


def commits(output: Path) -> dict[str, Commit]:
    return {commit.unit_id: commit for commit in read_commits(Storage.open(str(output)), 1)}


def ids(output: Path, folder: str) -> list[str]:
    storage = Storage.open(str(output))
    paths = [file.path for file in storage.list(folder)]
    return sorted(row for path in paths for batch in read_batches(storage, path) for row in batch["id"].to_pylist())


def assert_all_rows(output: Path, units: list[WorkUnit]) -> None:
    assert ids(output, "codes") == sorted(item.id for unit in units for item in unit.items)
    assert sorted(commits(output)) == [unit.unit_id for unit in units]


def notes(output: Path) -> dict[str, dict[str, object]]:
    return {path.stem: json.loads(path.read_text()) for path in (output / "notes").glob("*.json")}


def test_every_unit_is_committed_once_and_the_line_on_placement_says_where(tmp_path: Path) -> None:
    units = make_units(5)
    with executor(tmp_path) as running:
        assert running.describe().startswith(
            "2 encoders on 1 node (2 CPUs, 2 GPUs), decode by 0.25-CPU tasks, 1 a unit"
        )
        outcomes = run_all(running, units)
    assert all(isinstance(outcome, UnitDone) for outcome in outcomes)
    assert_all_rows(tmp_path, units)
    assert {commit.attempt for commit in commits(tmp_path).values()} == {1}
    assert [note["one_begins"] for note in notes(tmp_path).values()] == [True, True], "workers to start cost its CPUs"


@pytest.mark.parametrize(("encoders", "gpu_ids"), [("auto", [0, 1]), (4, [0, 0, 1, 1])])
def test_encoders_are_pinned_to_gpus_evenly(tmp_path: Path, encoders: object, gpu_ids: list[int]) -> None:
    with executor(tmp_path, runtime=Runtime.model_validate({"encoders": encoders})):
        wait_until(lambda: len(notes(tmp_path)) == len(gpu_ids), what="a note of each encoder", seconds=60)
    assert sorted(note["gpu_ids"] for note in notes(tmp_path).values()) == [[gpu] for gpu in gpu_ids]  # type: ignore[type-var]
    assert not any(note["one_begins"] for note in notes(tmp_path).values()), "a GPU would wait for it"


def test_encoders_that_find_no_place_are_reported_in_time_with_what_is_missing(tmp_path: Path) -> None:
    impatient = Runtime(device="cpu", placement_timeout_seconds=1.5)
    with executor(tmp_path):
        wait_until(
            lambda: ray.available_resources().get("encoder", 0) == 0,  # type: ignore[no-untyped-call]
            what="the encoders' places",
            seconds=60,
        )
        began = time.monotonic()
        message = r"2 asked for 1 of the resource 'encoder' each.* 0 'encoder' are free"
        with pytest.raises(ConfigError, match=message), executor(tmp_path, runtime=impatient):
            pass
        assert time.monotonic() - began < 10


def test_an_encoder_that_has_a_place_may_take_long_to_come_up(tmp_path: Path) -> None:
    impatient = Runtime(device="cpu", encoders=1, placement_timeout_seconds=1.5)
    with executor(tmp_path, encoder_class=LateEncoder, runtime=impatient) as running:
        run_all(running, units := make_units(2))
    assert_all_rows(tmp_path, units)


def test_a_decode_worker_that_dies_costs_an_attempt_and_no_item(tmp_path: Path) -> None:
    units = make_units(4)
    lives = tmp_path / "lives"
    lives.touch()
    with executor(tmp_path, source=clips(units[1].items[2].id, lives=lives)) as running:
        outcomes = run_all(running, units)
    assert not lives.exists(), "nothing was killed, so nothing was proven"
    assert all(isinstance(outcome, UnitDone) for outcome in outcomes)
    assert_all_rows(tmp_path, units)
    assert commits(tmp_path)[units[1].unit_id].attempt == 2


def test_a_record_that_always_kills_its_worker_is_the_only_reject(tmp_path: Path) -> None:
    units = make_units(4)
    deadly = units[2].items[1].id
    with executor(tmp_path, source=clips(deadly)) as running:
        outcomes = run_all(running, units)
    assert len(outcomes) == len(units)
    assert ids(tmp_path, "rejects") == [deadly]
    assert ids(tmp_path, "codes") == sorted(item.id for unit in units for item in unit.items if item.id != deadly)
    assert commits(tmp_path)[units[2].unit_id].rejects_by_reason == {"crashed_worker": 1}


def test_an_encoder_that_dies_is_replaced_and_its_units_are_done(tmp_path: Path) -> None:
    units = make_units(6)
    with executor(tmp_path, encoder_class=MortalEncoder, runtime=Runtime(device="cpu", encoders=1)) as running:
        assert running.look() == [EncoderNow(name="encoder-0", state=EncoderState.WAITING)]
        with stop_in_time() as stop:
            (outcomes, seen) = zip(
                *((outcome, running.look()) for outcome in running.run(units, stop=stop)), strict=True
            )
        assert {each.name for look in seen for each in look} == {"encoder-0.2"}
        assert EncoderNow(name="encoder-0.2", state=EncoderState.ENCODING, num_units=1) in {*chain(*seen)}
    assert sorted(notes(tmp_path)) == ["encoder-0", "encoder-0.2"]
    assert all(isinstance(outcome, UnitDone) for outcome in outcomes)
    assert_all_rows(tmp_path, units)


def test_an_encoder_killed_from_outside_while_idle_is_replaced(tmp_path: Path) -> None:
    units = make_units(2)
    with executor(tmp_path, runtime=Runtime(device="cpu", encoders=1)) as running:
        (note,) = notes(tmp_path).values()
        os.kill(int(str(note["pid"])), signal.SIGKILL)
        run_all(running, units)
    assert_all_rows(tmp_path, units)


def test_encoders_that_are_killed_while_they_start_do_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "frailty").write_text(str(MAX_LOST_AT_START - 1))
    with executor(tmp_path, encoder_class=FrailEncoder, runtime=Runtime(device="cpu", encoders=2)) as running:
        run_all(running, units := make_units(2))
    assert_all_rows(tmp_path, units)
    assert len(list(tmp_path.glob("encoder-*-died-*"))) >= MAX_LOST_AT_START, "the limit was never met in all"


def test_an_encoder_that_always_dies_at_its_start_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "frailty").write_text("9")
    refused = pytest.raises(ConfigError, match=r"encoder-0.3 cannot start on the cluster \(.*died.*\); check that")
    with refused, executor(tmp_path, encoder_class=FrailEncoder, runtime=Runtime(device="cpu", encoders=1)):
        raise AssertionError("it started")


def test_an_encoder_without_torch_ends_the_run(tmp_path: Path) -> None:
    refused = pytest.raises(
        ConfigError, match=r"encoder-0 cannot start on the cluster \(.*'torch'\); check that this pack"
    )
    with refused, executor(tmp_path, encoder_class=BareEncoder, runtime=Runtime(device="cpu", encoders=1)):
        raise AssertionError("it started")


def test_an_encoder_beyond_its_budget_gives_its_unit_up(tmp_path: Path) -> None:
    units = make_units(1)
    runtime = Runtime(device="cpu", encoders=1, max_infrastructure_failures=0)
    with executor(tmp_path, encoder_class=MortalEncoder, runtime=runtime) as running:
        (outcome,) = run_all(running, units)
    assert not isinstance(outcome, UnitDone)
    assert (outcome.unit, outcome.attempts) == (units[0], 1)
    assert "encoder died" in outcome.message


def test_a_stop_lets_units_in_flight_finish_and_starts_no_others(tmp_path: Path) -> None:
    units = make_units(8)
    stop = StopRequest(grace_seconds=DEADLINE_SECONDS)
    with executor(tmp_path, encoder_class=SlowEncoder, runtime=Runtime(device="cpu", encoders=1)) as running:
        outcomes = []
        for outcome in running.run(units, stop=stop):
            outcomes.append(outcome)
            stop.request() if not stop.requested else None
    assert 2 <= len(outcomes) <= 3
    assert len(commits(tmp_path)) == len(outcomes)


def test_after_the_grace_period_units_in_flight_are_abandoned(tmp_path: Path) -> None:
    stop = StopRequest(grace_seconds=0)
    with executor(tmp_path, encoder_class=SlowEncoder, runtime=Runtime(device="cpu", encoders=1)) as running:
        stop.request()
        began = time.monotonic()
        assert list(running.run(make_units(8), stop=stop)) == []
        assert time.monotonic() - began < 5


def test_an_abandoned_unit_is_not_committed_later(tmp_path: Path) -> None:
    stop = StopRequest(grace_seconds=0)
    with executor(tmp_path, encoder_class=SlowEncoder, runtime=Runtime(device="cpu", encoders=1)) as running:
        threading.Timer(0.2, stop.request).start()
        assert list(running.run(make_units(2), stop=stop)) == []
        time.sleep(1.0)  # twice what the units would have taken
    assert commits(tmp_path) == {}
