"""What a visitor sees: a live view on a terminal, a line for each event elsewhere."""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchmarks.chaos.rounds import Round
from benchmarks.chaos.settings import Seen, Settings
from benchmarks.chaos.watcher import Watcher

__all__ = ["Screen", "open_screen", "span"]

NUM_EVENTS = 7
DRAW_SECONDS = 0.25


class Screen(Protocol):
    """Takes what happens."""

    def say(self, line: str) -> None:
        """Tell an event."""

    def draw(self, now: Round) -> None:
        """Show how things are."""


@contextmanager
def open_screen(settings: Settings, seen: Seen, watcher: Watcher, *, plain: bool, about: str) -> Iterator[Screen]:
    """A live view where there is a terminal, else plain lines.

    Args:
        settings: Of the show.
        seen: Counts, which change.
        watcher: Knows units and requests.
        plain: Lines on a terminal too.
        about: What requests meet.
    """
    if plain or not sys.stdout.isatty():
        yield _Lines()
        return
    console = Console()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _View(settings, seen, watcher, live=live, about=about)


class _Lines:
    def __init__(self) -> None:
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        print(f"{span(time.monotonic() - self._started):>8}  {line}", flush=True)

    def draw(self, now: Round) -> None:
        """Lines tell events alone."""


class _View:
    def __init__(self, settings: Settings, seen: Seen, watcher: Watcher, *, live: Live, about: str) -> None:
        self._settings, self._seen, self._watcher, self._live, self._about = settings, seen, watcher, live, about
        self._events: deque[str] = deque(maxlen=NUM_EVENTS)
        self._started = time.monotonic()
        self._drawn = 0.0

    def say(self, line: str) -> None:
        self._events.append(f"{span(time.monotonic() - self._started):>8}  {line}")

    def draw(self, now: Round) -> None:
        if time.monotonic() - self._drawn < DRAW_SECONDS:
            return
        self._drawn = time.monotonic()
        title = f"chaos · round {now.number} of {self._settings.rounds} · {span(self._drawn - self._started)}"
        parts = (self._nodes(now), self._units(), self._counts(now), Text("\n".join(self._events), no_wrap=True))
        self._live.update(Panel(Group(*parts), title=title), refresh=True)

    def _nodes(self, now: Round) -> Table:
        table = Table("node", "raylet", "encoder", "decode workers", expand=True, box=None, header_style="dim")
        for name, pid in now.nodes.raylets.items():
            here = [worker for worker in now.workers if worker.node == name]
            encoders = [f"{one.title[:40]} ({one.pid})" for one in here if one.encodes]
            decoders = [str(one.pid) for one in here if one.decodes]
            table.add_row(name, str(pid), ", ".join(encoders) or "–", ", ".join(decoders) or "–")
        for driver in now.drivers:
            state = "frozen" if driver.frozen else "struck" if driver.blow is not None else "runs"
            table.add_row("driver", str(driver.pid), state, "", style="bold")
        return table

    def _units(self) -> Table:
        committed, planned = self._watcher.units()
        grid = Table.grid(expand=True, padding=(1, 1, 0, 1))
        grid.add_column()
        grid.add_column(ratio=1)
        bar = ProgressBar(total=planned or 1, completed=committed)
        grid.add_row(f"units committed {committed} of {'…' if planned is None else planned}", bar)
        return grid

    def _counts(self, now: Round) -> Table:
        requests, faults = self._watcher.requests()
        table = Table.grid(padding=(0, 2))
        table.add_row("blows", _listed({str(blow): count for blow, count in self._seen.blows.items()}))
        table.add_row("to come", ", ".join(one.blow for one in now.waiting) or "none")
        table.add_row("drivers", f"started {self._seen.starts}; {_listed(self._seen.endings)}")
        table.add_row("store", f"{self._about}; {requests:,} requests; {_listed(faults)}")
        table.add_row("rounds", f"{self._seen.rounds} whole, every item exactly once\n")
        return table


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(counts).most_common()) or "none"


def span(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
