"""Laws of commits: the first wins, nothing published is overwritten, and a kill at any step leaves a readable state."""

import signal
import threading
from pathlib import Path

import pytest

from tests.forked import run_forked
from tests.tokenizer_jobs.factories import finish_unit, make_unit, plan_output
from tokenizer_jobs.accounting import total
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.commits import (
    Commit,
    Outcome,
    Published,
    commit_path,
    committed_unit_ids,
    publish_unit,
    read_commit,
    read_commits,
)
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import STAGING_FOLDER, Storage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.verification import verify_output

NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


def files_of(storage: Storage) -> dict[str, bytes]:
    return {
        file.path: storage.read_bytes(file.path) for folder in ("codes", "rejects") for file in storage.list(folder)
    }


def test_a_commit_counts_what_was_done(storage: Storage) -> None:
    unit = make_unit(NAMES)
    published = finish_unit(storage, unit, rejected=[1])
    commit = read_commit(storage, generation=1, unit_id=unit.unit_id)
    assert published.outcome is Outcome.PUBLISHED
    assert commit == published.commit
    assert commit is not None
    assert (commit.num_items, commit.num_rows, commit.num_rejects, commit.num_filtered) == (4, 3, 1, 0)
    assert commit.rejects_by_reason == {"corrupt": 1}
    assert commit.num_frames == 225
    assert commit.audio_seconds == pytest.approx(3 * (75 * 320 - 5) / 24000)
    assert [file.rows for file in commit.files] == [3, 1]
    assert {file.path: (file.size_bytes) for file in commit.files} == {
        path: len(content) for path, content in files_of(storage).items()
    }
    assert storage.list(STAGING_FOLDER) == []


def test_a_unit_of_rejects_only_has_no_shard(storage: Storage) -> None:
    commit = finish_unit(storage, make_unit(["a"]), rejected=[0]).commit
    assert commit.shards == ()
    assert commit.digest == "0" * 64
    assert len(commit.rejects) == 1
    assert storage.list("codes") == []


def test_units_are_found_by_generation(storage: Storage) -> None:
    for generation, unit_id in ((1, "aa"), (1, "bb"), (2, "cc")):
        finish_unit(storage, make_unit([unit_id], generation=generation, unit_id=unit_id * 8))
    assert committed_unit_ids(storage, 1) == {"aa" * 8, "bb" * 8}
    assert committed_unit_ids(storage, 3) == frozenset()
    assert [commit.unit_id for commit in read_commits(storage, 2)] == ["cc" * 8]


def test_the_same_codes_again_change_nothing(storage: Storage) -> None:
    unit = make_unit(NAMES)
    first = finish_unit(storage, unit)
    before = files_of(storage)
    again = finish_unit(storage, unit, attempt=2)
    assert again.outcome is Outcome.SAME
    assert again.commit == first.commit
    assert files_of(storage) == before
    assert storage.list(STAGING_FOLDER) == []


def test_other_codes_are_discarded_and_counted(storage: Storage) -> None:
    unit = make_unit(NAMES)
    first = finish_unit(storage, unit)
    before = files_of(storage)
    again = finish_unit(storage, unit, seed=1)
    assert (again.outcome, again.num_differing) == (Outcome.DIFFERS, 4)
    assert again.commit == first.commit
    assert files_of(storage) == before


def test_other_counts_are_an_integrity_error(storage: Storage) -> None:
    unit = make_unit(NAMES)
    finish_unit(storage, unit)
    before = files_of(storage)
    with pytest.raises(IntegrityError, match="another attempt had 3 and 1"):
        finish_unit(storage, unit, rejected=[0])
    assert files_of(storage) == before


def test_other_ids_are_an_integrity_error(storage: Storage) -> None:
    unit = make_unit(NAMES)
    finish_unit(storage, unit, rejected=[0])
    with pytest.raises(IntegrityError, match="or other ids"):
        finish_unit(storage, unit, rejected=[1])


