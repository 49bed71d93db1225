"""Every kind of source at every location: the same codes for the same clips; growth, removal, and a kill."""

import os
import signal
import uuid
from pathlib import Path

import pytest

from tests.tokenizer_jobs.layouts import LAYOUTS, add_part, few_clips
from tests.tokenizer_jobs.test_job import Killed, job, rows
from tests.waiting import wait_until
from tokenizer_jobs.job import run
from tokenizer_jobs.verification import verify


def by_name(output: Path) -> dict[str, str]:
    """Hashes of codes by the name of the clip's file."""
    return {row_id.rpartition("/")[2]: row["codes_sha256"] for row_id, row in rows(output).items()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("expected")
    source = add_part("files", str(folder / "audio"), few_clips(0, 7), part=1)
    run(job(folder / "out", source=source))
    return by_name(folder / "out")


@pytest.fixture(params=["local", "memory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "local":
        return str(tmp_path / "source")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}"
    for name, value in (
        ("ENDPOINT_URL", request.getfixturevalue("object_store")),
        ("ACCESS_KEY_ID", "x"),
        ("SECRET_ACCESS_KEY", "y"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_same_clips_have_the_same_codes_anywhere(
    kind: str, location: str, tmp_path: Path, expected: dict[str, str]
) -> None:
    output = tmp_path / "out"
    source = add_part(kind, location, few_clips(0, 4), part=1)
    assert run(job(output, source=source)).problems == []
    assert by_name(output) == {name: expected[name] for name in few_clips(0, 4)}
    source = add_part(kind, location, few_clips(4, 3), part=2)
    grown = run(job(output, source=source))
    assert (grown.rows, grown.new_rows, grown.snapshot, grown.changed, grown.vanished) == (7, 3, 2, 0, 0)
    assert by_name(output) == expected
    assert verify(str(output)).problems == []


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_killed_run_goes_on(kind: str, tmp_path: Path, expected: dict[str, str]) -> None:
    output = tmp_path / "out"
    source = add_part(kind, str(tmp_path / "source"), few_clips(0, 7), part=1)
    config = job(output, source=source, selection__shards__unit_minutes=0.005)
    process = Killed(config, tmp_path).start()
    wait_until(lambda: process.poll() is not None or any(output.glob("_commits/*/*.json")), what="a commit", seconds=60)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    result = run(config)
    assert (result.problems, result.rows) == ([], 7)
    assert by_name(output) == expected
    assert verify(str(output)).problems == []
