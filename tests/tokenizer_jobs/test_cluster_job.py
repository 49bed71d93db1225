"""The law of the cluster: what it writes are the bytes that one process writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.clips import encode, speechlike
from tokenizer_jobs.config import JobConfig, Recipe, Selection
from tokenizer_jobs.job import run


def job(output: Path, **runtime: Any) -> JobConfig:
    content = {
        "output": str(output),
        "recipe": {"codec": {"model": "demo"}},
        "selection": {"source": {"kind": "demo"}, "shards": {"unit_minutes": 0.2}},
        "runtime": {"device": "cpu", **runtime},
    }
    return JobConfig.parse(content, origin="test")


def written(output: Path, folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((output / folder).iterdir())}


@pytest.mark.usefixtures("ray_cluster")
def test_the_cluster_writes_the_bytes_that_one_process_writes(tmp_path: Path) -> None:
    inline = run(job(tmp_path / "inline", executor="inline"))
    on_ray = run(job(tmp_path / "ray", executor="ray", decode_tasks=2, encoders=1))
    assert on_ray.units > 1
    assert on_ray.digest == inline.digest
    for folder in ("codes", "rejects"):
        if (tmp_path / "inline" / folder).exists():
            assert written(tmp_path / "ray", folder) == written(tmp_path / "inline", folder)


CUTS = [(0.0, 2.0), (1.25, 3.0), (4.0, 1.1), (5.5, 2.5), (0.0, 8.0)]


def write_manifest(folder: Path) -> Path:
    """Cuts of two stereo recordings, a whole one, and one that is no audio."""
    entries: list[dict[str, Any]] = []
    for name, container, rate in (("a.wav", "WAV", 16000), ("b.flac", "FLAC", 44100)):
        (folder / name).write_bytes(
            encode(speechlike(8 * rate, channels=2, rate=rate), container=container, coding="PCM_16", rate=rate)
        )
        entries += [{"audio_filepath": name, "offset": start, "duration": length} for start, length in CUTS]
    (folder / "c.wav").write_bytes(encode(speechlike(30_000, channels=1), container="WAV", coding="PCM_16"))
    (folder / "d.wav").write_bytes(b"<html>")
    entries += [{"audio_filepath": name} for name in ("c.wav", "d.wav")]
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps({**entry, "id": f"clip-{n}"}) + "\n" for n, entry in enumerate(entries)))
    return path


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("long_audio", ["exact", "restart"])
def test_cuts_slices_and_channels_are_the_same_bytes_on_the_cluster(tmp_path: Path, long_audio: str) -> None:
    audio = {"channels": "each", "slice_seconds": 0.9, "long_audio": long_audio}
    source = {"kind": "manifest", "paths": [str(write_manifest(tmp_path))]}
    for executor, encoders in (("inline", 1), ("ray", 2)):
        runtime = {"executor": executor, "encoders": encoders, "decode_tasks": 2 if executor == "ray" else "auto"}
        done = run(
            job(tmp_path / executor, **runtime).model_copy(
                update={
                    "recipe": Recipe.model_validate({"codec": {"model": "demo"}, "audio": audio}),
                    "selection": Selection.model_validate({"source": source, "shards": {"unit_minutes": 0.15}}),
                }
            )
        )
        assert (done.items, done.rejects, done.problems) == (12, 1, [])
        assert done.units > 1
        assert done.rows > 2 * done.items
    for folder in ("codes", "rejects"):
        assert written(tmp_path / "ray", folder) == written(tmp_path / "inline", folder)
