"""A store that speaks S3 on the loopback, and what its client reads from it."""

import importlib
import json
import subprocess
import sys
import urllib.request
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


def reach(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and those that it starts reach the store by `s3://` URLs."""
    import fsspec

    client = {"endpoint_url": url, "key": "anyone", "secret": "anything"}
    monkeypatch.setitem(fsspec.config.conf, "s3", client)
    for name, value in environment_for(url).items():
        monkeypatch.setenv(name, value)


def environment_for(url: str) -> dict[str, str]:
    """What a process needs to know of the store."""
    return {
        "FSSPEC_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "anyone",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def set_faults(url: str, **wanted: Any) -> None:
    """What the store at a URL does wrong from now on (see `benchmarks.loopback_faults`); nothing: it is calm."""
    request = urllib.request.Request(f"{url}/_faults", data=json.dumps(wanted).encode(), method="PUT")
    with urllib.request.urlopen(request):
        pass


def faults_of(url: str) -> dict[str, Any]:
    """Requests, faults by kind and open uploads until now."""
    told: dict[str, Any] = _told(f"{url}/_faults")
    return told


def requests_to(url: str) -> list[str]:
    """`KIND bucket/key` of each request since this was last asked."""
    told: list[str] = _told(f"{url}/_requests")
    return told


def _told(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


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
