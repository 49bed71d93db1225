"""Laws of removal among runs that sleep, race or come late, and of receipts that are lost or altered."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.test_drop import assert_whole, build, globbed
from tests.tokenizer_jobs.test_job import job
from tests.tokenizer_jobs.test_verification import flip
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.commits import Outcome, commit_path, read_commits
from tokenizer_jobs.errors import IntegrityError, OutputBusyError
from tokenizer_jobs.job import run
from tokenizer_jobs.lease import LEASE_PATH, Lease
from tokenizer_jobs.planning import read_units
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.removal import NamedItems, drop, find_removals, remove
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.verification import verify

RECIPE_ID = RECIPE.recipe_id
NAMES = [["a", "b", "c!"], ["d", "e"]]


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return build(str(tmp_path / "out"), NAMES)


def plan_units(storage: Storage) -> list[WorkUnit]:
    return list(read_units(storage, 1))


def ids_in(storage: Storage, path: str) -> list[str]:
    return [name for batch in read_batches(storage, path, columns=["id"]) for name in batch.column("id").to_pylist()]


def take_out(storage: Storage, name: str, *, still_ours: Callable[[], object] = lambda: None) -> None:
    receipts = read_receipts(storage)
    remove(
        storage,
        list(find_removals(storage, NamedItems(frozenset({name})), receipts=receipts)),
        receipts=receipts,
        cause="drop",
        recipe_id=RECIPE_ID,
        base_snapshot=1,
        still_ours=still_ours,
    )


def test_of_two_removals_at_once_one_happens_and_is_whole(storage: Storage) -> None:
    """The second begins and ends while the first is about to publish its receipt."""
    with pytest.raises(OutputBusyError, match=r"receipts/000001\.json was published by another run"):
        take_out(storage, "a", still_ours=lambda: take_out(storage, "d"))
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    sweep_orphans(storage)
    assert_whole(storage)
    assert drop(storage.url, ids=["a"]).rows == 1
    assert_whole(storage)


def test_a_removal_that_writes_its_list_after_anothers_receipt_spoils_nothing(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, done = type(storage).put_if_absent, list[str]()

    def late(self: Storage, path: str, content: bytes) -> bool:
        if path.startswith("receipts/") and not done:
            done.append(path)
            take_out(storage, "d")
        return bool(put(self, path, content))

    monkeypatch.setattr(type(storage), "put_if_absent", late)
    with pytest.raises(OutputBusyError):
        take_out(storage, "a")
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    sweep_orphans(storage)
    assert_whole(storage)


def test_an_attempt_that_comes_after_a_receipt_brings_nothing_back(storage: Storage) -> None:
    (unit, _) = plan_units(storage)
    drop(storage.url, ids=["a", "c!"])
    before = {file.path for folder in ("codes", "rejects") for file in storage.list(folder)}
    assert finish_unit(storage, unit, rejected=[2]).outcome is Outcome.SAME
    assert finish_unit(storage, unit, rejected=[2], seed=1).outcome is Outcome.DIFFERS
    assert {file.path for folder in ("codes", "rejects") for file in storage.list(folder)} == before
    assert_whole(storage)


def test_a_sweep_that_knows_an_older_state_leaves_what_a_receipt_names(storage: Storage) -> None:
    old = list(read_commits(storage, 1, receipts=Receipts()))
    drop(storage.url, ids=["a"])
    sweep_orphans(storage, commits=old)
    assert_whole(storage)


def test_a_snapshot_of_an_older_state_is_refused(storage: Storage) -> None:
    old = list(read_commits(storage, 1, receipts=Receipts()))
    drop(storage.url, ids=["a"])
    with pytest.raises(IntegrityError, match=r"catalog/000002\.parquet takes account of receipts/000001\.json"):
        publish_snapshot(storage, recipe_id=RECIPE_ID, commits=old, receipts=Receipts())
    (unit,) = plan_output(storage, [["z"]], generation=2)
    finish_unit(storage, unit)
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    receipts = read_receipts(storage)
    with pytest.raises(IntegrityError, match=r"catalog/000003\.parquet takes account of generations \[2\]"):
        publish_snapshot(
            storage, recipe_id=RECIPE_ID, commits=read_commits(storage, 1, receipts=receipts), receipts=receipts
        )
    assert_whole(storage)


def test_a_run_that_slept_finds_out_that_another_has_the_output(storage: Storage) -> None:
    with Lease(storage, "sleeper") as lease:
        lease.look()
        assert lease.lost is None
        holder = json.loads(storage.read_bytes(LEASE_PATH))
        storage.replace(LEASE_PATH, json.dumps({**holder, "run_id": "other"}).encode())
        lease.look()
        assert lease.lost is not None
        assert "run other" in lease.lost
    storage.delete(LEASE_PATH)


def test_what_is_dropped_before_the_first_snapshot_is_gone_too(storage: Storage) -> None:
    storage.delete("catalog/000001.parquet")
    old = globbed(storage)
    assert drop(storage.url, ids=["a"]).snapshot is None
    assert len(globbed(storage) & old) == 1
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    assert_whole(storage)


def test_a_lost_receipt_is_named_and_nothing_is_done_to_the_output(tmp_path: Path) -> None:
    config = job(tmp_path / "out")
    run(config)
    storage = Storage.at(tmp_path / "out")
    first, second = sorted(row for shard in read_snapshot(storage).shards for row in ids_in(storage, shard.path))[:2]
    drop(storage.url, ids=[first])
    drop(storage.url, ids=[second])
    storage.delete("receipts/000002.json")
    before = {str(path): path.read_bytes() for path in Path(storage.url).rglob("*") if path.is_file()}
    (problem,) = verify(storage.url).problems
    assert "takes account of receipts/000002.json" in problem
    for act in (lambda: run(config), lambda: drop(storage.url, ids=[second])):
        with pytest.raises(IntegrityError, match=r"receipts/000002\.json"):
            act()
    assert {str(path): path.read_bytes() for path in Path(storage.url).rglob("*") if path.is_file()} == before


def edit(change: Callable[[dict[str, Any]], None]) -> Callable[[Storage], None]:
    def act(storage: Storage) -> None:
        receipt = json.loads(storage.read_bytes("receipts/000001.json"))
        change(receipt)
        storage.replace("receipts/000001.json", json.dumps(receipt).encode())

    return act


def of_first(**changes: Any) -> Callable[[Storage], None]:
    return edit(lambda receipt: receipt["rewrites"][0].update(changes))


def forge_items(receipt: dict[str, Any]) -> None:
    """Call an item lost that is there, so that all sums still agree."""
    receipt["rewrites"][0]["items_removed"] += 1
    receipt["rewrites"][0]["num_items"] -= 1


ALTERED: dict[str, tuple[Callable[[Storage], None], str]] = {
    "rows removed": (edit(lambda r: r.update(num_rows=7)), r"receipts/000001\.json does not say what the list"),
    "lines of a unit": (of_first(num_removed=0), r"receipts/000001\.json does not say what the list"),
    "a unit": (of_first(unit_id="f" * 16), r"receipts/000001\.json does not say what the list"),
    "a digest": (of_first(digest="0" * 64), r"receipts/000001\.json says of unit .* what does not follow"),
    "items left": (of_first(num_items=2), r"receipts/000001\.json says of unit .* what does not follow"),
    "items lost": (edit(forge_items), r"lost 2 items, its receipts say 3; restore them from a copy"),
    "files left": (of_first(after=[]), r"(?s)restore it from a copy: receipts/000001\.json rewrote"),
}


@pytest.mark.parametrize("what", ALTERED)
def test_an_altered_receipt_is_named(storage: Storage, what: str) -> None:
    drop(storage.url, ids=["a", "c!"])
    alter, expected = ALTERED[what]
    alter(storage)
    problems = verify(storage.url).problems
    assert any(re.search(expected, problem) for problem in problems), problems
    assert not any("or delete _commits" in problem for problem in problems), problems


def test_a_missing_list_is_named_alone(storage: Storage) -> None:
    drop(storage.url, ids=["a"])
    (path,) = (file.path for file in storage.list("receipts") if file.path.endswith(".parquet"))
    storage.delete(path)
    assert verify(storage.url).problems == [f"{path} is missing; restore it from a copy"]


def test_the_advice_for_a_rewritten_shard_is_not_to_make_it_anew(storage: Storage) -> None:
    drop(storage.url, ids=["a"])
    rewritten = next(file.path for file in storage.list("codes") if re.search(r"-[0-9a-f]{8}\.parquet$", file.path))
    flip(storage, rewritten)
    (problem,) = verify(storage.url).problems
    assert problem.startswith(f"{rewritten} has sha256 ")
    assert "restore it from a copy: receipts/000001.json rewrote the unit's files" in problem
    assert "without a copy, write to a new output" in problem


def test_a_reject_that_was_taken_out_and_is_back_is_found(storage: Storage) -> None:
    (path,) = (file.path for file in storage.list("rejects"))
    content = storage.read_bytes(path)
    drop(storage.url, ids=["c!"])
    storage.replace(path, content)
    assert verify(storage.url).problems == [f"{path} is named by no commit; run again to sweep it, or delete it"]


def test_a_taken_over_item_that_is_nowhere_is_missed(storage: Storage) -> None:
    """A receipt says that a later generation has the item, and no plan knows of it."""
    receipts = read_receipts(storage)
    remove(
        storage,
        list(find_removals(storage, NamedItems(frozenset({"c!"})), receipts=receipts)),
        receipts=receipts,
        cause="retry",
        recipe_id=RECIPE_ID,
        base_snapshot=1,
        still_ours=lambda: None,
        generation=2,
    )
    publish_snapshot(storage, recipe_id=RECIPE_ID)
    sweep_orphans(storage)
    (problem,) = verify(storage.url).problems
    assert problem.startswith("5 items are planned, 4 have rows or are rejects")
    assert storage.exists(commit_path(1, plan_units(storage)[0].unit_id))
