"""What `benchmarks.gpu` runs as commands of their own, and the recordings that it gives them where there are none."""

import csv
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from benchmarks.machine import PROJECT
from tests.fitted_models import synthetic_waveform

__all__ = ["made_audio", "output_of"]

SWEEPS = 50
"""Looks for processes of a command that is ended, a tenth of a second apart: some start others meanwhile."""


def output_of(command: list[str], *, seconds: float) -> tuple[int | None, list[str]]:
    """Run a command, showing its output as it comes.

    Returns:
        Its exit code, or None where it took longer and was ended with all that it started; and the lines it printed.
    """
    process = subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert process.stdout is not None
    is_late = threading.Event()
    overtime = threading.Timer(max(1.0, seconds), _end, [process, is_late])
    overtime.start()
    lines = []
    with process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    code = process.wait()
    overtime.cancel()
    overtime.join()
    return None if is_late.is_set() else code, [line for line in lines if line]


def _end(process: subprocess.Popen[str], is_late: threading.Event) -> None:
    """End a command with its session: what Ray starts for it has process groups of its own, and outlives it."""
    is_late.set()
    for _ in range(SWEEPS):
        members = list(_session(process.pid))
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not members:
            return
        time.sleep(0.1)


def _session(leader: int) -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                # The name, in brackets, may hold anything; the state comes after it.
                state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(session) == leader and state != "Z":
                    yield int(folder.name)


def made_audio(folder: Path) -> Path:
    """Make recordings by code, with their manifest, in a folder."""
    import soundfile

    rate, rows = 44_100, []
    (folder / "music").mkdir()
    for index in range(16):
        samples = synthetic_waveform(20 * rate, num_channels=2, sampling_rate=rate, seed=index)
        path = Path("music", f"{index}.flac")
        soundfile.write(folder / path, samples.t().numpy(), rate)
        rows.append((str(path), 20.0))
    with (folder / "MANIFEST.tsv").open("w", newline="", encoding="utf-8") as manifest:
        csv.writer(manifest, delimiter="\t").writerows([("path", "seconds"), *rows])
    return folder
