"""Jobs through the job API of a real `ray start` cluster with token authentication: stopped, resumed, and the same."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tokenizer_jobs.head_node import HeadNode, head_node
from tests.waiting import wait_until
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.job import run
from tokenizer_jobs.status import read_status

HELD_CLIPS = '''
"""Some demo clips, on storage that gives only the first of them while it is shut: there is time to stop a job."""

import time
from pathlib import Path

from tokenizer_jobs.sources.demo import DemoClips
from tokenizer_jobs.sources.listing import Listing


class HeldClips(DemoClips):
    def __init__(self, shut):
        self._shut = Path(shut)

    def list(self):
        return Listing(items=super().list().items[:12], skipped={})

    def open(self, item):
        if self._shut.exists():
            place = [one.id for one in self.list().items].index(item.id)
            while self._shut.exists() and place >= int(self._shut.read_text()):
                time.sleep(0.05)
        return super().open(item)
'''

DEADLINE_SECONDS = 240.0

VERSION = version("tokenizer-jobs")

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a cluster's processes by /proc")


@pytest.fixture(scope="module")
def head() -> Iterator[HeadNode]:
    with head_node(num_cpus=2, num_encoders=1) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a job file, and a source of their own beside it."""
    path = tmp_path_factory.mktemp("users")
    (path / "held_clips.py").write_text(HELD_CLIPS)
    return path


@pytest.fixture(scope="module")
def digest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the same clips, tokenized in one process that nobody stops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        content = job(folder, tmp_path_factory.mktemp("calm") / "out", executor="inline")
        return run(JobConfig.parse(content, origin="test")).digest


def job(folder: Path, output: Path, **runtime: Any) -> dict[str, Any]:
    return {
        "output": str(output),
        "recipe": {"codec": {"model": "demo"}},
        "selection": {
            "source": {"kind": "held_clips:HeldClips", "shut": str(folder / "shut")},
            "shards": {"unit_minutes": 0.05},
        },
        # Longer than the 3 s after which Ray kills a job that was not to be stopped in a way of its own.
        "runtime": {"device": "cpu", "decode_tasks": 1, "grace_seconds": 5, **runtime},
    }


def write_job(folder: Path, output: Path) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job(folder, output)))
    return path


def hold_after(folder: Path, num_clips: int) -> None:
    """From now on clips beyond the first so many are not to be had."""
    part = folder / "shut.part"
    part.write_text(str(num_clips))
    part.rename(folder / "shut")


def call(head: HeadNode, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words,
        cwd=cwd,
        env=head.environment | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )


