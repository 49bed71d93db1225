"""Two live runs on one output with the lease out of the way: real processes, real codec, one whole result."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.object_stores import environment_for, reach, set_faults
from tests.tokenizer_jobs.test_job import files, job, write_recording
from tokenizer_jobs import sweeping
from tokenizer_jobs.catalog import read_snapshot
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.encoding import describe_codec
from tokenizer_jobs.errors import OutputBusyError
from tokenizer_jobs.growth import Planning, plan_growth
from tokenizer_jobs.job import run
from tokenizer_jobs.planning import (
    Comparison,
    PlanFacts,
    compare_with_known,
    list_generations,
    read_units,
    write_plan,
)
from tokenizer_jobs.recipe import ResolvedRecipe
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.verification import verify

ROOT = Path(__file__).parents[2]
NUM_ITEMS = 6


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short recordings and one that is none."""
    folder = tmp_path_factory.mktemp("audio")
    (folder / "bad.wav").write_text("<html>")
    for seed in range(NUM_ITEMS):
        write_recording(folder / f"{seed}.wav", seconds=0.3 + 0.1 * seed, seed=seed)
    return folder


@pytest.fixture(scope="module")
def calm_digest(audio: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run that was alone."""
    return run(job(tmp_path_factory.mktemp("alone") / "out", source=files(audio))).digest


def rival(output: str, audio: Path, *freeze: str, start: float = 0.0, **environment: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.tokenizer_jobs.rival_run", output, str(audio), str(start), *freeze]
    settings = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(words, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check(url: str, *, digest: str) -> None:
    """The output is that of a run that was alone, and its glob is its newest snapshot."""
    checked = verify(url)
    assert checked.problems == []
    assert (checked.digest, checked.rows, checked.rejects) == (digest, NUM_ITEMS, 1)
    storage = Storage.at(url)
    listed = [file.path for file in storage.list("codes")]
    assert listed == sorted(shard.path for shard in read_snapshot(storage).shards)


def both_at_once(output: str, audio: Path, **environment: str) -> None:
    start = time.time() + 4.0
    rivals = [rival(output, audio, start=start, **environment) for _ in range(2)]
    said = [process.communicate(timeout=240)[0] for process in rivals]
    assert [process.returncode for process in rivals] == [0, 0], said


@pytest.mark.usefixtures("long")
def test_two_runs_at_once_on_a_disk_leave_one_whole_output(audio: Path, calm_digest: str, tmp_path: Path) -> None:
    both_at_once(str(tmp_path / "out"), audio)
    check(str(tmp_path / "out"), digest=calm_digest)


@pytest.mark.parametrize("conditions", ["conditional", "overwriting"])
def test_two_runs_at_once_on_a_store_leave_one_whole_output(
    conditions: str,
    audio: Path,
    calm_digest: str,
    object_store: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if conditions == "overwriting":
        request.getfixturevalue("long")

    reach(object_store, monkeypatch)
    output = f"s3://bucket/{uuid.uuid4().hex}"
    set_faults(object_store, unconditional=conditions == "overwriting", errors=0.02, late=0.1, late_ms=50)
    try:
        both_at_once(output, audio, **environment_for(object_store))
    finally:
        set_faults(object_store)
    check(output, digest=calm_digest)


@pytest.mark.parametrize("step", ["plans/", "_commits/", "catalog/"])
def test_a_run_that_wakes_up_after_another_finished_its_work_changes_nothing(
    step: str, audio: Path, calm_digest: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if step != "_commits/":
        request.getfixturevalue("long")
    output = tmp_path / "out"
    sleeper = rival(str(output), audio, step)
    try:
        _, status = os.waitpid(sleeper.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), sleeper.communicate()
        assert not list(output.glob("catalog/*"))
        assert run(job(output, source=files(audio))).exit_code == 0
    finally:
        os.kill(sleeper.pid, signal.SIGCONT)
    said, _ = sleeper.communicate(timeout=240)
    assert sleeper.returncode == 0, said
    check(str(output), digest=calm_digest)
    assert len(list(output.glob("catalog/*"))) == 1
    assert len(list(output.glob("plans/*"))) == 2


def test_two_planners_at_once_leave_one_plan_that_can_be_read(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = PlanFacts(generation=1, recipe_id=RECIPE.recipe_id, selection={})
    first, second = (plan_output_units(storage, name) for name in ("first", "second"))
    kind = type(storage)
    put = kind.put_if_absent

    def put_late(self: Storage, path: str, content: bytes) -> bool:
        monkeypatch.undo()
        write_plan(storage, second, facts=facts)  # all of it between the Parquet file and the JSON of the other
        return put(self, path, content)

    monkeypatch.setattr(kind, "put_if_absent", put_late)
    with pytest.raises(OutputBusyError, match="planned by another run"):
        write_plan(storage, first, facts=facts)
    assert list(read_units(storage, 1)) == second
    for unit in second:
        finish_unit(storage, unit)
    sweep_orphans(storage)
    assert list(read_units(storage, 1)) == second
    assert len(storage.list("plans")) == 2


def test_a_run_that_compared_before_another_planned_plans_nothing_twice(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, storage = job(tmp_path / "out", source=files(audio)), Storage.open(tmp_path / "out")
    facts = describe_codec(config.recipe.codec)
    planning = Planning(
        storage=storage,
        selection=config.selection,
        recipe=ResolvedRecipe.resolve(config.recipe, facts),
        facts=facts,
        still_ours=lambda: None,
    )

    def compare_early(*arguments: Any, **options: Any) -> Comparison:
        found = compare_with_known(*arguments, **options)
        monkeypatch.undo()
        plan_growth(planning)  # another run's, of the same items
        return found

    monkeypatch.setattr("tokenizer_jobs.growth.compare_with_known", compare_early)
    with pytest.raises(OutputBusyError, match="planned by another run"):
        plan_growth(planning)
    planned = [item.id for unit in read_units(storage, 1) for item in unit.items]
    assert sorted(planned) == sorted(path.name for path in audio.iterdir())
    assert list(list_generations(storage)) == [1]


def plan_output_units(storage: Storage, name: str) -> list[WorkUnit]:
    units = plan_output(storage, [[f"{name} {number}"] for number in range(3)])
    for file in storage.list("plans"):
        storage.delete(file.path)
    return units


def test_a_sweep_that_knows_only_old_commits_leaves_what_others_committed(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for unit in plan_output(storage, [["a"]]):
        finish_unit(storage, unit)
    old = list(read_commits(storage, 1))
    for unit in plan_output(storage, [["b"], ["c"]], generation=2):
        finish_unit(storage, unit)
    monkeypatch.setattr(sweeping, "STAGING_SECONDS", -10.0)  # the sweeping run slept for hours
    before = storage.list("codes")
    assert list_generations(storage) == (1, 2)
    assert sweep_orphans(storage, commits=old).shards == 0
    assert storage.list("codes") == before


def test_a_sweep_asks_whether_the_output_is_still_ours_before_it_removes(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit)
    storage.replace(f"codes/part-000001-00000-{unit.unit_id}-0badc0de.parquet", b"orphan")

    def refuse() -> None:
        raise OutputBusyError("another run has it")

    with pytest.raises(OutputBusyError):
        sweep_orphans(storage, still_ours=refuse)
    assert len(storage.list("codes")) == 2
    assert sweep_orphans(storage).shards == 1
