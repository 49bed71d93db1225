"""Drivers as the measurements see them: started, listened to, asked to stop, and always ended."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import IO, Any

from benchmarks.cluster.driver import Ended, Setting, UnitEnded, resident_megabytes

__all__ = ["Driver", "Held", "held_by", "is_encoder", "store", "work_folder"]

ROOT = Path(__file__).parents[2]
END_SECONDS = 60.0
"""That a driver may take to end by itself when a measurement is given up; later it is killed, and its Ray with it."""


class Driver:
    """A process of `benchmarks.cluster.driver`; a context manager.

    Args:
        setting: What it runs.
        environment: Of it, beside that of this process.
    """

    def __init__(self, setting: Setting, *, environment: Mapping[str, str] | None = None) -> None:
        self._setting = setting
        self._environment = {"OMP_NUM_THREADS": "1", **(environment or {})}
        self._events: SimpleQueue[UnitEnded | Ended | None] = SimpleQueue()
        self.started_at = 0.0
        """Seconds since 1970."""
        self.ended: Ended | None = None
        """How the run ended, once it told."""

    def __enter__(self) -> "Driver":
        self._log = tempfile.TemporaryFile("w+")  # closed in __exit__
        words = [sys.executable, "-m", "benchmarks.cluster.driver", json.dumps(asdict(self._setting))]
        self.started_at = time.time()
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=os.environ | self._environment, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        assert self._process.stdout is not None
        self._listener = Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()
            self.stop()  # ends the grace period
            try:
                self._process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._listener.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def stop(self) -> None:
        """Send it SIGTERM."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        return self._process.wait()

    def units(self, *, seconds: float | None = None) -> Iterator[UnitEnded]:
        """Give units as they end, until the run has ended or the time is over.

        Raises:
            SystemExit: the run failed; the message shows the end of what it said.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while deadline is None or time.monotonic() < deadline:
            try:
                event = self._events.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except Empty:
                return
            if event is None:
                self._events.put(None)  # also for who asks again
                if self.wait() not in (0, 75):
                    self._log.seek(0)
                    raise SystemExit(f"a run ended with {self.wait()}: {self.ended}\n{self._log.read()[-4000:]}")
                return
            if isinstance(event, UnitEnded):
                yield event

    def run_to_end(self) -> list[UnitEnded]:
        """Every unit that is still to come."""
        return list(self.units())

    def _listen(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith('{"kind"'):
                self._take(json.loads(line))
        self._events.put(None)

    def _take(self, fields: dict[str, Any]) -> None:
        if fields.pop("kind") == UnitEnded.__name__:
            self._events.put(UnitEnded(**fields))
        else:
            self.ended = Ended(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds."""

    megabytes: float
    """Resident."""
    files: int
    """Open descriptors."""
    threads: int


def held_by(pid: int) -> Held | None:
    """Look at a process; None when it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        return Held(
            megabytes=resident_megabytes(pid),
            files=len(list((folder / "fd").iterdir())),
            threads=len(list((folder / "task").iterdir())),
        )
    except OSError:
        return None


def is_encoder(pid: int) -> bool:
    """Whether a process is a worker of Ray: its id might be another's by now."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::")
    except OSError:
        return False


@contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for the inputs and outputs of one measurement; it goes with it."""
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        yield Path(folder)


@contextmanager
def store(*, latency_ms: float = 2.0, **faults: float) -> Iterator[dict[str, str]]:
    """A loopback S3 while the context lasts; the environment by which `s3://bucket/...` reaches it.

    Args:
        latency_ms: Of each request.
        faults: As the options of `benchmarks.loopback_s3`: errors, cuts, late, late_ms, seed.
    """
    words = [sys.executable, "-m", "benchmarks.loopback_s3", "--latency-ms", str(latency_ms)]
    words += [word for name, value in faults.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield {
            "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.communicate()
