"""Where the outputs are: a loopback S3 whose requests fail at random, or a local folder."""

import json
import os
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.chaos.settings import ROOT, Settings

__all__ = ["Store"]

LATENCY_MS = 2.0
BUCKET = "chaos"


class Store:
    """The store of one show; a context manager that also tells this process and its children how to reach it.

    Args:
        settings: Which kind, and how bad it is.
        folder: Takes the outputs where they are local.
    """

    def __init__(self, settings: Settings, *, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None
        self._address = ""

    def __enter__(self) -> "Store":
        if self._settings.store == "local":
            return self
        settings = self._settings
        rates = {"errors": settings.errors, "cuts": settings.cuts, "late": settings.late, "late-ms": settings.late_ms}
        words = [sys.executable, "-m", "benchmarks.loopback_s3", "--latency-ms", str(LATENCY_MS)]
        words += [word for name, rate in rates.items() for word in (f"--{name}", str(rate))]
        words += ["--seed", str(settings.seed)]
        self._server = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        self._address = f"http://127.0.0.1:{int(self._server.stdout.readline())}"
        os.environ |= {
            "FSSPEC_S3_ENDPOINT_URL": self._address,
            "AWS_ACCESS_KEY_ID": "anyone",
            "AWS_SECRET_ACCESS_KEY": "anything",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.communicate()

    def output(self, name: str) -> str:
        """The URL of an output."""
        return str(self._folder / name) if self._server is None else f"s3://{BUCKET}/{name}"

    def describe(self) -> str:
        """One line on what requests meet."""
        if self._server is None:
            return "a local folder"
        settings = self._settings
        return (
            f"S3 on the loopback: {settings.errors:.0%} errors, {settings.cuts:.0%} cut connections, "
            f"{settings.late:.0%} late by {settings.late_ms:g} ms"
        )

    def counts(self) -> tuple[int, Counter[str]]:
        """Requests so far, and faults by kind."""
        if self._server is None:
            return 0, Counter()
        with urllib.request.urlopen(f"{self._address}/_faults", timeout=10) as answer:
            facts: dict[str, Any] = json.load(answer)
        return sum(facts["requests"].values()), Counter(facts["faults"])

    def keep(self, name: str, *, folder: Path) -> Path:
        """Copy an output to a folder, for a person to look at; where it is."""
        if self._server is None:
            return Path(self.output(name))
        import fsspec

        with urllib.request.urlopen(urllib.request.Request(f"{self._address}/_faults", b"{}", method="PUT")):
            pass  # calm from now on
        fsspec.filesystem("s3").get(f"{BUCKET}/{name}", str(folder), recursive=True)
        return folder
