"""Storage that fails, and machines that lack something, in the midst of a run: what ends it and what does not."""

import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from ray.job_submission import JobStatus

from tests.tokenizer_jobs.factories import plan_output
from tokenizer_jobs.cli import endings
from tokenizer_jobs.cluster import job_client
from tokenizer_jobs.cluster.reach import check_reach
from tokenizer_jobs.errors import ConfigError, IntegrityError, TransientError
from tokenizer_jobs.planning import OpenUnits, list_generations, read_units, stored
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import Storage, remote


@pytest.fixture
def storage() -> Iterator[Storage]:
    """An empty output behind fsspec."""
    folder = f"/{uuid.uuid4().hex}"
    yield Storage.open(f"memory://{folder}")
    if MemoryFileSystem().exists(folder):
        MemoryFileSystem().rm(folder, recursive=True)


class NoCredentialsError(Exception):
    """As botocore's."""


def fail_with(error: Exception, what: type[Any], call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(what, call, failing)


@pytest.mark.parametrize("error", [OSError("the connection broke"), RuntimeError("IncompleteRead")])
def test_a_store_that_fails_while_a_file_is_read_has_damaged_nothing(
    error: Exception, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_output(storage, [["a"]])
    fail_with(error, MemoryFile, "read", monkeypatch)
    with pytest.raises(TransientError, match=str(error)):
        list(read_units(storage, 1))
    with pytest.raises(TransientError, match=str(error)):
        list(read_batches(storage, "plans/000001.parquet"))


def test_a_damaged_file_of_a_store_is_damaged_still(storage: Storage) -> None:
    storage.replace("codes/a.parquet", b"no Parquet")
    with pytest.raises(IntegrityError, match="damaged"):
        list(read_batches(storage, "codes/a.parquet"))


@pytest.mark.parametrize("fails_at", [0, 1, 3, 4])
def test_open_units_go_on_where_the_plan_could_not_be_read(
    fails_at: int, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_ROW_GROUP_ITEMS", 2)
    units = plan_output(storage, [[str(index)] for index in range(7)])
    assert list_generations(storage) == (1,)
    reading = OpenUnits(storage, 1, committed={units[3].unit_id})
    taken = [next(reading).index for _ in range(fails_at)]
    with monkeypatch.context() as patch:
        fail_with(OSError("down"), MemoryFile, "read", patch)
        for _ in range(2):
            with pytest.raises(TransientError, match="down"):
                taken.extend(unit.index for unit in reading)  # of the row group at hand some are left
    assert taken + [unit.index for unit in reading] == [0, 1, 2, 4, 5, 6]


def test_what_killed_processes_left_staged_is_swept_by_the_next_one_on_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "import os; from tokenizer_jobs.storage import Storage; "
        "Storage.at('memory://x').stage('.parquet').write_bytes(b'x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", words], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    folder = tmp_path / f"tokenizer-jobs-staging-{os.getuid()}"
    (left,) = folder.iterdir()
    (folder / "somebody's own").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remote._sweep_staged.cache_clear()
    ours = Storage.at("memory://x").stage(".parquet")
    ours.touch()
    assert Storage.at("memory://x").stage(".parquet").parent == folder
    assert not left.exists()
    assert {path.name for path in folder.iterdir()} == {ours.name, "somebody's own"}


def test_an_encoder_that_starts_in_an_outage_does_not_end_the_run(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(OSError("SlowDown"), MemoryFileSystem, "pipe_file", monkeypatch)
    with pytest.raises(ConfigError, match="cannot be written"):  # the driver, at its own start
        Storage.open(storage.url)
    with pytest.raises(TransientError, match="SlowDown"):
        check_reach(storage.url, paths=())


@pytest.mark.parametrize("error", [NoCredentialsError("Unable to locate credentials"), PermissionError("Forbidden")])
def test_a_node_that_may_not_write_ends_the_run_at_once(
    error: Exception, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, MemoryFileSystem, "pipe_file", monkeypatch)
    with pytest.raises(ConfigError, match=r"cannot be written: .*check the address, the credentials"):
        check_reach(storage.url, paths=())


@pytest.mark.parametrize("error", [TransientError("503"), OSError("reset"), ConfigError("no such store")])
def test_a_run_that_is_done_ends_as_done_though_its_output_cannot_be_read_any_more(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizer_jobs import audition

    fail_with(error, audition, "any_row_id", monkeypatch)  # type: ignore[arg-type]  # a module
    assert endings.example_id("s3://bucket/out", snapshot=1) is None


class Cluster:
    """A job API whose log connection breaks again and again while the job goes on."""

    def __init__(self, *, breaks: int, hours_between: float) -> None:
        self.left, self.hours_between, self.now = breaks, hours_between, 0.0

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        yield "progress\n"
        self.now += self.hours_between * 3600
        if self.left:
            self.left -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_info(self, _job: str) -> Any:
        return SimpleNamespace(status=JobStatus.SUCCEEDED, driver_exit_code=0, message="done")


def follow(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> job_client.JobEnd:
    clock = SimpleNamespace(
        monotonic=lambda: cluster.now, sleep=lambda seconds: setattr(cluster, "now", cluster.now + seconds)
    )
    monkeypatch.setattr(job_client, "time", clock)
    jobs = job_client.Jobs("http://head:8265")
    monkeypatch.setattr(jobs, "_client", cluster)
    return jobs.follow("a", write=lambda _: None)


def test_a_connection_that_breaks_after_hours_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow(Cluster(breaks=3, hours_between=2.0), monkeypatch).status == "SUCCEEDED"


def test_a_cluster_that_stays_out_of_reach_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(breaks=0, hours_between=0)

    async def gone(_job: str) -> AsyncIterator[str]:
        raise ConnectionError("refused")
        yield ""

    monkeypatch.setattr(cluster, "tail_job_logs", gone)
    with pytest.raises(TransientError, match="has not answered for 60 s"):
        follow(cluster, monkeypatch)
    assert cluster.now < 70
