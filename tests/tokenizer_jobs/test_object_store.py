"""An output on a store that speaks S3, with the real client: skipped where s3fs is not installed."""

import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.test_job import files, job, write_recording
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.commits import Outcome, read_commits
from tokenizer_jobs.job import run
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.removal import drop
from tokenizer_jobs.retrying import retry
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.storage.systems import creates_exclusively, is_taken
from tokenizer_jobs.verification import verify, verify_output

ROOT = Path(__file__).parents[2]


def test_a_taken_name_is_told_from_other_faults() -> None:
    assert is_taken(FileExistsError("there"))
    assert is_taken(OSError(22, "PreconditionFailed"))
    assert not is_taken(OSError(22, "InvalidArgument"))
    assert not is_taken(PermissionError("PreconditionFailed"))


def test_exclusive_writes_are_not_expected_of_unknown_stores() -> None:
    assert not creates_exclusively("memory:///out", folder="/out/_staging")


@pytest.fixture
def storage(object_store: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    import fsspec

    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": object_store, "key": "anyone", "secret": "anything"})
    return Storage.open(f"s3://bucket/{uuid.uuid4().hex}")


def test_of_racing_writers_one_wins(storage: Storage) -> None:
    start, won = threading.Barrier(8), list[int]()

    def write(number: int) -> None:
        start.wait()
        if storage.put_if_absent("a.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert storage.read_bytes("a.json") == str(won[0]).encode()
    assert not storage.put_if_absent("a.json", b"")


def test_an_output_on_a_store_is_whole(storage: Storage) -> None:
    units = plan_output(storage, [["a", "b"], ["c"], ["d"]])
    outcomes = [finish_unit(storage, unit, rejected=[0] if unit.index == 2 else []).outcome for unit in units]
    assert outcomes == [Outcome.PUBLISHED] * 3
    assert finish_unit(storage, units[0]).outcome is Outcome.SAME
    assert finish_unit(storage, units[1], seed=1).outcome is Outcome.DIFFERS
    Ledger(storage).settle(1)
    assert {commit.unit_id for commit in read_commits(storage, 1)} == {unit.unit_id for unit in units}
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    assert verify_output(storage).problems == ()
    storage.put_if_absent("empty", b"")
    assert storage.read_bytes("empty") == b""


def test_an_output_on_a_store_is_retried_replaced_and_dropped_from_as_on_a_disk(
    storage: Storage, tmp_path: Path
) -> None:
    audio = tmp_path / "audio"
    audio.mkdir()
    (audio / "bad.wav").write_text("<html>")
    for seed in range(3):
        write_recording(audio / f"{seed}.wav", seconds=0.3 + 0.1 * seed, seed=seed)
    outputs = (storage.url, str(tmp_path / "local"))
    config = {url: job(Path("out"), source=files(audio)).model_copy(update={"output": url}) for url in outputs}

    def on_both(act: Callable[[str], object]) -> tuple[int, int, str]:
        for url in outputs:
            act(url)
        remote, local = (verify(url) for url in outputs)
        assert remote.problems == local.problems == []
        assert remote.digest == local.digest == read_snapshot(Storage.at(storage.url)).facts.digest
        return remote.rows, remote.rejects, remote.digest

    first = on_both(lambda url: run(config[url]))
    write_recording(audio / "bad.wav", seconds=0.3, seed=50)
    retried = on_both(lambda url: retry(url, config=config[url]))
    write_recording(audio / "1.wav", seconds=0.5, seed=51)
    replaced = on_both(lambda url: run(config[url], replace=True))
    dropped = on_both(lambda url: drop(url, where="id = '1.wav' OR num_frames < 25"))
    assert [counts[:2] for counts in (first, retried, replaced, dropped)] == [(3, 1), (4, 0), (4, 0), (1, 0)]
    assert len({digest for _, _, digest in (first, retried, replaced, dropped)}) == 4


def test_a_large_file_goes_up_in_parts(storage: Storage) -> None:
    for publish in (storage.publish, storage.publish_if_absent):
        staged = storage.stage(".parquet")
        staged.write_bytes(bytes(range(256)) * (440 << 10))  # 110 MiB: s3fs cuts from 100 MiB on
        publish(staged, f"codes/{publish.__name__}.parquet")
        assert not staged.exists()
        with storage.open_file(f"codes/{publish.__name__}.parquet") as file:
            file.seek(-256, 2)
            assert file.read() == bytes(range(256))
    again = storage.stage(".parquet")
    again.write_bytes(bytes(110 << 20))
    assert not storage.publish_if_absent(again, "codes/publish_if_absent.parquet")
    again.unlink()
