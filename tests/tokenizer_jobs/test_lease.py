"""Laws of the lease, with real processes that are really killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenizer_jobs import lease as lease_module
from tokenizer_jobs.errors import OutputBusyError
from tokenizer_jobs.lease import LEASE_PATH, Lease, read_lease
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.storage import STAGING_FOLDER, Storage

HOLDER = textwrap.dedent("""
    import sys, time
    from tokenizer_jobs.lease import Lease
    from tokenizer_jobs.storage import Storage
    with Lease(Storage.open(sys.argv[1]), sys.argv[2]):
        print("held", flush=True)
        time.sleep(60)
""")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


@contextmanager
def holder(storage: Storage, run_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    arguments = [sys.executable, "-c", HOLDER, storage.url, run_id]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def stored(storage: Storage, *, age: float = 0.0, **changes: Any) -> None:
    """A lease as a run wrote it `age` seconds ago, with some fields changed; None removes one."""
    content = {
        "run_id": "other",
        "host": socket.gethostname(),
        "boot_id": Owner.current().boot_id,
        "pid_namespace": Owner.current().pid_namespace,
        "pid": os.getpid(),
        "pid_started": Owner.current().pid_started,
        "started_at": time.time(),
        "heartbeat": time.time() - age,
    } | changes
    content = {key: value for key, value in content.items() if value is not None}
    storage.replace(LEASE_PATH, json.dumps(content).encode())


def test_a_lease_is_held_and_released(storage: Storage) -> None:
    threads = threading.active_count()
    with Lease(storage, "one") as lease:
        found = read_lease(storage)
        assert found is not None
        assert (found.run_id, found.owner) == ("one", Owner.current())
        assert lease.lost is None
    assert read_lease(storage) is None
    assert threading.active_count() == threads
    with Lease(storage, "two"):
        pass


def test_a_second_live_run_is_refused_by_name(storage: Storage) -> None:
    with (
        Lease(storage, "one"),
        pytest.raises(OutputBusyError, match=rf"held by run one on .* \(pid {os.getpid()}, .*wait for it to end"),
    ):
        Lease(storage, "two").acquire()
    assert read_lease(storage) is None


def test_another_process_is_refused_until_it_is_killed(storage: Storage) -> None:
    with holder(storage, "killed") as process:
        with pytest.raises(OutputBusyError, match="held by run killed"):
            Lease(storage, "mine").acquire()
        os.kill(process.pid, signal.SIGKILL)
        # Dead but not yet reaped by its parent: it counts as gone.
        deadline = time.monotonic() + 5
        while "Z" not in Path(f"/proc/{process.pid}/stat").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        with Lease(storage, "mine"):
            found = read_lease(storage)
            assert found is not None
            assert found.run_id == "mine"
        process.wait()


def test_a_killed_and_reaped_process_loses_at_once(storage: Storage) -> None:
    with holder(storage, "killed") as process:
        process.kill()
        process.wait()
        with Lease(storage, "mine"):
            pass
    assert storage.list(STAGING_FOLDER) == []


def test_a_stopped_process_keeps_its_lease(storage: Storage) -> None:
    with holder(storage, "stopped") as process:
        os.kill(process.pid, signal.SIGSTOP)
        stored_lease = json.loads(storage.read_bytes(LEASE_PATH))
        stored(storage, **stored_lease | {"heartbeat": time.time() - 3600})
        with pytest.raises(OutputBusyError):
            Lease(storage, "mine").acquire()


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, False),
        ({"pid_started": 1}, True),
        ({"boot_id": "another"}, True),
        ({"pid": 2**22 + 5}, True),
        ({"pid": 2**22 + 5, "pid_namespace": None, "pid_started": None, "boot_id": None}, True),
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "pid": 2**22 + 5}, False),
        ({"host": "elsewhere", "age": 30}, False),
        ({"host": "elsewhere", "age": 90}, True),
        ({"host": "elsewhere", "age": -3600}, False),
        ({"pid_namespace": "pid:[1]", "pid": 2**22 + 5}, False),
        ({"pid_namespace": "pid:[1]", "age": 90}, True),
    ],
    ids=[
        "this process",
        "its pid has another process now",
        "the host booted since",
        "its pid is gone",
        "its pid is gone and little is known",
        "another host",
        "another host, its pid is none here",
        "another host, 30 s silent",
        "another host, 90 s silent",
        "another host, its clock ahead",
        "another container, its pid is none here",
        "another container, 90 s silent",
    ],
)
def test_when_a_lease_may_be_taken_over(storage: Storage, changes: dict[str, Any], free: bool) -> None:
    stored(storage, **changes)
    if free:
        with Lease(storage, "mine"):
            pass
        assert read_lease(storage) is None
    else:
        with pytest.raises(OutputBusyError, match="held by run other"):
            Lease(storage, "mine").acquire()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff"])
def test_a_lease_that_is_none_is_taken_over(storage: Storage, content: bytes) -> None:
    storage.replace(LEASE_PATH, content)
    with Lease(storage, "mine"):
        found = read_lease(storage)
        assert found is not None
        assert found.run_id == "mine"


def test_a_lost_lease_is_noticed_and_left_alone(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    with Lease(storage, "mine") as lease:
        stored(storage, host="elsewhere")
        deadline = time.monotonic() + 5
        while lease.lost is None and time.monotonic() < deadline:
            stored(storage, host="elsewhere")  # again: a beat that had just looked writes once more
            time.sleep(0.01)
        assert lease.lost == "run other on elsewhere took over the lease"
    found = read_lease(storage)
    assert found is not None
    assert found.run_id == "other"


def test_the_heart_beats(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.02)
    with Lease(storage, "mine"):
        first = read_lease(storage)
        deadline = time.monotonic() + 5
        while read_lease(storage) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        later = read_lease(storage)
        assert first is not None
        assert later is not None
        assert later.heartbeat > first.heartbeat
        assert later.started_at == first.started_at


def test_one_of_many_takes_a_dead_lease_over(storage: Storage) -> None:
    stored(storage, pid=2**22 + 5)
    start, held, refused = threading.Barrier(8), list[Lease](), list[str]()

    def contend(number: int) -> None:
        lease = Lease(storage, f"run-{number}")
        start.wait()
        try:
            lease.acquire()
        except OutputBusyError as error:
            refused.append(str(error))
        else:
            held.append(lease)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert len(refused) == 7
    held[0].release()
    assert read_lease(storage) is None


def test_a_lease_behind_fsspec() -> None:
    storage = Storage.open("memory:///lease")
    with Lease(storage, "one"), pytest.raises(OutputBusyError):
        Lease(storage, "two").acquire()
    assert read_lease(storage) is None
