"""Metrics: what Prometheus reads from a node is what the run says of itself."""

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import ray

from tests.tokenizer_jobs.clips import encode, speechlike
from tests.tokenizer_jobs.cluster_parts import HashEncoder, MortalEncoder
from tests.tokenizer_jobs.factories import METADATA, NO_COLUMNS, finish_unit, plan_output
from tokenizer_jobs.cluster import RayExecutor
from tokenizer_jobs.cluster.metrics import METRICS, RunMeter
from tokenizer_jobs.commits import Commit, read_commits
from tokenizer_jobs.config import CodecRecipe, JobConfig
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.job import run
from tokenizer_jobs.pipeline import UnitDone, UnitJob
from tokenizer_jobs.results import RunResult
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.storage import Storage

DEADLINE_SECONDS = 120.0

SAMPLE = re.compile(r"^ray_tokenizer_jobs_(\w+)\{(.*)\} (\S+)$")
TAG = re.compile(r'(\w+)="([^"]*)"')

Samples = list[tuple[str, Mapping[str, str], float]]


def scrape_lines() -> Iterator[str]:
    """What every node of the cluster says."""
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        with urllib.request.urlopen(url, timeout=60) as answer:
            yield from answer.read().decode().splitlines()


def scrape(output: Path) -> Samples:
    """What every node of the cluster says of an output, by metric and tags."""
    found: Samples = []
    for name, tags, value in (match.groups() for match in map(SAMPLE.match, scrape_lines()) if match):
        named = dict(TAG.findall(tags))
        if named.get("output") == str(output):
            found.append((name, named, float(value)))
    return found


def summed(samples: Samples, name: str, *, by: str | None = None) -> dict[str, float]:
    """A metric added up, by one of its tags."""
    sums: Counter[str] = Counter()
    for metric, tags, value in samples:
        if metric == name:
            sums[tags[by] if by else ""] += value  # type: ignore[assignment]
    return dict(sums)


def scrape_until(output: Path, *, num_units: int) -> Samples:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        samples = scrape(output)
        if summed(samples, "units_total").get("") == num_units and not any(summed(samples, "encoders").values()):
            return samples
        assert time.monotonic() < deadline, f"the metrics never came to {num_units} units: {samples}"
        time.sleep(0.3)


def tokenize(folder: Path, encoder_class: type[HashEncoder]) -> RunResult:
    """Eleven recordings and one that is none, on one encoder."""
    audio = folder / "audio"
    audio.mkdir()
    for number in range(11):
        clip = speechlike(6000 + 500 * number, channels=1)
        (audio / f"{number:02d}.wav").write_bytes(encode(clip, container="WAV", coding="PCM_16"))
    (audio / "11.wav").write_bytes(b"<html>")
    config = JobConfig.parse(
        {
            "output": str(folder / "out"),
            "recipe": {"codec": {"model": "demo"}},
            "selection": {
                "source": {"kind": "files", "paths": [str(audio)]},
                "shards": {"unit_minutes": 0.01},
            },
            "runtime": {"device": "cpu", "encoders": 1},
        },
        origin="test",
    )

    def executor(job: UnitJob) -> RayExecutor:
        recipe = CodecRecipe(model="demo")
        return RayExecutor(job, codec_recipe=recipe, runtime=config.runtime, encoder_class=encoder_class)

    return run(config, executor=executor)


@pytest.mark.usefixtures("ray_cluster")
def test_what_prometheus_reads_is_what_the_run_says(tmp_path: Path) -> None:
    result = tokenize(tmp_path, MortalEncoder)
    output = tmp_path / "out"
    commits = list(read_commits(Storage.at(output), 1))
    samples = scrape_until(output, num_units=result.units)
    assert (result.items, result.rejects, result.problems) == (12, 1, [])
    assert summed(samples, "items_total") == {"": 12}
    assert summed(samples, "rows_total") == {"": 11}
    assert summed(samples, "rejects_total", by="reason") == result.rejects_by_reason
    assert summed(samples, "audio_seconds_total")[""] == pytest.approx(result.hours * 3600)
    assert summed(samples, "codes_total")[""] == 8 * sum(commit.num_frames for commit in commits)
    assert summed(samples, "written_bytes_total")[""] == _bytes(commits)
    assert summed(samples, "input_bytes_total")[""] == sum(p.stat().st_size for p in (tmp_path / "audio").iterdir())
    assert summed(samples, "encoders_lost_total") == {"": 1}
    assert summed(samples, "retries_total", by="cause") == {"worker_lost": sum(c.attempt - 1 for c in commits)}
    assert max(commit.attempt for commit in commits) == 2, "nothing was killed, so nothing was proven"
    assert set(summed(samples, "units_total", by="encoder")) == {"encoder-0"}
    stages = summed(samples, "stage_seconds_total", by="stage")
    assert stages["publish"] > 0
    for stage in ("decode_wait", "encode_wait", "encode", "write"):
        assert stages.get(stage, 0.0) == pytest.approx(sum(c.stage_seconds[stage] for c in commits), abs=1e-6)
    assert summed(samples, "unit_seconds_count") == {"": result.units}
    assert summed(samples, "units_in_flight") == summed(samples, "units_pending") == {"": 0}
    assert summed(samples, "encoder_busy_seconds_total")[""] == pytest.approx(stages["encode"], abs=0.05)
    assert {name.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket") for name, _, _ in samples} <= set(
        METRICS
    )
    # Ray keeps a series for every name of a task: they must not grow with the units.
    names = {dict(TAG.findall(line)).get("Name", "") for line in scrape_lines() if line.startswith("ray_tasks{")}
    assert {"tokenize a unit", "decode a unit"} <= names
    assert not [name for name in names if any(commit.unit_id in name for commit in commits) or "part-" in name]


def _bytes(commits: list[Commit]) -> int:
    return sum(file.size_bytes for commit in commits for file in commit.files)


@pytest.mark.usefixtures("ray_cluster")
def test_counting_a_unit_takes_less_than_a_millisecond(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    (unit,) = plan_output(storage, [[str(number) for number in range(200)]])
    done = UnitDone(unit=unit, published=finish_unit(storage, unit, rejected=[1]), publish_seconds=0.1)
    meter = RunMeter(make_job(tmp_path))
    took = []
    for _ in range(50):
        start = time.perf_counter()
        meter.unit_ended(done, encoder="encoder-0")
        took.append(time.perf_counter() - start)
    assert sorted(took)[25] < 0.001


def make_job(output: Path) -> UnitJob:
    return UnitJob(
        output=str(output),
        run_id="test",
        recipe_id="0" * 64,
        weights_sha256="0" * 64,
        source=FilesSource(kind="files", paths=["audio"]),
        target=AudioTarget(sample_rate=24000, channels=1),
        metadata=METADATA,
        user_schema=NO_COLUMNS,
        shard_format="parquet",
        batch_seconds=5.0,
    )
