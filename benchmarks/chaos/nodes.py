"""A Ray cluster of real raylets on this machine, and the processes in it that can be killed.

this process ─┬─ gcs, head raylet ── driver's own node, one encoder slot; never killed
              ├─ raylet ─┬─ ray::… encoder
              │          └─ ray::… decode worker
              └─ raylet ── …            SIGKILL ──▶ another one joins in its place
"""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizer_jobs.cluster.placement import ENCODER_RESOURCE

__all__ = ["Nodes", "Worker", "environment", "is_alive"]

NUM_WORKER_NODES = 2
OBJECT_STORE_BYTES = 100 << 20
NEITHER = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Titles of workers without work, and of what each raylet starts for itself."""
GONE_SECONDS = 15.0
"""That the workers of a dead raylet may live on."""


@contextmanager
def environment(folder: Path) -> Iterator[None]:
    """What the cluster and its drivers find in their environment: a token of their own, and where temporary files go.

    Args:
        folder: Of the show; Ray's session is in it too, so that no other `ray.init` of this machine finds this cluster.
    """
    before = dict(os.environ)
    os.environ |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TMPDIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A Ray worker that has something in hand."""

    pid: int
    node: str
    title: str
    """As Ray shows it, such as `tokenize part-000001-00003-4146eed22b1818bd`."""

    @property
    def decodes(self) -> bool:
        """Whether it is a decode worker."""
        return "decode" in self.title

    @property
    def encodes(self) -> bool:
        """Whether it is an encoder: Ray shows its class, what it is asked to do, or the unit in its hands."""
        return "encoder" in self.title.lower() or self.title.startswith("tokenize")


class Nodes:
    """A head and two workers, as processes of this one; a context manager.

    The environment of the cluster is that of this process when it is entered.

    Args:
        folder: Of the show.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cluster: Any = None
        self._workers: list[tuple[str, Any]] = []
        self._num_added = 0

    def __enter__(self) -> "Nodes":
        from ray.cluster_utils import Cluster  # with the environment as it is now: Ray reads it once

        with _own_sigterm():
            self._cluster = Cluster(
                initialize_head=True,
                shutdown_at_exit=True,
                head_node_args={"include_dashboard": False, **_resources()},
            )
        for _ in range(NUM_WORKER_NODES):
            self.add_worker_node()
        return self

    def __exit__(self, *_: object) -> None:
        started = set(self.raylets.values())
        for _name, worker in self._workers:
            self._cluster.remove_node(worker, allow_graceful=False)
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)
        assert not any(map(is_alive, started))

    @property
    def address(self) -> str:
        """`host:port` of the head."""
        return str(self._cluster.address)

    @property
    def raylets(self) -> dict[str, int]:
        """Process ids of the raylets by the names of their nodes."""
        return {name: _raylet_pid(node) for name, node in [("head", self._cluster.head_node), *self._workers]}

    @property
    def num_workers(self) -> int:
        """Nodes that can be killed."""
        return len(self._workers)

    def kill_worker_node(self, place: int) -> tuple[str, int]:
        """SIGKILL a worker's raylet; its workers follow it by themselves. Its name and process id.

        Raises:
            RuntimeError: some of its workers are still there long after.
        """
        name, node = self._workers.pop(place)
        pid = _raylet_pid(node)
        workers = list(_children(pid))
        os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)
        deadline = time.monotonic() + GONE_SECONDS
        while (left := [worker for worker in workers if _state(worker) not in "ZXT"]) and time.monotonic() < deadline:
            time.sleep(0.05)
        if left:
            raise RuntimeError(f"workers {left} of the killed raylet {pid} are still there after {GONE_SECONDS:g} s")
        return name, pid

    def add_worker_node(self) -> str:
        """Let another node join; its name."""
        self._num_added += 1
        name = f"worker {self._num_added}"
        with _own_sigterm():
            self._workers.append((name, self._cluster.add_node(**_resources())))
        return name

    def workers(self) -> Iterator[Worker]:
        """Encoders, and whatever else works just now."""
        for node, raylet in self.raylets.items():
            for pid in _children(raylet):
                title = _title(pid)
                if title.startswith("ray::") and not title.startswith(NEITHER):
                    yield Worker(pid=pid, node=node, title=title.removeprefix("ray::"))


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return _state(pid) not in "ZX"


def _state(pid: int) -> str:
    """The letter that Linux has for it: R, S or D runs, T is frozen, Z is dead; X also where it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


@contextmanager
def _own_sigterm() -> Iterator[None]:
    # Each node sets a handler that drains it for 30 s and leaves everything else running.
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _resources() -> dict[str, Any]:
    return {"num_cpus": 2, "resources": {ENCODER_RESOURCE: 1}, "object_store_memory": OBJECT_STORE_BYTES}


def _raylet_pid(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def _children(parent: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                yield int(folder.name)


def _title(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""
