"""Laws of trying again and of replacing: items change places in one step, each once, at every moment."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, make_unit, plan_output
from tests.tokenizer_jobs.test_drop import PowerFailure, assert_whole, every_step
from tests.tokenizer_jobs.test_job import files, job, rejects, rows, shard_bytes, write_recording
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.errors import ConfigError, OutputBusyError
from tokenizer_jobs.job import run
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.planning import PlanFacts, PlanSummary, write_plan
from tokenizer_jobs.receipts import read_receipts
from tokenizer_jobs.removal import drop, take_over
from tokenizer_jobs.retrying import retry
from tokenizer_jobs.status import read_status
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.storage.local import LocalStorage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.verification import verify

RECIPE_ID = RECIPE.recipe_id


def fail_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Let the power fail just before a record is published."""
    real = LocalStorage.put_if_absent

    def put(self: LocalStorage, path: str, content: bytes) -> bool:
        if path == step:
            raise PowerFailure
        return real(self, path, content)

    monkeypatch.setattr(LocalStorage, "put_if_absent", put)


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for seed in range(4):
        write_recording(folder / f"clip-{seed}.wav", seconds=0.2 + 0.1 * seed, seed=seed)
    (folder / "empty.wav").touch()
    (folder / "page.wav").write_text("<html>")
    return folder


def settings(output: Path, audio: Path, **overrides: Any) -> Any:
    return job(output, source=files(audio), **overrides)


def attempts(output: Path) -> Mapping[str, int]:
    found = [pq.ParquetFile(path).read(["id", "attempts"]).to_pylist() for path in output.glob("rejects/*")]
    return {row["id"]: row["attempts"] for part in found for row in part}


