"""What a decode worker runs: one task's share of a unit, in lists of bounded size. It never imports torch.

A share is a fixed series of groups of the unit. Each list stays within one group, so that the encoder, which takes
the groups of all tasks in planned order, knows by counting when the next task's turn has come.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from tokenizer_jobs.decode import AudioTarget, decode_items, opened_items
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.isolation import DecodeLimits, alarmed, decode_isolated, memory_limited
from tokenizer_jobs.records import Decoded, Item, RejectedItem, read_together
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import ReadAhead, make_source

__all__ = [
    "MAX_LIST_ITEMS",
    "MAX_LIST_SECONDS",
    "DecodedList",
    "Group",
    "decode_share",
    "decoded_seconds",
    "plan_groups",
]

MAX_LIST_SECONDS = 30.0
"""Audio in one list, unless a single item, or a stretch of one, is longer: 2.9 MB as float32 at 24 kHz."""

MAX_LIST_ITEMS = 32

Group = Sequence[tuple[int, Item]]
"""Neighbouring items of a unit with their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedList:
    """What travels to the encoder at once."""

    items: tuple[Decoded, ...]
    seconds: float
    """That decoding them took, without the time in which the task was held back."""


def plan_groups(items: Iterable[tuple[int, Item]]) -> list[Group]:
    """Cut a unit into groups by the plan's estimates: what one task decodes before it is another's turn.

    Items that are read at once stay together, however many.
    """
    groups: list[list[tuple[int, Item]]] = []
    seconds = 0.0
    for _, together in groupby(items, key=lambda record: read_together(record[1])):
        records = list(together)
        more = sum(item.estimated_seconds for _, item in records)
        if groups and seconds + more <= MAX_LIST_SECONDS and len(groups[-1]) + len(records) <= MAX_LIST_ITEMS:
            groups[-1].extend(records)
            seconds += more
        else:
            groups.append(records)
            seconds = more
    return list(groups)


def decode_share(
    groups: Sequence[Group],
    *,
    source: SourceConfig,
    target: AudioTarget,
    limits: DecodeLimits,
    careful: bool,
    folders: tuple[str, ...] = (),
) -> Iterator[DecodedList]:
    """Decode groups in order; the first list is empty and says that the task has found a place.

    Args:
        groups: The task's share of the unit.
        source: Opens the items.
        target: What the waveforms should be.
        limits: What decoding may take: a record that takes longer ends this process, one that takes more memory raises.
        careful: Decode in a killable child process and blame the record that kills it.
        folders: Local ones of the source, which must be here: where they are not, every item would have vanished.

    Raises:
        ConfigError: a folder of the source is not on this node.
        MemoryError: a record took more memory than it may, or there is none left.
    """
    yield DecodedList(items=(), seconds=0.0)
    items = [record for group in groups for record in group]
    if items:
        _check_folders(folders)
    with ExitStack() as stack:
        if careful:
            decoded = decode_isolated(items, source=source, target=target, limits=limits)
        else:
            stack.enter_context(memory_limited(limits))
            ahead = stack.enter_context(ReadAhead(make_source(source)))
            ahead.expect(opened_items(items))
            decoded = alarmed(decode_items(items, source=ahead, target=target), items=items, limits=limits)
        for group in groups:
            yield from _lists(_items(decoded, len(group)), sample_rate=target.sample_rate)


@lru_cache(maxsize=1)
def _check_folders(folders: tuple[str, ...]) -> None:
    """Check once in a process: a node that joined may get work before the driver's own check of it has ended."""
    missing = next((folder for folder in folders if not Path(folder).is_dir()), None)
    if missing is not None:
        raise ConfigError(
            f"the source {missing} is not on every node; on a cluster, use storage that every node mounts at the same "
            "place, or a URL"
        )


def _items(decoded: Iterator[Decoded], num_items: int) -> Iterator[Decoded]:
    """What the next items are decoded to."""
    while num_items > 0 and (step := next(decoded, None)) is not None:
        num_items -= step.is_last
        yield step


def _lists(decoded: Iterable[Decoded], *, sample_rate: int) -> Iterator[DecodedList]:
    waiting: list[Decoded] = []
    seconds = 0.0
    start = time.monotonic()
    for step in decoded:
        duration = decoded_seconds(step, sample_rate=sample_rate)
        if waiting and (seconds + duration > MAX_LIST_SECONDS or len(waiting) == MAX_LIST_ITEMS):
            yield DecodedList(items=tuple(waiting), seconds=time.monotonic() - start)
            waiting, seconds, start = [], 0.0, time.monotonic()
        waiting.append(step)
        seconds += duration
    if waiting:
        yield DecodedList(items=tuple(waiting), seconds=time.monotonic() - start)


def decoded_seconds(decoded: Decoded, *, sample_rate: int) -> float:
    """Length of the waveform that this brings, be it a row or a stretch of one."""
    return 0.0 if isinstance(decoded, RejectedItem) else decoded.waveform.shape[1] / sample_rate
