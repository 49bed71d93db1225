"""What a store does wrong, one fault at a time: lost answers, conflicts, lost parts, lagging lists, no conditions."""

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.object_stores import faults_of, reach, set_faults
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.commits import Outcome, read_commit
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.lease import Lease, read_lease
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.planning import list_generations
from tokenizer_jobs.receipts import read_receipts
from tokenizer_jobs.removal import drop
from tokenizer_jobs.storage import Storage, remote, systems
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.verification import verify_output

LOST = ("cut_after", "cut_within", "internal_error_after")
"""The work was done, and the client is not told so."""
QUICK = {**systems.S3_CLIENT, "retries": {"mode": "standard", "max_attempts": 2}}

Misbehave = Callable[..., None]


@pytest.fixture
def misbehave(object_store: str) -> Iterator[Misbehave]:
    """Sets what the store does wrong until the end of the test."""
    yield lambda **wanted: set_faults(object_store, **wanted)
    set_faults(object_store)


@pytest.fixture
def storage(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An empty output on the store; whether it refuses to overwrite is asked when it is first needed."""
    reach(object_store, monkeypatch)
    return Storage.open(f"s3://bucket/{uuid.uuid4().hex}")


def planned(fault: str, method: str, key: str, **more: Any) -> dict[str, Any]:
    return {"rules": [{"fault": fault, "method": method, "key": key, **more}]}


@pytest.mark.parametrize("fault", LOST)
def test_what_was_written_counts_as_ours_though_its_answer_was_lost(
    fault: str, storage: Storage, misbehave: Misbehave
) -> None:
    assert storage.is_exclusive
    misbehave(**planned(fault, "PUT", "a.json"))
    assert storage.put_if_absent("a.json", b"ours")
    assert not storage.put_if_absent("a.json", b"theirs")
    assert storage.read_bytes("a.json") == b"ours"


def test_a_store_is_known_to_refuse_though_an_answer_was_lost(storage: Storage, misbehave: Misbehave) -> None:
    misbehave(**planned("cut_after", "PUT", ".trial"))
    assert storage.is_exclusive


def test_a_conflict_is_tried_again(storage: Storage, misbehave: Misbehave, object_store: str) -> None:
    assert storage.is_exclusive
    before = faults_of(object_store)["faults"].get("conflict", 0)
    misbehave(**planned("conflict", "PUT", "a.json", times=2))
    assert storage.put_if_absent("a.json", b"ours")
    assert faults_of(object_store)["faults"]["conflict"] == before + 2


@pytest.mark.parametrize("key", ["codes/", "_commits/"])
def test_a_commit_whose_answer_was_lost_is_ours(key: str, storage: Storage, misbehave: Misbehave) -> None:
    (unit,) = plan_output(storage, [["a"]])
    misbehave(**planned("cut_after", "PUT", key))
    published = finish_unit(storage, unit)
    assert published.outcome is Outcome.PUBLISHED
    assert published.commit == read_commit(storage, generation=1, unit_id=unit.unit_id)
    assert [file.path for file in storage.list("codes")] == [file.path for file in published.commit.files]


@pytest.mark.parametrize("key", ["plans/000001.json", "plans/000001.parquet", "recipe.json"])
def test_a_plan_whose_answer_was_lost_is_ours(key: str, storage: Storage, misbehave: Misbehave) -> None:
    assert storage.is_exclusive
    misbehave(**planned("cut_after", "PUT", key))
    units = plan_output(storage, [["a"], ["b"]])
    for unit in units:
        finish_unit(storage, unit)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    sweep_orphans(storage)
    assert verify_output(storage).problems == ()
    assert len(storage.list("plans")) == 2


@pytest.mark.parametrize("key", ["receipts/000001", "catalog/", "_lease.json"])
def test_a_removal_whose_answers_were_lost_is_ours(key: str, storage: Storage, misbehave: Misbehave) -> None:
    for unit in plan_output(storage, [["a", "b"], ["c"]]):
        finish_unit(storage, unit)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    misbehave(**planned("cut_after", "PUT", key, times=2 if key == "receipts/000001" else 1))
    assert drop(storage.url, ids=["a"]).rows == 1
    assert (len(read_receipts(storage).all), read_lease(storage)) == (1, None)
    assert verify_output(storage).problems == ()
    assert read_snapshot(storage).facts.rows == 2


def test_a_lease_whose_answer_was_lost_is_ours(storage: Storage, misbehave: Misbehave) -> None:
    assert storage.is_exclusive
    misbehave(**planned("cut_after", "PUT", "_lease.json"))
    with Lease(storage, "run") as lease:
        lease.look()
        assert lease.lost is None


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads in parts from 2 MiB on, in place of 100."""
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda _size, **_: 1 << 20)


CONTENT = bytes(range(256)) * (10 << 10)
PARTS = {
    "the end, done": ("cut_after", "POST", {"let": 1}),
    "the end, not done": ("cut_before", "POST", {"let": 1}),
    "a part": ("cut_before", "PUT", {"let": 1}),
    "a part's answer": ("cut_after", "PUT", {}),
}