def test_a_mended_reject_is_a_row_of_the_next_snapshot(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run(settings(output, audio))
    assert rejects(output) == {"empty.wav": "empty", "page.wav": "not_audio"}
    write_recording(audio / "page.wav", seconds=0.3, seed=50)
    after = retry(str(output))
    assert (after.exit_code, after.items, after.rows, after.rejects, after.snapshot) == (0, first.items, 5, 1, 2)
    assert rejects(output) == {"empty.wav": "empty"}
    assert attempts(output) == {"empty.wav": 2}
    fresh = run(settings(tmp_path / "fresh", audio))
    assert assert_whole(Storage.at(output)) == fresh.digest
    assert read_snapshot(Storage.at(output), 1).facts.rows == 4, "a retry takes no row out, so old snapshots stay"
    unchanged = run(settings(output, audio))
    assert (unchanged.new_rows, unchanged.changed, unchanged.snapshot) == (0, 0, 2)


def test_the_commit_lists_the_rejects_that_it_supersedes(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(settings(output, audio))
    retry(str(output))
    (path,) = (output / "_commits/000002").glob("*.json")
    assert '"empty.wav"' in path.read_text()
    assert '"page.wav"' in path.read_text()
    (receipt,) = read_receipts(Storage.at(output)).all
    assert (receipt.cause, receipt.generation, receipt.num_rows, receipt.num_rejects) == ("retry", 2, 0, 2)


def test_only_the_chosen_rejects_are_tried(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(settings(output, audio, selection__filters={"min_seconds": 0.25}))
    assert rejects(output)["clip-0.wav"] == "too_short"
    retry(str(output), reasons=["empty"])
    assert attempts(output) == {"empty.wav": 2, "page.wav": 1, "clip-0.wav": 1}
    mild = settings(output, audio)
    after = retry(str(output), reasons=["too_short"], filtered=True, config=mild)
    assert (after.rows, after.filtered, sorted(rejects(output))) == (4, 0, ["empty.wav", "page.wav"])
    assert_whole(Storage.at(output))
    with pytest.raises(ConfigError, match="'too_quiet' is no reason"):
        retry(str(output), reasons=["too_quiet"])


def test_nothing_to_try_changes_nothing(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for name in ("empty.wav", "page.wav"):
        (audio / name).unlink()
    run(settings(output, audio))
    assert retry(str(output)).snapshot == 1
    assert not (output / "receipts").exists()


def test_an_item_that_vanished_is_tried_as_it_was_planned(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(settings(output, audio))
    (audio / "page.wav").unlink()
    retry(str(output))
    assert rejects(output) == {"empty.wav": "empty", "page.wav": "vanished"}
    assert_whole(Storage.at(output))


def test_a_retry_of_an_output_in_use_is_refused(audio: Path, tmp_path: Path) -> None:
    run(settings(tmp_path / "out", audio))
    with Lease(Storage.open(str(tmp_path / "out")), "other"), pytest.raises(OutputBusyError, match="other"):
        retry(str(tmp_path / "out"))


def begin_retry(url: str) -> tuple[Storage, PlanSummary]:
    """An output with rejects, and all units of a generation that tries them again, not in their place yet."""
    storage = Storage.open(url)
    for unit in plan_output(storage, [["a", "x!", "y!"], ["z!"], ["b"]]):
        finish_unit(storage, unit, rejected=[n for n, item in enumerate(unit.items) if item.id.endswith("!")])
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    again = [
        make_unit(names, generation=2, index=n, unit_id=f"{n + 9:016x}")
        for n, names in enumerate([["x!", "z!"], ["y!"]])
    ]
    plan = write_plan(storage, again, facts=PlanFacts(generation=2, recipe_id=RECIPE_ID, selection={}, cause="retry"))
    for unit, rejected in zip(again, ([1], []), strict=True):
        finish_unit(storage, unit, rejected=rejected, takes_over=True)
    return storage, plan


def finish_retry(storage: Storage, plan: PlanSummary) -> None:
    receipts = read_receipts(storage)
    if not receipts.has_taken_over(plan.generation):
        commits = list(read_commits(storage, plan.generation, with_pending=True))
        take_over(storage, plan, commits, receipts=receipts, base_snapshot=1, still_ours=lambda: None)
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    sweep_orphans(storage)


def test_power_may_fail_at_every_step_of_taking_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, plan = begin_retry(str(tmp_path / "whole"))
    old = read_status(storage.url)
    assert (old.items, old.rows, old.rejects) == (5, 2, 3)
    finish_retry(storage, plan)
    new = read_status(storage.url)
    assert (new.items, new.rows, new.rejects) == (5, 4, 1)
    assert attempts(tmp_path / "whole") == {"z!": 2}
    num_failures = 0
    for number, attempt in enumerate(every_step(monkeypatch)):
        output = tmp_path / f"out-{number}"
        storage, plan = begin_retry(str(output))
        num_failures += attempt(partial(finish_retry, storage, plan))
        snapshot, status = read_snapshot(storage), read_status(storage.url)
        assert all(storage.exists(shard.path) for shard in snapshot.shards)
        assert (status.items, status.digest) in ((5, old.digest), (5, new.digest))
        assert snapshot.facts.digest in (old.digest, new.digest)
        finish_retry(storage, plan)
        assert assert_whole(storage) == new.digest
        assert shard_bytes(output) == shard_bytes(tmp_path / "whole")
        assert attempts(output) == {"z!": 2}
    assert num_failures >= 6


@pytest.mark.parametrize("step", ["receipts/000001.json", "catalog/000002.parquet"])
def test_a_retry_that_died_is_finished_by_the_next_run(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    output = tmp_path / "out"
    old = run(settings(output, audio)).digest
    write_recording(audio / "page.wav", seconds=0.3, seed=50)
    with monkeypatch.context() as patched:
        fail_at(patched, step)
        with pytest.raises(PowerFailure):
            retry(str(output))
    assert read_snapshot(Storage.at(output)).facts.digest == old
    after = run(settings(output, audio))
    assert (after.rows, after.rejects, after.exit_code) == (5, 1, 0)
    assert_whole(Storage.at(output))
    assert attempts(output) == {"empty.wav": 2}


def test_a_retried_output_drops_and_grows_on(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(settings(output, audio))
    write_recording(audio / "page.wav", seconds=0.3, seed=50)
    retry(str(output))
    drop(str(output), ids=["page.wav", "empty.wav", "clip-1.wav"])
    assert_whole(Storage.at(output))
    write_recording(audio / "later.wav", seconds=0.3, seed=51)
    after = run(settings(output, audio))
    assert (after.rows, after.rejects, after.dropped) == (4, 0, 3)
    assert set(rows(output)) == {"clip-0.wav", "clip-2.wav", "clip-3.wav", "later.wav"}
    assert_whole(Storage.at(output))
    assert retry(str(output)).new_rows == 0
    assert verify(str(output), reencode=1.0).problems == []
    assert shard_bytes(output)
