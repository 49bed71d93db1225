"""Laws of the index of commits: it changes how many requests reading takes, never what is read."""

import pytest

from tests.tokenizer_jobs.counting import counting
from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tokenizer_jobs.accounting import total
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.commit_index import index_path
from tokenizer_jobs.commits import commit_folder, commit_path, committed_unit_ids, read_commits
from tokenizer_jobs.errors import IntegrityError, TransientError
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans

NUM_UNITS = 12
INDEX = index_path(commit_folder(1))


def do_units(storage: Storage, *, first: int = 0, last: int = NUM_UNITS) -> None:
    units = plan_output(storage, [[f"{number:03d}"] for number in range(NUM_UNITS)]) if first == 0 else []
    for unit in units[first:last]:
        finish_unit(storage, unit)


def test_resuming_asks_once_for_all(storage: Storage) -> None:
    do_units(storage)
    plain = list(read_commits(storage, 1))
    Ledger(storage).settle(1)
    same, counts = counting(storage)
    ledger = Ledger(same)
    assert list(ledger.commits(1)) == plain
    assert total(ledger.commits(1)) == total(plain)
    assert ledger.num_committed(1) == NUM_UNITS
    # Two listings, and a look for a receipt that the listing may lack.
    looks = {"list": 2, "exists": 1, "read_bytes": NUM_UNITS} if storage.is_local else {"list": 2, "read_bytes": 1 + 1}
    assert counts == looks


def test_what_came_after_the_index_is_read_beside_it(storage: Storage) -> None:
    units = plan_output(storage, [[f"{number:03d}"] for number in range(NUM_UNITS)])
    for unit in units[:8]:
        finish_unit(storage, unit)
    Ledger(storage).settle(1)
    for unit in units[8:]:
        finish_unit(storage, unit)
    same, counts = counting(storage)
    assert {commit.unit_id for commit in read_commits(same, 1)} == {unit.unit_id for unit in units}
    assert counts["read_bytes"] == (NUM_UNITS if storage.is_local else 1 + 1 + 4)


def test_a_commit_that_was_removed_or_made_anew_is_not_taken_from_the_index(storage: Storage) -> None:
    units = plan_output(storage, [[f"{number:03d}"] for number in range(NUM_UNITS)])
    for unit in units:
        finish_unit(storage, unit)
    Ledger(storage).settle(1)
    for unit in units[:2]:
        storage.delete(commit_path(1, unit.unit_id))
    again = finish_unit(storage, units[0], seed=99).commit
    found = {commit.unit_id: commit for commit in read_commits(storage, 1)}
    assert found.keys() == committed_unit_ids(storage, 1)
    assert len(found) == NUM_UNITS - 1
    assert found[units[0].unit_id] == again


def test_settling_finds_what_others_committed(storage: Storage) -> None:
    units = plan_output(storage, [["a"], ["b"]])
    ledger = Ledger(storage)
    ledger.add(finish_unit(storage, units[0]).commit)
    finish_unit(storage, units[1])
    assert ledger.num_committed(1) == 1
    ledger.settle(1)
    assert list(ledger.commits(1)) == list(read_commits(storage, 1))


def test_a_long_run_leaves_indices_as_it_goes(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer_jobs.ledger.FIRST_INDEX", 4)
    ledger, (same, counts) = Ledger(storage), counting(storage)
    assert ledger.receipts.newest == 0
    for unit in plan_output(storage, [[str(number)] for number in range(9)]):
        ledger.add(finish_unit(storage, unit).commit)
    assert len(list(read_commits(same, 1, receipts=ledger.receipts))) == 9
    assert counts["read_bytes"] == (9 if storage.is_local else 1 + 1), "the index of 8, and the last unit beside it"


def test_an_index_that_cannot_be_written_does_not_stop_a_run(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise TransientError("503 SlowDown")

    monkeypatch.setattr("tokenizer_jobs.ledger.FIRST_INDEX", 1)
    monkeypatch.setattr("tokenizer_jobs.ledger.write_index", fail)
    ledger = Ledger(storage)
    (unit,) = plan_output(storage, [["a"]])
    ledger.add(finish_unit(storage, unit).commit)
    assert ledger.num_committed(1) == 1
    assert ("index_not_written" in caplog.text) is not storage.is_local


def test_a_damaged_index_is_named(storage: Storage) -> None:
    do_units(storage)
    storage.replace(INDEX, b"PAR1 no more")
    if storage.is_local:  # where there is none, none is looked for
        assert len(list(read_commits(storage, 1))) == NUM_UNITS
        return
    with pytest.raises(IntegrityError, match=rf"{INDEX} is damaged.*delete it"):
        list(read_commits(storage, 1))
    storage.delete(INDEX)
    assert len(list(read_commits(storage, 1))) == NUM_UNITS


def test_a_ledgers_snapshot_is_the_one_that_is_read(storage: Storage) -> None:
    do_units(storage)
    ledger = Ledger(storage)
    snapshot = publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=ledger.commits(1))
    assert publish_snapshot(storage, recipe_id=RECIPE.recipe_id) == snapshot
    assert sweep_orphans(storage, commits=ledger.commits(1)) == sweep_orphans(storage)
    assert len(storage.list("codes")) == NUM_UNITS


def test_a_finished_output_opens_with_three_reads(storage: Storage) -> None:
    do_units(storage)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    same, counts = counting(storage)
    read_recipe(same)
    assert len(read_snapshot(same).shards) == NUM_UNITS
    assert sum(counts.values()) == 3


def test_publishing_a_unit_takes_two_writes(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a", "b"]])
    same, counts = counting(storage)
    finish_unit(same, unit)
    record = counts["put_if_absent"]
    shard = counts["publish_if_absent"] - (record if storage.is_local else 0)  # a local put publishes what it staged
    assert (shard, record, counts["read_bytes"], counts["exists"]) == (1, 1, 0, 0)
