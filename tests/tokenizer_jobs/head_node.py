"""A real head node of Ray, started as an operator starts one, with token authentication; and ended without a trace."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tokenizer_jobs.conftest import PYTHON_PATH

_MARK = "TOKENIZER_JOBS_TEST_CLUSTER"
"""Variable by which a cluster's processes are found again; those that write their title over it, by their folder."""

_PORT_FLAGS = (
    "--port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
    "--ray-client-server-port",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadNode:
    """One running cluster."""

    address: str
    """Of its dashboard."""
    environment: dict[str, str]
    """Of a client that has the cluster's token."""


@contextmanager
def head_node(*, num_cpus: int, num_encoders: int) -> Iterator[HeadNode]:
    """Start a cluster of one node by `ray start --head`, and end every process of it."""
    mark = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray puts sockets below it
    tools = Path(sys.executable).parent
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": "150",  # on a machine that is busy with other tests
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",  # `python` in a job's command is this one
        "PYTHONPATH": PYTHON_PATH,
    }
    with _free_ports(len(_PORT_FLAGS) + 1) as (dashboard, *others):
        pass
    words = [str(tools / "ray"), "start", "--head", f"--dashboard-port={dashboard}", "--disable-usage-stats"]
    words += [f"{flag}={port}" for flag, port in zip(_PORT_FLAGS, others, strict=True)]
    words += ["--min-worker-port=0", "--max-worker-port=0", f"--temp-dir={folder}", f"--num-cpus={num_cpus}"]
    words += ["--num-gpus=0", f'--resources={{"encoder": {num_encoders}}}', "--object-store-memory=200000000"]
    try:
        started = subprocess.run(
            words, env=environment | {_MARK: mark}, cwd=folder, capture_output=True, text=True, check=False, timeout=240
        )
        assert started.returncode == 0, started.stdout + started.stderr
        yield HeadNode(address=f"http://127.0.0.1:{dashboard}", environment=environment)
    finally:
        _end_all(mark, folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    with ExitStack() as stack:
        yield [stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def _end_all(mark: str, home: Path) -> None:
    deadline = time.monotonic() + 60.0
    while processes := _processes(mark, home):
        assert time.monotonic() < deadline, f"processes {processes} of a test's cluster do not end"
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.1)


def _processes(mark: str, home: Path) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                is_marked = f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0")
                if is_marked or (folder / "cwd").readlink().is_relative_to(home):
                    found.append(int(folder.name))
            except OSError:
                continue  # it ended, or is another user's
    return found
