"""What decoding one record may take: time, watched by the kernel's alarm clock, and memory, refused by the kernel.

Both hold for code that keeps Python's lock and never returns. What serves the process beside decoding, such as the wait
for a slow consumer, does not count.
"""

import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tokenizer_jobs.records import Decoded, Item

if TYPE_CHECKING:  # a decode worker gets its limits ready made
    from tokenizer_jobs.config import Runtime

__all__ = ["PATIENCE", "DecodeLimits", "alarmed", "memory_limited"]

BYTES_A_SECOND = 100_000
"""That decoding is expected to get through at the least; the slowest decoder measured does 4 MB/s (Opus)."""
SEARCHED_FACTOR = 10
"""Times the limit where nobody knows how much must be read: no size, or a container that is searched for the record."""

PATIENCE = 2.0
"""Times its limit that a silent worker is waited for before it is killed from outside; its own alarm rings earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What a decode worker may take for one record; it travels to the workers."""

    seconds: float = 60.0
    """For any record; its size adds to it."""
    gigabytes: float = 4.0
    """Of data, above what the process has at its start."""

    @classmethod
    def of(cls, runtime: "Runtime") -> Self:
        """The limits of a job."""
        return cls(seconds=runtime.decode_seconds, gigabytes=runtime.decode_gigabytes)

    def seconds_for(self, item: Item) -> float:
        """Time in which an item must be decoded, be it one cut of a recording that is decoded from its start."""
        is_searched = item.source_size is None or item.source_member is not None or item.source_row is not None
        seconds = self.seconds * SEARCHED_FACTOR if is_searched else self.seconds
        return seconds + (item.source_size or 0) / BYTES_A_SECOND


def alarmed(
    decoded: Iterator[Decoded], *, items: Iterable[tuple[int, Item]], limits: DecodeLimits
) -> Iterator[Decoded]:
    """Pass decoded items on; a signal SIGALRM ends this process when one of them takes longer than it may.

    The clock runs only while the next one is made, over all that belongs to one item. The signal must have its default
    action; Python calls no handler while a decoder does not return.

    Args:
        decoded: What `decode_items` gives.
        items: The pairs of position and item that it was given.
        limits: How long each may take.
    """
    for _, item in items:
        seconds_left = limits.seconds_for(item)
        while True:
            started = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, seconds_left)
            try:
                step = next(decoded, None)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            if step is None:
                return
            seconds_left = max(0.001, seconds_left - (time.monotonic() - started))  # 0 would be no alarm
            yield step
            if step.is_last:
                break
    yield from decoded


@contextmanager
def memory_limited(limits: DecodeLimits) -> Iterator[None]:
    """Let this process have so much more data than it has now; what asks for more meets a MemoryError.

    Not the size of the address space: files that are mapped for reading, stacks that are reserved and Ray's object
    store count there, and a limit on it would refuse a large file. Elsewhere than on Linux nothing is limited.
    """
    if sys.platform != "linux":
        yield
        return
    import resource  # not on every system

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes(resource.getpagesize()) + round(limits.gigabytes * 1e9)
    present = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(wanted, *present), hard) if present else (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes(page_bytes: int) -> int:
    # proc_pid_statm(5): pages of data and stack are the sixth field.
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * page_bytes
