"""How much of Parquet files is read, and held, locally and in a bucket."""

import importlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.conftest import PYTHON_PATH
from tests.tokenizer_jobs.test_parquet_source import FILE, content, rows, source, write


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder elsewhere."""
    if request.param == "memory":
        folder = f"/{uuid.uuid4().hex}"
        yield f"memory://{folder}"
        fsspec.filesystem("memory").rm(folder, recursive=True)
        return
    url = request.getfixturevalue("object_store")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": url, "key": "anyone", "secret": "anything"})
    yield f"s3://bucket/{uuid.uuid4().hex}"


def test_elsewhere_plans_read_little_and_reading_is_in_large_pieces(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = [os.urandom(200_000) for _ in range(100)]
    texts = [f"text {place}" for place in range(len(clips))]
    path = write(tmp_path / "a.parquet", {"audio": pa.array(rows(clips), FILE), "text": texts}, group=25)
    for name in ("a", "b"):
        fsspec.core.url_to_fs(bucket)[0].put_file(str(path), f"{bucket}/in/{name}.parquet")
    requests = _count_ranges(monkeypatch)
    opened = source(f"{bucket}/in")
    found = opened.list()
    assert [item.id for item in found.items] == [f"{name}.parquet#{row}" for name in "ab" for row in range(100)]
    assert found.items[150].user_columns == {"text": "text 50"}
    planned = sum(requests)
    assert planned < 0.1 * 2 * path.stat().st_size
    requests.clear()
    assert all(content(opened, item) == clips[item.source_row or 0] for item in found.items)
    assert sum(requests) < 2 * 2 * path.stat().st_size
    if bucket.startswith("s3"):
        assert len(requests) < 12  # for 40 MB
    fsspec.core.url_to_fs(bucket)[0].put_file(str(tmp_path / "a.parquet"), f"{bucket}/in/c.parquet")
    assert len(source(f"{bucket}/in/*.parquet").list().items) == 300


def _count_ranges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read that reaches the store from now on."""
    sizes = list[int]()
    for kind in (fsspec.implementations.memory.MemoryFile, *_s3_files()):
        name = "read" if "Memory" in kind.__name__ else "_fetch_range"
        real = getattr(kind, name)

        def counted(self: Any, *arguments: Any, real: Any = real, **options: Any) -> bytes:
            found: bytes = real(self, *arguments, **options)
            sizes.append(len(found))
            return found

        monkeypatch.setattr(kind, name, counted)
    return sizes


def _s3_files() -> tuple[Any, ...]:
    try:
        return (importlib.import_module("s3fs.core").S3File,)
    except ImportError:
        return ()


READ_ALL = r"""
import pathlib, re, sys
from tokenizer_jobs.source_config import ParquetSource
from tokenizer_jobs.sources import make_source

def peak():
    # getrusage would give that of the process which started this one, if it was larger.
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) >> 10

def read(path):
    source = make_source(ParquetSource(paths=[path]))
    items, num_bytes = source.list().items, 0
    planned = peak()
    for item in items:
        with source.open(item) as file:
            num_bytes += len(file.read())
    return len(items), num_bytes, planned

read(sys.argv[1])  # loads libraries
before = peak()
num_items, num_bytes, planned = read(sys.argv[2])
print(num_items, num_bytes, planned - before, peak() - before)
"""


def test_one_large_row_group_is_read_in_bounded_memory(tmp_path: Path) -> None:
    small = write(tmp_path / "set" / "a.parquet", {"audio": pa.array(rows(), FILE)})
    noise = os.urandom((1 << 20) - 1)
    clips = [bytes([place]) + noise for place in range(80)]
    audio = pa.array(rows(clips), FILE)
    path = write(tmp_path / "a.parquet", {"audio": audio}, group=1000, use_content_defined_chunking=True)
    assert pq.ParquetFile(path).num_row_groups == 1
    environment = os.environ | {"PYTHONPATH": PYTHON_PATH, "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(small), str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    num_items, num_bytes, planned, peak = map(int, done.stdout.split())
    assert (num_items, num_bytes) == (80, 80 << 20)
    assert planned < 8
    assert peak < 64