@pytest.mark.parametrize("lost", PARTS)
@pytest.mark.parametrize("call", ["publish", "publish_if_absent"])
@pytest.mark.usefixtures("small_parts")
def test_an_upload_in_parts_survives_what_is_lost_of_it(
    call: str, lost: str, storage: Storage, misbehave: Misbehave, object_store: str
) -> None:
    assert storage.is_exclusive
    uploads = faults_of(object_store)["open_uploads"]
    fault, method, more = PARTS[lost]
    staged = storage.stage(".parquet")
    staged.write_bytes(CONTENT)
    misbehave(**planned(fault, method, "codes/a.parquet", **more))
    assert getattr(storage, call)(staged, "codes/a.parquet") in (None, True)
    assert storage.read_bytes("codes/a.parquet") == CONTENT
    assert not staged.exists()
    assert faults_of(object_store)["open_uploads"] == uploads


@pytest.mark.usefixtures("small_parts")
def test_an_upload_in_parts_that_fails_for_good_shows_nothing(
    storage: Storage, misbehave: Misbehave, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "S3_CLIENT", QUICK)
    other = Storage.at(storage.url + "/below")  # a client of its own, with fewer retries
    uploads = faults_of(object_store)["open_uploads"]
    staged = other.stage(".parquet")
    staged.write_bytes(CONTENT)
    assert other.is_exclusive
    misbehave(**planned("internal_error", "PUT", "codes/a.parquet", let=1, times=100))
    with pytest.raises(TransientError, match=r"codes/a.parquet"):
        other.publish_if_absent(staged, "codes/a.parquet")
    misbehave()
    assert not other.exists("codes/a.parquet")
    assert faults_of(object_store)["open_uploads"] == uploads
    assert other.publish_if_absent(staged, "codes/a.parquet")


def test_writers_see_what_listings_do_not_show_yet(storage: Storage, misbehave: Misbehave) -> None:
    misbehave(stale_seconds=600)
    ledger = Ledger(storage)
    for unit in plan_output(storage, [["a", "b"], ["c"]]):
        ledger.add(finish_unit(storage, unit).commit)
    assert storage.list("plans") == storage.list("_commits/000001") == []
    assert list_generations(storage) == (1,)
    ledger.settle(1)
    first = publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=ledger.commits(1), receipts=ledger.receipts)
    assert (first.number, first.facts.rows) == (1, 3)
    again = publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=ledger.commits(1), receipts=ledger.receipts)
    assert again.number == 1


def test_what_a_listing_does_not_show_is_done_again_and_not_twice(storage: Storage, misbehave: Misbehave) -> None:
    misbehave(stale_seconds=600)
    units = plan_output(storage, [["a", "b"], ["c"]])
    for unit in units:
        finish_unit(storage, unit)
    resumed = Ledger(storage)
    assert resumed.num_committed(1) == 0
    for unit in units:
        again = finish_unit(storage, unit, seed=1)
        assert again.outcome is Outcome.DIFFERS
        resumed.add(again.commit)
    misbehave()
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=resumed.commits(1), receipts=resumed.receipts)
    sweep_orphans(storage)
    assert verify_output(storage).problems == ()
    assert read_snapshot(storage).facts.rows == 3


@pytest.fixture
def overwriting(storage: Storage, misbehave: Misbehave, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """An output on a store that overwrites without a word; two writers of one process take no turns."""
    misbehave(unconditional=True)
    assert not storage.is_exclusive
    monkeypatch.setattr(remote, "_REMOTE_CREATE", threading.RLock())
    return storage


@pytest.mark.parametrize("window", ["codes/", "_commits/"])
def test_on_a_store_that_overwrites_two_attempts_at_once_leave_one_whole(
    window: str, overwriting: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = overwriting
    (unit,) = plan_output(storage, [["a", "b"]])
    system: Any = remote._system_of(storage.url, os.getpid())
    looked, entered = system.exists, list[str]()
    ledger = Ledger(storage)
    assert ledger.num_committed(1) == 0

    def look(path: str) -> bool:
        found = bool(looked(path))
        if window in path and not entered:  # the other attempt does all of its work after this look
            entered.append(path)
            ledger.add(finish_unit(storage, unit, seed=1).commit)
        return found

    monkeypatch.setattr(system, "exists", look)
    finish_unit(storage, unit, seed=2)
    monkeypatch.undo()
    assert entered
    ledger.settle(1)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=ledger.commits(1), receipts=ledger.receipts)
    sweep_orphans(storage, commits=ledger.commits(1, with_pending=True))
    assert verify_output(storage).problems == ()
    assert read_snapshot(storage).facts.rows == 2
    assert len(storage.list("codes")) == 1


def test_on_a_store_that_overwrites_the_overwritten_writer_learns_of_it(
    overwriting: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    system: Any = remote._system_of(overwriting.url, os.getpid())
    write = system.pipe_file

    def write_and_be_overwritten(path: str, content: bytes, **options: Any) -> None:
        write(path, content, **options)
        write(path, b"theirs")

    monkeypatch.setattr(system, "pipe_file", write_and_be_overwritten)
    assert not overwriting.put_if_absent("a.json", b"ours")
