"""Inputs of the measurements: names without files, and tiny recordings; and which of these were opened, by anybody."""

import ctypes
import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import soundfile

__all__ = ["Unit", "made_up", "opened_files", "recordings"]

ITEMS_A_UNIT = 4
MEAN_SECONDS = 12.5
"""That the made-up names are planned to last (`benchmarks.listings`)."""
FILES_A_FOLDER = 1000
RATE = 24_000
NUM_SAMPLES = 480
"""Of a recording: 20 ms, 1 kB."""

Unit = tuple[dict[str, Any], float]
"""A source as in a job file, and the `unit_minutes` that go with it."""


def made_up(num_units: int, *, items: int = ITEMS_A_UNIT) -> Unit:
    """About so many units of names without files, for encoders that do not decode; with about so many items each."""
    source = {"kind": "files", "paths": [f"names://corpus/{num_units * items}"]}
    return source, items * MEAN_SECONDS / 60


def recordings(folder: Path, *, num_files: int) -> Unit:
    """Exactly so many units of one file each."""
    content = _recording()
    for number in range(num_files):
        path = folder / f"{number // FILES_A_FOLDER:04d}" / f"{number:06d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {"kind": "files", "paths": [str(folder)]}, NUM_SAMPLES / RATE / 60 / 2


def _recording() -> bytes:
    content = io.BytesIO()
    samples = 0.3 * np.sin(np.arange(NUM_SAMPLES) * 2 * np.pi * 220 / RATE)
    soundfile.write(content, samples, RATE, format="WAV", subtype="PCM_16")
    return content.getvalue()


IN_OPEN, IN_ISDIR, IN_OVERFLOW = 0x20, 0x40000000, 0x4000
_EVENT = struct.Struct("iIII")


@contextmanager
def opened_files(folders: Sequence[Path]) -> Iterator[list[str]]:
    """Names of the files of these folders that any process opens while the context lasts; the kernel tells (Linux).

    Raises:
        OSError: it does not, or there were more than it remembers.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    if watch < 0:
        raise OSError(ctypes.get_errno(), "this measurement needs inotify of Linux")
    names, ended = list[str](), Event()
    overflows = list[int]()
    try:
        for folder in folders:
            if libc.inotify_add_watch(watch, os.fsencode(folder), IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), "inotify cannot watch", str(folder))
        reader = Thread(target=_read_events, args=(watch, names, overflows, ended), daemon=True)
        reader.start()
        yield names
        ended.set()
        reader.join()
    finally:
        ended.set()
        os.close(watch)
    if overflows:
        raise OSError("more files were opened at once than inotify remembers; raise fs.inotify.max_queued_events")


def _read_events(watch: int, names: list[str], overflows: list[int], ended: Event) -> None:
    while True:
        is_last = ended.is_set()
        try:
            content = os.read(watch, 1 << 20)
        except BlockingIOError:
            if is_last:
                return
            ended.wait(0.002)
            continue
        place = 0
        while place < len(content):
            _, mask, _, length = _EVENT.unpack_from(content, place)
            name = content[place + _EVENT.size : place + _EVENT.size + length].rstrip(b"\0")
            place += _EVENT.size + length
            if mask & IN_OVERFLOW:
                overflows.append(mask)
            elif not mask & IN_ISDIR:
                names.append(os.fsdecode(name))
