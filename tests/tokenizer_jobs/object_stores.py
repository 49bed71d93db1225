"""A store that speaks S3 on the loopback, and what its client reads from it."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def serve_objects() -> Iterator[str]:
    """The URL of a store while it runs; skips where its client is not installed."""
    pytest.importorskip("s3fs", reason="s3fs is not installed: what is done on object stores is not tested")
    words = [sys.executable, "-m", "benchmarks.loopback_s3", "--latency-ms", "1"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.terminate()
    process.communicate()


@contextmanager
def count_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Bytes of every range that s3fs asks for."""
    client = importlib.import_module("s3fs.core")
    fetch, sizes = client._fetch_range, list[int]()

    def counted(*arguments: Any, **options: Any) -> Any:
        start, end = arguments[4:6]
        sizes.append(end - start)
        return fetch(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(client, "_fetch_range", counted)
        yield sizes
