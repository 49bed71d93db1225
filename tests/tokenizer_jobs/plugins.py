"""Sources for tests only: they do to a worker what a real file can, at a chosen record."""

import os
import signal
import time
from pathlib import Path
from typing import IO

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


class SlowClips(DemoClips):
    """The demo clips, each opened only after a while, so that a run can be caught in the middle."""

    def open(self, item: Item) -> IO[bytes]:
        time.sleep(0.2)
        return super().open(item)
