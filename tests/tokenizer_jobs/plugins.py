"""Sources for tests only: they do to a worker what a real file can, at a chosen record."""

import os
import re
import signal
import time
from pathlib import Path
from typing import IO

import numpy as np

from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.demo import DemoClips
from tokenizer_jobs.sources.listing import Listing


class DeadlyClips(DemoClips):
    """The demo clips; opening some of them kills the process that does it, as a decoder's crash would.

    Args:
        deadly: Ids of the clips that kill.
        lives: A file; while it exists, opening a deadly clip removes it and kills, and without it nothing is killed.
            None kills every time.
        limit: How many clips there are; None: all.
    """

    def __init__(self, deadly: list[str], lives: str | None = None, limit: int | None = None) -> None:
        super().__init__()
        self._deadly = frozenset(deadly)
        self._lives = None if lives is None else Path(lives)
        self._limit = limit

    def list(self) -> Listing:
        listing = super().list()
        return Listing(items=listing.items[: self._limit], skipped=listing.skipped)

    def open(self, item: Item) -> IO[bytes]:
        if item.id in self._deadly and self._may_kill():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(item)

    def _may_kill(self) -> bool:
        if self._lives is None:
            return True
        try:
            self._lives.unlink()
        except FileNotFoundError:
            return False
        return True


class HarmfulClips(DemoClips):
    """The demo clips; opening some of them does harm to the process that does it.

    Args:
        harms: What opening a clip does, by its id: `dies`, `sleeps`, `spins` with Python's lock held, `stops` so that
            no signal but one gets through, or `hoards` memory until there is none left.
        note: A file that gets the number of the process before it is harmed; None: nobody asks.
    """

    def __init__(self, harms: dict[str, str], note: str | None = None) -> None:
        super().__init__()
        self._harms = harms
        self._note = note

    def open(self, item: Item) -> IO[bytes]:
        if item.id in self._harms and self._note is not None:
            Path(self._note).write_text(str(os.getpid()))
        match self._harms.get(item.id):
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleeps":
                time.sleep(3600)
            case "spins":
                re.match(r"(a+)+$", "a" * 60 + "b")
            case "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "hoards":
                hoard = [np.empty(1 << 24, dtype=np.uint8) for _ in range(256)]
                raise AssertionError(f"nothing kept this process from taking {len(hoard) << 24} bytes")
        return super().open(item)


class SlowClips(DemoClips):
    """The demo clips, each opened only after a while, so that a run can be caught in the middle."""

    def open(self, item: Item) -> IO[bytes]:
        time.sleep(0.2)
        return super().open(item)


class FlakyClips(DemoClips):
    """The demo clips, of which some cannot be read while a file exists.

    Args:
        down: The file.
        failing: Ids of the clips.
    """

    def __init__(self, down: str, failing: list[str]) -> None:
        super().__init__()
        self._down = Path(down)
        self._failing = failing

    def open(self, item: Item) -> IO[bytes]:
        if item.id in self._failing and self._down.exists():
            with self._down.open("a") as tries:
                tries.write(f"{item.id}\n")
            raise TransientError("503 SlowDown")
        return super().open(item)