def test_rows_and_rejects_must_be_the_planned_items(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = make_unit([*NAMES, "forgotten"])
    monkeypatch.setattr(
        "tests.tokenizer_jobs.factories.publish_unit",
        lambda storage, *, unit, **rest: publish_unit(storage, unit=planned, **rest),
    )
    with pytest.raises(IntegrityError, match="5 planned items, 4 with rows"):
        finish_unit(storage, make_unit(NAMES))
    assert files_of(storage) == {}


def test_an_orphan_of_equal_bytes_is_kept(storage: Storage) -> None:
    unit = make_unit(NAMES)
    first = finish_unit(storage, unit, rejected=[2])
    storage.delete(commit_path(1, unit.unit_id))
    again = finish_unit(storage, unit, rejected=[2])
    assert again.outcome is Outcome.PUBLISHED
    assert again.commit.files == first.commit.files
    assert len(files_of(storage)) == 2


def test_an_orphan_of_other_bytes_is_never_overwritten(storage: Storage) -> None:
    unit = make_unit(NAMES)
    finish_unit(storage, unit, seed=1)
    storage.delete(commit_path(1, unit.unit_id))
    before = files_of(storage)
    commit = finish_unit(storage, unit).commit
    after = files_of(storage)
    assert before.items() <= after.items()
    assert [file.path for file in commit.files] == sorted(after.keys() - before.keys())
    for file in commit.files:
        assert len(after[file.path]) == file.size_bytes


def test_a_zombie_between_its_shard_and_its_commit_loses(storage: Storage) -> None:
    """It publishes its shard while there is no commit; another attempt commits; then it goes on."""
    (unit,) = plan_output(storage, [NAMES])
    winners = list[Published]()

    class Zombie(type(storage)):  # type: ignore[misc]
        def put_if_absent(self, path: str, content: bytes) -> bool:
            winners.append(finish_unit(storage, unit))
            return bool(super().put_if_absent(path, content))

    late = finish_unit(Zombie(storage.url), unit, seed=1)
    assert winners[0].outcome is Outcome.PUBLISHED
    assert (late.outcome, late.num_differing, late.commit) == (Outcome.DIFFERS, 4, winners[0].commit)
    publish_snapshot(storage, recipe_id=read_recipe(storage).recipe_id)
    assert sweep_orphans(storage).shards == 1
    assert verify_output(storage).problems == ()


def test_racing_attempts_have_one_commit(storage: Storage) -> None:
    """8 attempts at once, half of them with other codes: the commit names files that are as it says."""
    (unit,) = plan_output(storage, [NAMES])
    start, outcomes = threading.Barrier(8), list[Outcome]()

    def attempt(number: int) -> None:
        published = finish_unit(
            storage, unit, rejected=[3], seed=number % 2, before_publish=lambda: (start.wait(), None)[1]
        )
        outcomes.append(published.outcome)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 8
    assert outcomes.count(Outcome.PUBLISHED) == 1
    assert outcomes.count(Outcome.DIFFERS) == 4
    publish_snapshot(storage, recipe_id=read_recipe(storage).recipe_id)
    sweep_orphans(storage)
    assert verify_output(storage).problems == ()


KILLS = [
    *(("publish_if_absent", when, call) for when in ("before", "after") for call in (1, 2)),
    *(("put_if_absent", when, 1) for when in ("before", "after")),
]


FINISH_AND_DIE = """
_, url, unit_id, step, when, call = sys.argv
real, calls = getattr(LocalStorage, step), []
def act(self, *arguments):
    calls.append(1)
    if len(calls) == int(call) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = real(self, *arguments)
    if len(calls) == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return done
setattr(LocalStorage, step, act)
finish_unit(Storage.at(url), make_unit(NAMES, unit_id=unit_id), rejected=[3])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, int], tuple[Storage, WorkUnit, int]]:
    """By what it was killed at: the output of a process, its unit, and its exit code."""
    storages = [Storage.open(tmp_path_factory.mktemp("killed") / "out") for _ in KILLS]
    units = [unit for storage in storages for unit in plan_output(storage, [NAMES])]
    imports = (
        "import os, signal, sys\n"
        "from tests.tokenizer_jobs.factories import finish_unit, make_unit\n"
        "from tokenizer_jobs.storage import Storage\n"
        "from tokenizer_jobs.storage.local import LocalStorage\n"
        f"NAMES = {NAMES}"
    )
    calls = [
        (storage.url, unit.unit_id, *map(str, kill)) for storage, unit, kill in zip(storages, units, KILLS, strict=True)
    ]
    ended = run_forked(imports, FINISH_AND_DIE, calls)
    return dict(zip(KILLS, zip(storages, units, ended, strict=True), strict=True))


@pytest.mark.parametrize(("step", "when", "call"), KILLS)
def test_a_kill_at_any_step_is_resumed(
    killed: dict[tuple[str, str, int], tuple[Storage, WorkUnit, int]], step: str, when: str, call: int
) -> None:
    """Step: files go by publish_if_absent (1: shard, 2: rejects), the commit by put_if_absent."""
    storage, unit, exit_code = killed[step, when, call]
    assert exit_code == -signal.SIGKILL
    done = (step, when) == ("put_if_absent", "after")
    assert committed_unit_ids(storage, 1) == ({unit.unit_id} if done else set())
    for file in [*storage.list("codes"), *storage.list("rejects")]:
        assert sum(batch.num_rows for batch in read_batches(storage, file.path)) in (1, 3)
    again = finish_unit(storage, unit, rejected=[3])
    assert again.outcome is (Outcome.SAME if done else Outcome.PUBLISHED)
    publish_snapshot(storage, recipe_id=read_recipe(storage).recipe_id)
    sweep_orphans(storage)
    assert storage.list(STAGING_FOLDER) == []
    assert verify_output(storage).problems == ()
    assert [file.path for file in storage.list("codes")] == [f"codes/{unit.part_name}.parquet"]


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"unit_id": "x"}'])
def test_an_unreadable_commit_is_named(storage: Storage, content: bytes) -> None:
    path = commit_path(1, "0" * 16)
    storage.replace(path, content)
    with pytest.raises(IntegrityError, match=f"{path} is not a commit record"):
        list(read_commits(storage, 1))


def test_a_moved_commit_is_named(storage: Storage) -> None:
    commit = finish_unit(storage, make_unit(["a"])).commit
    storage.replace(commit_path(2, commit.unit_id), storage.read_bytes(commit_path(1, commit.unit_id)))
    with pytest.raises(IntegrityError, match="it was moved"):
        list(read_commits(storage, 2))


def test_commits_behind_fsspec() -> None:
    storage = Storage.open("memory:///commits")
    units = [make_unit([f"i{number}"], index=number, unit_id=f"{number:016x}") for number in range(5)]
    commits = [finish_unit(storage, unit).commit for unit in units]
    assert list(read_commits(storage, 1)) == commits
    assert finish_unit(storage, units[0], seed=1).num_differing == 1


def test_totals_do_not_depend_on_order(storage: Storage) -> None:
    commits: list[Commit] = [
        finish_unit(storage, make_unit(["a", "b"], unit_id="aa" * 8), rejected=[0]).commit,
        finish_unit(storage, make_unit(["c"], unit_id="bb" * 8)).commit,
        finish_unit(storage, make_unit(["d"], unit_id="cc" * 8), rejected=[0]).commit,
    ]
    totals = total(commits)
    assert totals == total(reversed(commits))
    assert (totals.units, totals.items, totals.rows, totals.rejects, totals.filtered) == (3, 4, 2, 2, 0)
    assert totals.rejects_by_reason == {"corrupt": 2}
    assert total([]).digest == "0" * 64
