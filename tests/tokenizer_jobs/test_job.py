"""Whole runs in one process, with the demo codec: what they promise, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from encodec_core import EncodecModel
from tests.waiting import wait_until
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.encoding import describe_codec
from tokenizer_jobs.errors import ConfigError, IntegrityError, OutputBusyError
from tokenizer_jobs.job import run
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.results import Progress
from tokenizer_jobs.sources import HeaderFacts
from tokenizer_jobs.sources.header import read_header
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify

RATE = 24000


def job(output: Path, *, source: Mapping[str, Any] | None = None, **overrides: Any) -> JobConfig:
    """A job in one process that does one unit after the other: each lane more is a process that imports decoders."""
    content = {
        "output": str(output),
        "recipe": {"codec": {"model": "demo"}},
        "selection": {"source": source or {"kind": "demo"}, "shards": {"unit_minutes": 0.2}},
        "runtime": {"executor": "inline", "encoders": 1},
    }
    for path, value in overrides.items():
        *parents, key = path.split("__")
        section: Any = content
        for parent in parents:
            section = section.setdefault(parent, {})
        section[key] = value
    return JobConfig.parse(content, origin="test")


def files(folder: Path) -> dict[str, Any]:
    return {"kind": "files", "paths": [str(folder)]}


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("codes/*"))}


def rows(output: Path) -> dict[str, dict[str, Any]]:
    return {
        row["id"]: row
        for path in output.glob("codes/*.parquet")
        for row in pq.ParquetFile(path).read(columns=["id", "codes_sha256", "num_samples"]).to_pylist()
    }


def rejects(output: Path) -> dict[str, str]:
    return {
        row["id"]: row["reason"]
        for path in output.glob("rejects/*.parquet")
        for row in pq.ParquetFile(path).read(columns=["id", "reason"]).to_pylist()
    }


def write_recording(path: Path, *, seconds: float, seed: int) -> None:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))
    soundfile.write(path, noise, RATE, subtype="PCM_16")


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run of the demo source."""
    output = tmp_path_factory.mktemp("calm") / "out"
    run(job(output))
    return output


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for seed in range(6):
        write_recording(folder / f"clip-{seed}.wav", seconds=0.4 + 0.3 * seed, seed=seed)
    return folder


