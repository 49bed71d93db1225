"""The short form of `make chaos`: a real cluster, a store that fails at random, real kills; every item exactly once."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.chaos.laws import Content, check, read_content
from benchmarks.chaos.recordings import write_recordings
from benchmarks.chaos.service import write_job
from benchmarks.chaos.settings import ROOT, ViolationError
from tokenizer_jobs.cli import main

NUM_ITEMS = 40


def call_here(*words: str, log: Path) -> int:
    """A command of the service in this process: a process for each would take most of the time of these tests."""
    with log.open("a") as said, redirect_stdout(said), redirect_stderr(said):
        return main(words)


@pytest.fixture(scope="module", autouse=True)
def _in_this_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.chaos.laws.call", call_here)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with inputs and the output of a run without violence."""
    folder = tmp_path_factory.mktemp("calm")
    write_recordings(folder / "inputs", num_items=NUM_ITEMS, seed=5)
    job, output = folder / "job.yaml", str(folder / "output")
    write_job(job, output=output, inputs=folder / "inputs", unit_minutes=0.1, runtime={"executor": "inline"})
    assert call_here("run", str(job), log=folder / "run.log") == 0, (folder / "run.log").read_text()
    return folder


@pytest.fixture(scope="module")
def calm(whole: Path) -> Content:
    return read_content(str(whole / "output"), log=whole / "verify.log")


@pytest.fixture
def output(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(whole / "output", tmp_path / "output"))


def broken_law(output: Path, *, whole: Path, calm: Content) -> str:
    with pytest.raises(ViolationError) as violation:
        check(str(output), inputs=whole / "inputs", calm=calm, log=output.parent / "verify.log")
    return str(violation.value)


def shards(output: Path) -> list[Path]:
    return sorted((output / "codes").iterdir())


def test_an_untouched_output_keeps_every_law(whole: Path, calm: Content, output: Path) -> None:
    assert len(calm.rows) + len(calm.rejects) == NUM_ITEMS
    assert len(calm.rejects) == NUM_ITEMS // 20
    assert check(str(output), inputs=whole / "inputs", calm=calm, log=output.parent / "verify.log") == calm


def test_a_row_that_is_there_twice_is_found(whole: Path, calm: Content, output: Path) -> None:
    first = shards(output)[0]
    shutil.copy(first, first.with_name(first.name.replace(".parquet", "-again.parquet")))
    assert "which another row has too" in broken_law(output, whole=whole, calm=calm)


def test_a_shard_that_is_missing_is_found(whole: Path, calm: Content, output: Path) -> None:
    shards(output)[0].unlink()
    assert "is missing although a commit names it" in broken_law(output, whole=whole, calm=calm)


def test_other_codes_under_an_id_are_found(whole: Path, calm: Content, output: Path) -> None:
    first = shards(output)[0]
    table = pq.read_table(first)
    others = table.set_column(table.column_names.index("codes"), "codes", table["codes"].take([0] * len(table)))
    pq.write_table(others, first)
    assert "not those of their hash" in broken_law(output, whole=whole, calm=calm)


def test_an_input_that_was_never_planned_is_found(whole: Path, calm: Content, output: Path, tmp_path: Path) -> None:
    inputs = Path(shutil.copytree(whole / "inputs", tmp_path / "inputs"))
    (inputs / "speaker-0" / "9999.wav").write_bytes(b"")
    with pytest.raises(ViolationError, match=r"1 planned ids that are not those of the inputs: speaker-0/9999\.wav"):
        check(str(output), inputs=inputs, calm=calm, log=tmp_path / "verify.log")


def test_codes_that_a_calm_run_has_not_are_found(whole: Path, calm: Content, output: Path) -> None:
    name = min(calm.rows)
    other = Content(rows=calm.rows | {name: "0" * 64}, rejects=calm.rejects, digest=calm.digest)
    assert f"1 codes that are not those of a calm run: {name}" in broken_law(output, whole=whole, calm=other)


def test_a_lease_that_outlives_the_job_is_found(whole: Path, calm: Content, output: Path) -> None:
    (output / "_lease.json").write_text("{}")
    assert "_lease.json is still there" in broken_law(output, whole=whole, calm=calm)


def test_whatever_is_killed_every_item_ends_exactly_once() -> None:
    pytest.importorskip("s3fs", reason="s3fs is not installed: there is no store that could fail")
    # Of this seed the first six blows are six kinds, without long pauses between.
    words = ["--rounds", "1", "--seed", "461", "--items", "60", "--unit-minutes", "0.06", "--blows", "6", "--plain"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "1 rounds, every item exactly once: 60 items checked" in done.stdout
    calm, chaos = re.findall(r"^  (?:calm|chaos) +([0-9a-f]{64})$", done.stdout, re.MULTILINE)
    assert calm == chaos
    assert "SIGKILL" in done.stdout, "nothing was killed, so nothing was proven"
