"""Nodes that come late, join, drain and are killed during one run, on real raylets."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.conftest import PYTHON_PATH, REPOSITORY
from tests.tokenizer_jobs.test_cluster import ids
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.storage import Storage

Told = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The output of a run on a cluster whose nodes came and went, and what its process told of it."""
    output = tmp_path_factory.mktemp("elastic") / "out"
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.tokenizer_jobs.elastic_run", str(output)],
        cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        answer, errors = process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert answer.strip(), errors[-4000:]
    return output, json.loads(answer.strip().splitlines()[-1])


def test_a_run_outlives_its_nodes_and_ends_whole(told: Told) -> None:
    output, answer = told
    commits = list(read_commits(Storage.open(str(output)), 1))
    assert answer["outcomes"] == ["UnitDone"] * len(commits)
    assert sorted(ids(output, "codes"), key=int) == [str(index) for index in range(len(commits))]


def test_a_cluster_with_a_head_alone_is_waited_for(told: Told) -> None:
    assert told[1]["began_before_the_first_node"] == []
    assert told[1]["begun"]["1"] >= 2


def test_a_node_that_joins_gets_units(told: Told) -> None:
    assert told[1]["begun"]["2"] >= 2
    assert told[1]["begun"]["3"] >= 2


def test_a_node_that_drains_gets_no_more_units(told: Told) -> None:
    # A unit that was handed out before, or until the next look at the nodes, may begin; one at a time takes a second.
    assert all(seconds < told[1]["look_seconds"] + 2 for seconds in told[1]["begun_on_drained"])


def test_what_a_killed_node_held_is_done_elsewhere(told: Told) -> None:
    assert told[1]["units_again"], "nothing was in hand when it was killed, so nothing was proven"


def test_what_is_missing_is_said_in_time(told: Told) -> None:
    assert "lacks a node with a GPU, which did not come within 1.5 s" in told[1]["no_gpu"]
    assert "runtime.encoders = 5, but the cluster has" in told[1]["too_many"]