class Killed:
    """A run in a process of its own, for tests that end it from outside."""

    def __init__(self, config: JobConfig, folder: Path) -> None:
        self._job_file = folder / f"job-{time.monotonic_ns()}.json"
        self._job_file.write_text(config.model_dump_json())

    def start(self) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", "tokenizer_jobs", "run", str(self._job_file)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # In a session of its own, so that it can be killed with all that it started.
        return subprocess.Popen(
            arguments,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def test_every_item_has_a_row_and_a_second_run_does_nothing(calm: Path) -> None:
    before = shard_bytes(calm)
    result = run(job(calm))
    assert (result.exit_code, result.new_rows, result.snapshot) == (0, 0, 1)
    assert result.items == result.rows + result.rejects == len(rows(calm)) == 32
    assert result.units == result.units_committed > 1
    assert shard_bytes(calm) == before


def test_two_undisturbed_runs_write_the_same_bytes(calm: Path, tmp_path: Path) -> None:
    run(job(tmp_path / "out"))
    assert shard_bytes(tmp_path / "out") == shard_bytes(calm)


def test_a_killed_run_is_resumed_to_the_same_bytes(calm: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed = Killed(
        job(output, source={"kind": "tests.tokenizer_jobs.plugins:SlowClips"}, runtime__encoders=2), tmp_path
    )
    for num_commits in (1, 3):
        with killed.start() as process:
            wait_until(
                lambda n=num_commits: len(list(output.glob("_commits/*/*.json"))) >= n,  # type: ignore[misc]
                what="a commit",
                seconds=60,
            )
            process.kill()
    assert not any(output.glob("catalog/*")), "the run was over, so nothing was proven"
    committed = {path: path.stat().st_mtime_ns for path in output.glob("_commits/*/*.json")}
    result = run(job(output))
    assert result.exit_code == 0
    assert shard_bytes(output) == shard_bytes(calm)
    assert all(path.stat().st_mtime_ns == then for path, then in committed.items()), "a committed unit was done again"


def test_a_ray_driver_killed_with_its_process_group_is_resumed_to_the_same_bytes(calm: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    source = {"kind": "tests.tokenizer_jobs.plugins:SlowClips"}
    on_ray = job(output, source=source, runtime__executor="ray", runtime__encoders=2, runtime__device="cpu")
    with Killed(on_ray, tmp_path).start() as process:
        wait_until(lambda: any(output.glob("_commits/*/*.json")), what="a commit", seconds=120)
        os.killpg(process.pid, signal.SIGKILL)
    assert not any(output.glob("catalog/*")), "the run was over, so nothing was proven"
    result = run(job(output, source=source, runtime__encoders=2))
    assert result.items == result.rows + result.rejects == 32
    assert shard_bytes(output) == shard_bytes(calm)


def test_sigterm_stops_resumable(calm: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    source = {"kind": "tests.tokenizer_jobs.plugins:SlowClips"}
    with Killed(job(output, source=source, runtime__encoders=2), tmp_path).start() as process:
        wait_until(lambda: any(output.glob("_commits/*/*.json")), what="a commit", seconds=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    assert not any(output.glob("catalog/*"))
    assert run(job(output, source=source, runtime__encoders=2)).exit_code == 0
    assert shard_bytes(output) == shard_bytes(calm)


def test_records_that_harm_their_decoder_are_rejects_and_their_neighbours_are_as_ever(
    calm: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    harms = {"chord-196-ogg": "dies", "tone-440-mp3": "spins", "chirp-350-ogg": "hoards"}
    source = {"kind": "tests.tokenizer_jobs.plugins:HarmfulClips", "harms": harms}
    result = run(
        job(output, source=source, runtime__encoders=2, runtime__decode_seconds=2.0, runtime__decode_gigabytes=0.5)
    )
    assert (result.exit_code, result.rejects) == (0, 3)
    assert rejects(output) == {
        "chord-196-ogg": "crashed_worker",
        "tone-440-mp3": "timed_out",
        "chirp-350-ogg": "out_of_memory",
    }
    assert rows(output) == {row_id: row for row_id, row in rows(calm).items() if row_id not in harms}


def test_what_is_new_is_added_and_nothing_else_is_encoded(recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run(job(output, source=files(recordings)))
    old = shard_bytes(output)
    for seed in range(6, 9):
        write_recording(recordings / f"clip-{seed}.wav", seconds=0.5, seed=seed)
    second = run(job(output, source=files(recordings)))
    assert (first.snapshot, second.snapshot, second.new_rows, second.rows) == (1, 2, 3, 9)
    assert old.items() <= shard_bytes(output).items()
    assert pq.ParquetFile(output / "catalog/000002.parquet").metadata.num_rows == len(shard_bytes(output))


def test_a_unit_of_an_old_generation_whose_commit_was_removed_is_done_again(recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(job(output, source=files(recordings)))
    write_recording(recordings / "later.wav", seconds=0.5, seed=1)
    before = run(job(output, source=files(recordings)))
    for damaged in (*output.glob("_commits/000001/*.json"), *output.glob("codes/part-000001-*")):
        damaged.unlink()
    assert verify(str(output)).problems
    after = run(job(output, source=files(recordings)))
    assert (after.exit_code, after.digest, after.rows) == (0, before.digest, 7)
    assert verify(str(output)).problems == []


def test_changed_and_vanished_inputs_are_reported_and_left(recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    before = run(job(output, source=files(recordings)))
    write_recording(recordings / "clip-0.wav", seconds=1.0, seed=99)
    (recordings / "clip-1.wav").unlink()
    after = run(job(output, source=files(recordings)))
    assert (after.changed, after.vanished, after.digest) == (1, 1, before.digest)


def test_a_bad_file_costs_no_neighbour(recordings: Path, tmp_path: Path) -> None:
    run(job(tmp_path / "good", source=files(recordings)))
    whole = (recordings / "clip-5.wav").read_bytes()
    (recordings / "clip-00-cut.wav").write_bytes(whole[: len(whole) // 2])
    (recordings / "clip-2-page.mp3").write_text("<!DOCTYPE html><html>not found</html>")
    (recordings / "clip-3-empty.wav").touch()
    soundfile.write(recordings / "clip-4-nan.wav", np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    result = run(job(tmp_path / "bad", source=files(recordings)))
    assert rejects(tmp_path / "bad") == {
        "clip-00-cut.wav": "truncated",
        "clip-2-page.mp3": "not_audio",
        "clip-3-empty.wav": "empty",
        "clip-4-nan.wav": "non_finite",
    }
    assert rows(tmp_path / "bad") == rows(tmp_path / "good")
    assert result.items == result.rows + result.rejects


def test_an_input_replaced_between_plan_and_run_is_a_reject(recordings: Path, tmp_path: Path) -> None:
    config = job(tmp_path / "out", source=files(recordings), selection__shards__unit_minutes=0.01)

    def meddle(progress: Progress) -> None:
        if progress.units_committed == 1:
            write_recording(recordings / "clip-4.wav", seconds=1.0, seed=98)
            (recordings / "clip-5.wav").unlink(missing_ok=True)

    result = run(config, report=meddle)
    assert rejects(tmp_path / "out") == {"clip-4.wav": "changed", "clip-5.wav": "vanished"}
    assert result.exit_code == 0


def test_filtered_items_are_rejects_that_do_not_fail_the_job(recordings: Path, tmp_path: Path) -> None:
    config = job(
        tmp_path / "out",
        source=files(recordings),
        selection__filters={"min_seconds": 0.6, "max_seconds": 1.5},
        selection__max_reject_fraction=0.0,
    )
    result = run(config)
    assert (result.exit_code, result.filtered, result.rejects, result.rows) == (0, 3, 3, 3)
    assert result.rejects_by_reason == {"too_long": 2, "too_short": 1}


def test_too_many_rejects_fail_the_job_until_the_limit_allows_them(recordings: Path, tmp_path: Path) -> None:
    (recordings / "broken.wav").write_bytes(b"RIFF")
    strict = job(tmp_path / "out", source=files(recordings), selection__max_reject_fraction=0.1)
    for _ in range(2):
        refused = run(strict)
        assert (refused.exit_code, refused.snapshot) == (1, None)
        assert "max_reject_fraction = 0.1" in refused.problems[0]
    allowed = run(job(tmp_path / "out", source=files(recordings), selection__max_reject_fraction=0.2))
    assert (allowed.exit_code, allowed.snapshot, allowed.rows) == (0, 1, 6)


def test_nothing_but_rejects_fails_the_job_until_something_better_comes(tmp_path: Path) -> None:
    folder = tmp_path / "audio"
    folder.mkdir()
    (folder / "a.wav").write_bytes(b"not audio at all")
    for _ in range(2):
        result = run(job(tmp_path / "out", source=files(folder)))
        assert (result.exit_code, result.snapshot) == (1, None)
        assert "every item was rejected" in result.problems[0]
    write_recording(folder / "b.wav", seconds=0.5, seed=1)
    grown = run(job(tmp_path / "out", source=files(folder)))
    assert (grown.exit_code, grown.rows, grown.rejects, grown.snapshot) == (0, 1, 1, 1)


def test_files_that_are_not_ours_are_neither_mixed_in_nor_swept(recordings: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / "codes").mkdir(parents=True)
    foreign = output / "codes" / "mine.parquet"
    foreign.write_bytes(b"years of work")
    with pytest.raises(ConfigError, match=r"mine\.parquet"):
        run(job(output, source=files(recordings)))
    foreign.unlink()
    run(job(output, source=files(recordings)))
    foreign.write_bytes(b"years of work")
    write_recording(recordings / "later.wav", seconds=0.5, seed=1)
    assert run(job(output, source=files(recordings))).new_rows == 1
    assert foreign.read_bytes() == b"years of work"


def test_a_run_resumed_with_a_codec_that_moved_verifies(tmp_path: Path) -> None:
    output, moved = tmp_path / "out", tmp_path / "moved"
    EncodecModel.from_pretrained("demo").save_pretrained(moved)
    source = {"kind": "tests.tokenizer_jobs.plugins:SlowClips"}
    with Killed(job(output, source=source, runtime__encoders=2), tmp_path).start() as process:
        wait_until(lambda: any(output.glob("_commits/*/*.json")), what="a commit", seconds=60)
        process.kill()
    assert not any(output.glob("catalog/*")), "the run was over, so nothing was proven"
    assert verify(str(output)).problems, "an unfinished output passes for a whole one"
    assert run(job(output, source=source, runtime__encoders=2, recipe__codec__model=str(moved))).exit_code == 0
    result = verify(str(output), reencode=0.1)
    assert result.problems == []
    assert result.reencoded is not None
    assert result.reencoded.items > 0
    assert result.reencoded.wrong_frames == 0


def test_a_grown_output_looks_into_new_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = list[str]()

    def look(file: str) -> HeaderFacts | None:
        looked_at.append(Path(file).name)
        return read_header(file)

    monkeypatch.setattr("tokenizer_jobs.sources.files.read_header", look)
    audio, output = tmp_path / "audio", tmp_path / "out"
    audio.mkdir()
    for names in (["a.wav", "b.wav"], ["c.wav"], []):
        for name in names:
            write_recording(audio / name, seconds=0.3, seed=ord(name[0]))
        looked_at.clear()
        assert run(job(output, source=files(audio))).new_rows == len(names)
        assert sorted(looked_at) == names


def test_secrets_of_a_signed_url_are_not_stored(tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    write_recording(clip, seconds=0.5, seed=1)
    with fsspec.open("memory://bucket/clip.wav", "wb") as file:
        file.write(clip.read_bytes())
    url = "memory://bucket/clip.wav?token=hunter2"
    config = job(tmp_path / "out", source={"kind": "files", "paths": ["memory://bucket", url]})
    with suppress(ConfigError):  # what the storage makes of the query is its business
        run(config)
    stored = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not [path for path in stored if b"hunter2" in path.read_bytes()]


def test_another_recipe_is_refused_with_the_difference(calm: Path) -> None:
    with pytest.raises(ConfigError, match=r"codec\.bandwidth_kbps: 6\.0 stored, 3\.0 asked"):
        run(job(calm, recipe__codec__bandwidth_kbps=3.0))


def test_a_bandwidth_that_the_codec_lacks_is_refused_with_the_offered_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bandwidth_kbps = 5 is not offered by demo; choose one of 1\.5, 3, 6"):
        run(job(tmp_path / "out", recipe__codec__bandwidth_kbps=5.0))


def test_a_codec_that_changes_while_the_run_begins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(tmp_path / "out", recipe__codec__model=str(tmp_path))
    EncodecModel.from_pretrained("demo").save_pretrained(tmp_path)
    facts = describe_codec(config.recipe.codec)
    EncodecModel(EncodecModel.from_pretrained("demo").config).save_pretrained(tmp_path)  # of random weights
    monkeypatch.setattr("tokenizer_jobs.job.describe_codec", lambda _: facts)
    with pytest.raises(IntegrityError, match=rf"the job's are {facts.weights_sha256}: it was changed since the run be"):
        run(config)


def test_an_output_of_a_live_run_is_refused(tmp_path: Path) -> None:
    with Lease(Storage.open(str(tmp_path / "out")), "other"), pytest.raises(OutputBusyError, match="other"):
        run(job(tmp_path / "out"))


def test_a_generation_is_not_finished_under_other_decoders(tmp_path: Path) -> None:
    output = tmp_path / "out"
    source = {"kind": "tests.tokenizer_jobs.plugins:SlowClips"}
    with Killed(job(output, source=source, runtime__encoders=2), tmp_path).start() as process:
        wait_until(lambda: any(output.glob("_commits/*/*.json")), what="a commit", seconds=60)
        process.kill()
    plan_file = output / "plans/000001.json"
    plan = json.loads(plan_file.read_text())
    plan["decoder_versions"]["soxr"] = "0.0.1"
    plan_file.write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match=r"soxr 0\.0\.1 then"):
        run(job(output))
