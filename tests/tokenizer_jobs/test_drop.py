"""Laws of removal: an output without some items is that of a run without them, at every moment and for every reader."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.test_job import files, job, rejects, rows, shard_bytes, write_recording
from tokenizer_jobs.catalog import newest_snapshot, publish_snapshot, read_snapshot
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.errors import ConfigError, IntegrityError, OutputBusyError
from tokenizer_jobs.job import run
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.receipts import read_receipts, read_removed
from tokenizer_jobs.removal import drop
from tokenizer_jobs.status import read_status
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.storage.local import LocalStorage
from tokenizer_jobs.verification import verify

RECIPE_ID = RECIPE.recipe_id
NAMES = [["a", "b", "c"], ["d", "e"], ["f"]]
DROPPED = {"b", "e", "f"}


class PowerFailure(BaseException):
    """What no code catches."""


def build(url: str, names: list[list[str]] = NAMES, **options: Any) -> Storage:
    """An output of made-up units, whose first items of a unit named `*!` are rejects."""
    storage = Storage.open(url)
    for unit in plan_output(storage, names):
        rejected = [place for place, item in enumerate(unit.items) if item.id.endswith("!")]
        finish_unit(storage, unit, rejected=rejected, **options)
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    return storage


def globbed(storage: Storage) -> set[str]:
    return {file.path for file in storage.list("codes")}


def assert_whole(storage: Storage) -> str:
    """What every settled output is, whatever happened to it; its digest."""
    found = verify(storage.url)
    assert found.problems == []
    assert found.items == found.rows + found.rejects
    snapshot = read_snapshot(storage)
    assert globbed(storage) == {shard.path for shard in snapshot.shards}
    status = read_status(storage.url)
    assert (status.items, status.rows, status.rejects, status.dropped, status.digest) == (
        found.items,
        found.rows,
        found.rejects,
        found.dropped,
        found.digest,
    )
    return found.digest


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "out") if request.param == "local" else f"memory:///{tmp_path.name}-drop"


@pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
def test_what_is_left_has_the_digest_of_an_output_that_never_had_the_rest(
    url: str, tmp_path: Path, shard_format: str
) -> None:
    storage = build(url, shard_format=shard_format)
    result = drop(url, ids=DROPPED)
    assert (result.items, result.rows, result.units, result.snapshot) == (3, 3, 3, 2)
    without = build(str(tmp_path / "without"), [["a", "c"], ["d"]], shard_format=shard_format)
    assert assert_whole(storage) == assert_whole(without)


def test_a_rewritten_shard_keeps_schema_metadata_and_bits(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    before = pq.ParquetFile(tmp_path / "out" / read_snapshot(storage).shards[0].path)
    drop(storage.url, ids=["b"])
    after = pq.ParquetFile(tmp_path / "out" / read_snapshot(storage).shards[0].path)
    assert after.schema_arrow.equals(before.schema_arrow, check_metadata=True)
    assert after.read().equals(before.read().take([0, 2]))


def test_the_receipt_says_what_was_removed_from_which_shards_and_their_hashes(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"), [["a", "b", "x!"], ["c"]])
    before = newest_snapshot(storage)
    drop(storage.url, ids=["b", "x!"])
    (receipt,) = read_receipts(storage).all
    assert before is not None
    assert (receipt.cause, receipt.num_rows, receipt.num_rejects, receipt.num_items) == ("drop", 1, 1, 2)
    (rewrite,) = receipt.rewrites
    assert {file.path: file.sha256 for file in rewrite.before}.items() >= {
        before.shards[0].path: before.shards[0].sha256
    }.items()
    removed = read_removed(storage, receipt).select(["id", "path"]).to_pylist()
    stem = before.shards[0].path.removeprefix("codes/")
    assert removed == [{"id": "b", "path": f"codes/{stem}"}, {"id": "x!", "path": f"rejects/{stem}"}]
    assert_whole(storage)
    assert storage.list("rejects") == []


def test_a_retired_snapshot_names_the_receipt_and_the_others_are_read(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    drop(storage.url, ids=["b"])
    with pytest.raises(ConfigError, match=r"snapshot 1 .* is retired: receipts/000001\.json"):
        read_snapshot(storage, 1)
    assert read_snapshot(storage, 2) == read_snapshot(storage)


def test_drops_follow_one_another_until_nothing_is_left(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    for number, name in enumerate("abcdef", start=1):
        assert drop(storage.url, ids=[name]).snapshot == number + 1
        assert_whole(storage)
    final = verify(storage.url)
    assert (final.items, final.rows, final.dropped, final.digest) == (0, 0, 6, "0" * 64)


def test_a_condition_chooses_rows_by_their_columns(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    trial = drop(storage.url, where="id IN ('a', 'b') OR source_uri LIKE '%/f.wav'", dry_run=True)
    assert (trial.items, trial.rows, trial.receipt, globbed(storage)) == (3, 3, None, globbed(storage))
    assert read_receipts(storage).all == ()
    done = drop(storage.url, where="id IN ('a', 'b') OR source_uri LIKE '%/f.wav'")
    assert (done.items, done.receipt) == (3, "receipts/000001.json")
    assert read_receipts(storage).all[0].condition is not None
    assert_whole(storage)


def test_ids_that_are_not_there_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"1 of 2 ids are not in output .*'nobody'; nothing was dropped"):
        drop(storage.url, ids=["a", "nobody"])
    assert read_receipts(storage).all == ()
    assert drop(storage.url, ids=["a", "nobody"], missing_ok=True).items == 1


def test_the_same_drop_again_changes_nothing(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    drop(storage.url, ids=["a"])
    before = {str(path): path.read_bytes() for path in Path(storage.url).rglob("*") if path.is_file()}
    assert drop(storage.url, ids=["a"]).already == 1
    assert {str(path): path.read_bytes() for path in Path(storage.url).rglob("*") if path.is_file()} == before


def test_an_output_in_use_or_with_open_units_is_refused(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"))
    with Lease(storage, "other"), pytest.raises(OutputBusyError, match="other"):
        drop(storage.url, ids=["a"])
    plan_output(storage, [["later"]], generation=2)
    with pytest.raises(ConfigError, match=r"generation 2 .* is not finished \(1 of 1 units are open\)"):
        drop(storage.url, ids=["a"])


def test_a_commit_that_a_receipt_was_not_written_for_is_an_integrity_error(tmp_path: Path) -> None:
    storage = build(str(tmp_path / "out"), [["a", "b"]])
    drop(storage.url, ids=["a"])
    (path,) = (tmp_path / "out/_commits/000001").glob("*.json")
    commit = json.loads(path.read_text())
    commit["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(commit))
    with pytest.raises(IntegrityError, match=r"names other files than receipts/000001\.json"):
        list(read_commits(storage, 1))
    assert any("names other files than receipts/000001.json" in problem for problem in verify(storage.url).problems)


def failing(monkeypatch: pytest.MonkeyPatch, *, at: int) -> Callable[[], int]:
    """Let the power fail just before the n-th step of storage that anybody could see; how many there were."""
    steps = iter(range(1, 10_000))
    taken = [0]

    def patch(name: str) -> None:
        real = getattr(LocalStorage, name)

        def step(self: LocalStorage, *arguments: Any) -> Any:
            if not any("_lease" in str(argument) for argument in arguments):
                taken[0] = next(steps)
                if taken[0] == at:
                    raise PowerFailure
            return real(self, *arguments)

        monkeypatch.setattr(LocalStorage, name, step)

    for name in ("put_if_absent", "replace", "publish", "publish_if_absent", "delete"):
        patch(name)
    return lambda: taken[0]


def every_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], bool]]:
    """For each step of what is done: a function that does it with a failure there and says whether it failed."""
    finished = False

    def attempt(number: int, act: Callable[[], object]) -> bool:
        nonlocal finished
        with monkeypatch.context() as patched:
            failing(patched, at=number)
            try:
                act()
            except PowerFailure:
                return True
        finished = True
        return False

    number = 0
    while not finished:
        number += 1
        yield lambda act, n=number: attempt(n, act)  # type: ignore[misc]


def test_power_may_fail_at_every_step_and_doing_it_again_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [["a", "b", "x!"], ["c", "d"]]
    whole = build(str(tmp_path / "whole"), names)
    old = assert_whole(whole)
    drop(whole.url, ids=["b", "c", "d", "x!"])
    new = assert_whole(whole)
    expected = shard_bytes(tmp_path / "whole")
    num_failures = 0
    for number, attempt in enumerate(every_step(monkeypatch)):
        output = tmp_path / f"out-{number}"
        storage = build(str(output), names)
        num_failures += attempt(lambda url=storage.url: drop(url, ids=["b", "c", "d", "x!"]))  # type: ignore[misc]
        # A reader sees the old output or the new one, and every file that it is told of is there.
        snapshot = read_snapshot(storage)
        assert snapshot.facts.digest in (old, new)
        assert all(storage.exists(shard.path) for shard in snapshot.shards)
        assert read_status(storage.url).digest in (old, new)
        drop(storage.url, ids=["b", "c", "d", "x!"])
        assert assert_whole(storage) == new
        assert shard_bytes(output) == expected
    assert num_failures >= 8


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    for seed in range(4):
        write_recording(folder / f"clip-{seed}.wav", seconds=0.2 + 0.1 * seed, seed=seed)
    (folder / "page.wav").write_text("<html>")
    return folder


def test_a_dropped_item_is_not_planned_again_and_is_neither_changed_nor_vanished(
    recorded: Path, tmp_path: Path
) -> None:
    output, audio = tmp_path / "out", tmp_path / "audio"
    audio.mkdir()
    for path in recorded.iterdir():
        (audio / path.name).write_bytes(path.read_bytes())
    run(job(output, source=files(audio)))
    drop(str(output), ids=["clip-0.wav", "clip-1.wav", "page.wav"])
    write_recording(audio / "clip-0.wav", seconds=0.3, seed=77)
    (audio / "clip-1.wav").unlink()
    after = run(job(output, source=files(audio)), replace=True)
    assert (after.items, after.rows, after.rejects, after.dropped, after.new_rows) == (2, 2, 0, 3, 0)
    assert (after.changed, after.vanished, after.exit_code) == (0, 0, 0)
    assert verify(str(output), reencode=1.0).problems == []
    write_recording(audio / "clip-9.wav", seconds=0.2, seed=9)
    assert run(job(output, source=files(audio))).rows == 3
    assert set(rows(output)) == {"clip-2.wav", "clip-3.wav", "clip-9.wav"}
    assert rejects(output) == {}


def test_slices_go_one_by_one_and_items_with_all_of_theirs(recorded: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(job(output, source=files(recorded), recipe__audio={"slice_seconds": 0.2}))
    ids = sorted(rows(output))
    of_item = [row_id for row_id in ids if row_id.startswith("clip-3.wav")]
    assert len(of_item) == 3
    one = drop(str(output), ids=[of_item[1]])
    assert (one.items, one.rows) == (0, 1)
    assert verify(str(output)).problems == []
    rest = drop(str(output), ids=["clip-3.wav"])
    assert (rest.items, rest.rows) == (1, 2)
    found = verify(str(output))
    assert (found.problems, found.dropped) == ([], 1)
    assert sorted(rows(output)) == [row_id for row_id in ids if row_id not in of_item]


def test_what_is_left_is_read_by_load_dataset(recorded: Path, tmp_path: Path) -> None:
    import datasets

    output = tmp_path / "out"
    run(job(output, source=files(recorded)))
    drop(str(output), where="num_samples > 11000")
    loaded = datasets.load_dataset(
        "parquet", data_files=str(output / "codes/*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(loaded["id"]) == sorted(rows(output))
    assert loaded.features["codes"].feature.feature.dtype == "uint16"
