"""The law of the cluster: what it writes are the bytes that one process writes."""

from pathlib import Path
from typing import Any

import pytest

from tokenizer_jobs.config import JobConfig
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
