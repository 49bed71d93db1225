"""A command with everything it starts: wall time, CPU time and peak memory of the whole process tree (Linux).

    this process (adopts orphans)
     └─ command ─┬─ worker
                 └─ daemon that outlives its parent, becomes ours, and is ended

CPU time is what the kernel hands to a process that waits for its children, or, where it is more, what was last seen of
every process: a parent that ignores its children's ends never gets their times. Memory is the sum of proportional set
sizes, so that a page shared by several processes counts once, sampled twice a second.
"""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "run_in_tree"]

SAMPLE_SECONDS = 0.5
ORPHAN_SECONDS = 10.0
"""That what outlives the command may take to end by itself."""
_ADOPT_ORPHANS = 36
"""PR_SET_CHILD_SUBREAPER."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a command took."""

    started_at: float
    """`time.time()`."""
    wall_seconds: float
    cpu_seconds: float
    """Of all its processes, user and system."""
    peak_bytes: int
    """That all its processes held together."""
    largest_process_bytes: int
    """That one of its processes held, at most."""
    neighbour_cores: float
    """Cores that other work on the machine took meanwhile, on average: wall times are worth little where it is high."""
    timeline: tuple[tuple[float, float], ...]
    """Wall seconds since the start, and CPU seconds so far, at each sample."""

    def cpu_seconds_until(self, wall_seconds: float) -> float:
        """CPU time that had been spent at the last sample before a moment."""
        return max((cpu for wall, cpu in self.timeline if wall <= wall_seconds), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    pid: int
    parent: int
    started: int
    """With the pid a name that no other process had."""
    cpu_seconds: float


def run_in_tree(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Usage:
    """Run a command to its end and end what it left behind.

    Args:
        command: what to run.
        environment: of it.
        log: takes its standard output and errors.

    Raises:
        SystemExit: it fails; the message shows the end of the log.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_ADOPT_ORPHANS, 1, 0, 0, 0) != 0:
        raise SystemExit("this benchmark needs Linux, where a process can adopt what its children leave behind")
    before, busy_before = _children_cpu_seconds(), _busy_seconds()
    started_at, start = time.time(), time.monotonic()
    seen: dict[tuple[int, int], float] = {}
    timeline: list[tuple[float, float]] = []
    peak = largest = 0
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=output)
    while process.poll() is None:
        sizes = _sample(seen)
        peak, largest = max(peak, sum(sizes)), max(largest, *sizes, 0)
        timeline.append((time.monotonic() - start, sum(seen.values())))
        with suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_SECONDS)
    wall, busy = time.monotonic() - start, _busy_seconds() - busy_before
    _end_orphans(seen)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    cpu = max(sum(seen.values()), _children_cpu_seconds() - before)
    return Usage(
        started_at=started_at,
        wall_seconds=wall,
        cpu_seconds=cpu,
        peak_bytes=peak,
        largest_process_bytes=largest,
        neighbour_cores=max(0.0, busy - cpu) / wall,
        timeline=tuple(timeline),
    )


def _sample(seen: dict[tuple[int, int], float]) -> list[int]:
    """Take note of every descendant's CPU time and return the bytes that each holds."""
    sizes = []
    for process in _descendants():
        seen[process.pid, process.started] = process.cpu_seconds
        sizes.append(_proportional_bytes(process.pid))
    return sizes


def _end_orphans(seen: dict[tuple[int, int], float]) -> None:
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = list(_descendants())
        if not left:
            return
        for process in left:
            seen[process.pid, process.started] = process.cpu_seconds
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.1)


def _descendants() -> Iterator[_Process]:
    children: dict[int, list[_Process]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (process := _read_process(folder)) is not None:
            children.setdefault(process.parent, []).append(process)
    waiting = [os.getpid()]
    while waiting:
        for process in children.get(waiting.pop(), []):
            yield process
            waiting.append(process.pid)


def _read_process(folder: Path) -> _Process | None:
    try:
        text = (folder / "stat").read_text()
    except OSError:
        return None  # it has ended
    fields = text.rpartition(")")[2].split()  # the name before it may hold anything
    return _Process(
        pid=int(folder.name),
        parent=int(fields[1]),
        started=int(fields[19]),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
    )


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0  # it has ended
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def _children_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _busy_seconds() -> float:
    """Of all cores since the machine started, with what its host kept for others."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS
