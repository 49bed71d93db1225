"""The Ray that a run starts for itself: it ends with the run, whole, however the run ends."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray._private.ray_constants import PROCESS_TYPE_RAYLET

from tests.waiting import wait_until
from tokenizer_jobs.cluster.head import _Head

CLUSTER = """
import os, tempfile, time
from pathlib import Path
import ray
from ray._private.runtime_env import uv_runtime_env_hook
from tokenizer_jobs.cluster.session import private_ray

class Sleeper:
    def nap(self): return True

def work(num_workers):
    Path(tempfile.gettempdir(), f"begun-{os.getpid()}").touch()
    while len(begun := sorted(Path(tempfile.gettempdir()).glob("begun-*"))) < num_workers:
        time.sleep(0.05)
    return [int(path.name.partition("-")[2]) for path in begun]

# As where `uv run` is among the parents: Ray would pack a runtime environment, and tasks wait for ever for its agent.
uv_runtime_env_hook._get_uv_run_cmdline = lambda: ["uv", "run", "job.py"]
with private_ray(num_cpus=2, encoder_slots=1):
    sleeper = ray.remote(Sleeper).options(num_cpus=0, resources={"encoder": 1}).remote()
    told = ray.get([sleeper.nap.remote(), ray.remote(Sleeper.nap).remote(None)], timeout=60)
    (node,) = ray.nodes()
    print(told, node["Resources"]["encoder"], ray.get(ray.put("kept")), flush=True)
    workers, *_ = ray.get([ray.remote(work).options(num_cpus=0.5).remote(4) for _ in range(4)], timeout=60)
    time.sleep(3)  # Ray ends what is idle for a second, beyond one worker for each CPU
    print([Path(f"/proc/{pid}").exists() for pid in workers], flush=True)
    for path in Path(tempfile.gettempdir()).glob("begun-*"):
        path.unlink()
print("ended", flush=True)
input()
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A temporary folder for processes, of so short a name that a private Ray stays inside."""
    path = Path(tempfile.mkdtemp(prefix="tj-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def living(folder: Path) -> list[str]:
    """Command lines of the processes that have this temporary folder."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"TMPDIR={folder}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended
    return found


def start(*words: str, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_does_its_work_with_few_processes_and_leaves_none(folder: Path) -> None:
    with start("-c", CLUSTER, folder=folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[True, True] 1.0 kept\n"
        assert process.stdout.readline() == "[True, True, True, True]\n", "workers that decode again and again stay"
        beside = ("dashboard/dashboard.py", "agent.py", "agent/main.py", "monitor.py")
        assert [line for line in living(folder) if line.partition(" --")[0].rstrip().endswith(beside)] == []
        assert process.stdout.readline() == "ended\n"
        assert len(living(folder)) == 1, "the process itself"
        assert list(folder.iterdir()) == []
        _, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_it_keeps_as_many_workers_as_the_environment_says(folder: Path) -> None:
    with start("-c", CLUSTER, folder=folder, RAY_num_workers_soft_limit="1") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "[True, True] 1.0 kept\n"
        assert "False" in process.stdout.readline()
        process.communicate("\n", timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("moment", ["gcs_server", "EncoderActor.load"])
def test_sigterm_while_it_starts_ends_the_run_resumably_and_leaves_nothing(
    moment: str, folder: Path, tmp_path: Path
) -> None:
    flags = ("--runtime.executor", "ray", "--runtime.encoders", "1", "--output", str(tmp_path / "out"))
    with start("-m", "tokenizer_jobs", "run", "configs/quickstart.yaml", *flags, folder=folder) as process:
        wait_until(_seen(moment, folder), what=moment, seconds=120)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, "nothing is lost" in errors) == (75, True), errors
    deadline = time.monotonic() + 10
    while left := living(folder):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    assert list(folder.iterdir()) == []


def test_workers_are_the_children_of_a_living_raylet_where_they_can_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as raylet:
        head = object.__new__(_Head)
        head.all_processes = {PROCESS_TYPE_RAYLET: [SimpleNamespace(process=raylet)]}
        wait_until(lambda: bool(_children(raylet.pid)), what="its child", seconds=30)
        with monkeypatch.context() as older:
            older.delattr(os, "pidfd_open")
            assert head._workers() == []
        (worker,) = head._workers()
        signal.pidfd_send_signal(worker, signal.SIGKILL)
        os.close(worker)
        raylet.wait()
        monkeypatch.setattr(raylet, "pid", os.getpid())  # its number may be anybody's by now
        assert head._workers() == []


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _seen(moment: str, folder: Path) -> Callable[[], bool]:
    return lambda: any(moment in line for line in living(folder))