def tokenizer_jobs(head: HeadNode, *words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return call(head, sys.executable, "-m", "tokenizer_jobs", *words, cwd=cwd, **environment)


def status(head: HeadNode, output: Path, *, cwd: Path) -> dict[str, Any]:
    """Of an output, by a process that knows nothing of the cluster."""
    environment = {name: value for name, value in head.environment.items() if not name.startswith("RAY_")}
    words = (sys.executable, "-m", "tokenizer_jobs", "status", str(output), "--json")
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def followed(head: HeadNode, *words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on by itself and hears Ctrl-C; killed when it takes too long."""
    command = (sys.executable, "-m", "tokenizer_jobs", *words)
    # What a shell starts in the background ignores Ctrl-C, and so would its children: these tests may be such.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, cwd=cwd, env=head.environment, stdout=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        timer = threading.Timer(DEADLINE_SECONDS, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            timer.join()
            process.kill()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def wait_until_some_is_committed(output: Path, *, more_than: int = 0) -> None:
    wait_until(
        lambda: len(list((output / "_commits").glob("*/*.json"))) > more_than,
        what=f"another commit in {output}",
        seconds=DEADLINE_SECONDS,
    )


def assert_half_done(found: dict[str, Any]) -> None:
    assert 0 < found["units_committed"] < found["units"]


FOLLOW = """
import sys
from tokenizer_jobs.cluster.job_client import Jobs
jobs = Jobs(sys.argv[1])
jobs.connect()
sys.exit(jobs.follow(sys.argv[2], write=sys.stdout.write).exit_code_here)
"""


def test_jobs_that_are_stopped_and_submitted_again_give_what_one_process_gives(
    head: HeadNode, folder: Path, digest: str, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    submit = ("submit", str(write_job(folder, output)), "--address", head.address)
    hold_after(folder, 4)

    # By Ray's own command, and stopped by it.
    at = ("--address", head.address)
    environment = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "50"}})
    by_ray = ("ray", "job", "submit", *at, "--working-dir", str(folder), "--runtime-env-json", environment)
    command = ("--", "python", "-m", "tokenizer_jobs", "run", "job.yaml")
    first = call(head, *by_ray, "--submission-id", "first", "--no-wait", *command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    wait_until_some_is_committed(output)
    assert_half_done(status(head, output, cwd=tmp_path))
    stopped = call(head, "ray", "job", "stop", *at, "--no-wait", "first", cwd=tmp_path)
    assert stopped.returncode == 0, stopped.stderr
    followed_end = call(head, sys.executable, "-c", FOLLOW, head.address, "first", cwd=tmp_path)
    log = followed_end.stdout
    assert followed_end.returncode == 75, log + followed_end.stderr
    assert re.search(r"^stopped: \d+ of \d+ units committed; nothing is lost$", log, re.MULTILINE), log
    assert not (output / "_lease.json").exists(), "a run that drained gives its lease back"
    assert_half_done(so_far := read_status(str(output)).model_dump())

    # By ours; Ctrl-C lets go of the log, not of the job.
    hold_after(folder, 8)
    with followed(head, *submit, cwd=folder) as following:
        assert re.match(r"submitted tokenize-out-\S+$", first_line(following))
        wait_until_some_is_committed(output, more_than=so_far["units_committed"])
        following.send_signal(signal.SIGINT)
        following.communicate()
    assert following.returncode == 130
    assert books(head)[0] == (None, VERSION), "it still runs"
    # As a supervisor outside Ray does it, whose books must show the command's own exit code.
    os.kill(json.loads((output / "_lease.json").read_text())["pid"], signal.SIGTERM)
    wait_until(
        lambda: books(head)[0] == (75, VERSION), what="the end of the job in the books", seconds=DEADLINE_SECONDS
    )
    assert_half_done(read_status(str(output)).model_dump())

    # A cluster with another version of this package refuses the job, unless the package is sent along.
    (folder / "shut").unlink()
    other = tmp_path / "other"
    record = other / "tokenizer_jobs-9.9.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenizer-jobs\nVersion: 9.9\n")
    with_other = {"PYTHONPATH": os.pathsep.join([str(other), head.environment["PYTHONPATH"]])}
    refused = tokenizer_jobs(head, *submit, cwd=folder, **with_other)
    assert refused.returncode == 1
    assert re.search(
        r"error: .*submitted by tokenizer-jobs 9\.9, and the cluster has [\d.]+;.*--send-package", refused.stdout
    )
    done = tokenizer_jobs(head, *submit, "--send-package", cwd=folder, **with_other)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_status(str(output))
    assert (found.units_committed, found.digest) == (found.units, digest)
    assert "Traceback" not in log + done.stdout
    assert books(head) == [(0, "9.9"), (1, "9.9"), (75, VERSION), (None, None)]


def books(head: HeadNode) -> list[tuple[int | None, str | None]]:
    """The cluster's jobs, the newest first, as its API tells them: exit code, version that submitted it."""
    token = head.environment["RAY_AUTH_TOKEN"]
    request = urllib.request.Request(f"{head.address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        told = json.load(answer)
    told.sort(key=lambda one: one["start_time"], reverse=True)
    return [(one["driver_exit_code"], (one["metadata"] or {}).get("tokenizer_jobs_version")) for one in told]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "sent only with RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "ab" * 32}, "the token of RAY_AUTH_TOKEN is missing or not the cluster's"),
        ({"RAY_AUTH_TOKEN": "", "HOME": "/nonexistent"}, "the token of ~/.ray/auth_token is missing"),
    ],
)
def test_a_missing_or_wrong_token_is_one_line_that_says_how_to_give_it(
    head: HeadNode, folder: Path, tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    words = ("submit", str(write_job(folder, tmp_path / "out")), "--address", head.address)
    refused = tokenizer_jobs(head, *words, cwd=folder, **environment)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
