"""Laws of snapshots and of the sweep."""

import os
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tokenizer_jobs.catalog import (
    newest_snapshot,
    publish_snapshot,
    read_snapshot,
    snapshot_numbers,
    snapshot_path,
)
from tokenizer_jobs.commits import commit_path
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.storage import STAGING_FOLDER, Storage
from tokenizer_jobs.sweeping import Swept, sweep_orphans

RECIPE_ID = RECIPE.recipe_id
OLD = time.time() - 3600


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out" if request.param == "local" else f"memory:///{tmp_path.name}")


@pytest.fixture
def local(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


def make_old(storage: Storage, path: str) -> None:
    os.utime(Path(storage.url) / path, (OLD, OLD))


def test_a_snapshot_lists_every_shard_in_plan_order(storage: Storage) -> None:
    units = plan_output(storage, [["a", "b"], ["c"], ["d"]])
    commits = [
        finish_unit(storage, unit, rejected=rejected).commit
        for unit, rejected in reversed(list(zip(units, ([1], [], [0]), strict=True)))
    ][::-1]
    snapshot = publish_snapshot(storage, recipe_id=RECIPE_ID)
    assert snapshot == read_snapshot(storage) == read_snapshot(storage, 1) == newest_snapshot(storage)
    assert [shard.path for shard in snapshot.shards] == [file.path for commit in commits for file in commit.shards]
    for shard, commit in zip(snapshot.shards, commits, strict=False):
        assert (shard.digest, shard.sha256, shard.frames) == (commit.digest, commit.files[0].sha256, commit.num_frames)
    facts = snapshot.facts
    assert (facts.number, facts.units, facts.items, facts.rows, facts.rejects, facts.filtered) == (1, 3, 4, 2, 2, 0)
    assert facts.bytes == sum(shard.size_bytes for shard in snapshot.shards)
    assert facts.rejects_by_reason == {"corrupt": 2}
    assert facts.generations == (1,)
    assert storage.list(STAGING_FOLDER) == []


def test_nothing_new_is_no_new_snapshot(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit)
    first = publish_snapshot(storage, recipe_id=RECIPE_ID)
    assert publish_snapshot(storage, recipe_id=RECIPE_ID) == first
    assert snapshot_numbers(storage) == [1]


def test_growth_adds_a_snapshot_and_keeps_the_old_one(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit)
    first = publish_snapshot(storage, recipe_id=RECIPE_ID)
    (unit,) = plan_output(storage, [["b"]], generation=2)
    finish_unit(storage, unit)
    second = publish_snapshot(storage, recipe_id=RECIPE_ID)
    assert (second.number, second.facts.generations) == (2, (1, 2))
    assert second.shards[:1] == first.shards
    assert read_snapshot(storage, 1) == first
    assert read_snapshot(storage) == second


def test_a_missing_snapshot_says_which_there_are(storage: Storage) -> None:
    assert newest_snapshot(storage) is None
    with pytest.raises(ConfigError, match="no snapshot yet"):
        read_snapshot(storage)
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit)
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    with pytest.raises(ConfigError, match=r"snapshot 12 is not in output .*choose one of: 1$"):
        read_snapshot(storage, 12)


def test_commits_of_another_recipe_are_refused(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit)
    with pytest.raises(IntegrityError, match="two outputs were mixed"):
        publish_snapshot(storage, recipe_id="ef" * 32)
    assert snapshot_numbers(storage) == []


def test_a_damaged_or_moved_snapshot_is_named(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit)
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    content = storage.read_bytes(snapshot_path(1))
    storage.replace(snapshot_path(2), content)
    with pytest.raises(IntegrityError, match="it was moved"):
        read_snapshot(storage, 2)
    storage.replace(snapshot_path(1), content[:-9])
    with pytest.raises(IntegrityError, match=r"catalog/000001\.parquet is damaged"):
        read_snapshot(storage, 1)


def test_a_snapshot_is_plain_parquet(local: Storage) -> None:
    (unit,) = plan_output(local, [["a"]])
    commit = finish_unit(local, unit).commit
    publish_snapshot(local, recipe_id=RECIPE_ID)
    table = pq.read_table(Path(local.url) / snapshot_path(1))
    assert table.column("path").to_pylist() == [commit.files[0].path]
    assert b"tokenizer_jobs" in table.schema.metadata


def test_the_sweep_takes_orphans_and_nothing_else(local: Storage) -> None:
    units = plan_output(local, [["a", "b"], ["c"]])
    commits = [finish_unit(local, unit, rejected=[0]).commit for unit in units]
    publish_snapshot(local, recipe_id=RECIPE_ID)
    kept = {str(path): path.read_bytes() for path in Path(local.url).rglob("*") if path.is_file()}
    done = units[0].part_name
    local.replace(f"codes/{done}-12345678.parquet", b"an attempt that lost")
    local.replace("rejects/part-000001-00009-feedfeedfeedfeed.parquet", b"of an unknown unit")
    local.replace("codes/part-000007-00000-feedfeedfeedfeed.arrow", b"of an unknown generation")
    local.replace("codes/README.md", b"not ours")
    local.replace("elsewhere/part-000001-00009-feedfeedfeedfeed.parquet", b"not ours")
    assert sweep_orphans(local) == Swept(shards=2, rejects=1, staged=0)
    left = {str(path): path.read_bytes() for path in Path(local.url).rglob("*") if path.is_file()}
    assert left.keys() - kept.keys() == {
        f"{local.url}/codes/README.md",
        *(str(path) for path in Path(local.url, "elsewhere").iterdir()),
    }
    assert kept.items() <= left.items()
    assert commits
    assert sweep_orphans(local) == Swept()


def test_young_files_of_an_open_generation_stay(local: Storage) -> None:
    units = plan_output(local, [["a"], ["b"]])
    for unit in units:
        finish_unit(local, unit)
    local.delete(commit_path(1, units[1].unit_id))
    assert sweep_orphans(local) == Swept()
    make_old(local, f"codes/{units[1].part_name}.parquet")
    assert sweep_orphans(local) == Swept(shards=1)
    assert local.exists(f"codes/{units[0].part_name}.parquet")


def test_a_lost_plan_makes_no_orphans(local: Storage) -> None:
    (unit,) = plan_output(local, [["a"]])
    finish_unit(local, unit)
    local.delete("plans/000001.json")
    assert sweep_orphans(local) == Swept()


def test_staging_of_the_dead_and_of_the_old_is_swept(local: Storage) -> None:
    mine = local.stage(".parquet").name
    machine, pid, started, rest = mine.split("-")
    names = {
        "mine": mine,
        "dead": f"{machine}-{2**22 + 5}-{started}-{rest}",
        "reused": f"{machine}-{pid}-1-{rest}",
        "elsewhere": f"00000000-{pid}-{started}-{rest}",
        "old": f"11111111-{pid}-{started}-{rest}",
    }
    for name in names.values():
        local.replace(f"{STAGING_FOLDER}/{name}", b"")
    make_old(local, f"{STAGING_FOLDER}/{names['old']}")
    assert sweep_orphans(local) == Swept(staged=3)
    left = {Path(file.path).name for file in local.list(STAGING_FOLDER)}
    assert left == {names["mine"], names["elsewhere"]}
