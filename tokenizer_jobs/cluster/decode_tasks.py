"""What a decode worker runs: one task's share of a unit, in lists of bounded size. It never imports torch.

A share is a fixed series of groups of the unit. Each list stays within one group, so that the encoder, which takes
the groups of all tasks in planned order, knows by counting when the next task's turn has come.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.isolation import decode_isolated
from tokenizer_jobs.records import Decoded, DecodedItem, Item
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import make_source

__all__ = ["MAX_LIST_ITEMS", "MAX_LIST_SECONDS", "DecodedList", "Group", "decode_share", "plan_groups"]

MAX_LIST_SECONDS = 30.0
"""Audio in one list, unless a single item is longer: 2.9 MB as float32 at 24 kHz."""

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
    """Cut a unit into groups by the plan's estimates: what one task decodes before it is another's turn."""
    groups: list[list[tuple[int, Item]]] = []
    seconds = 0.0
    for position, item in items:
        full = seconds + item.estimated_seconds > MAX_LIST_SECONDS or (groups and len(groups[-1]) == MAX_LIST_ITEMS)
        if not groups or full:
            groups.append([])
            seconds = 0.0
        groups[-1].append((position, item))
        seconds += item.estimated_seconds
    return list(groups)


def decode_share(
    groups: Sequence[Group], *, source: SourceConfig, target: AudioTarget, careful: bool
) -> Iterator[DecodedList]:
    """Decode groups in order; the first list is empty and says that the task has found a place.

    Args:
        groups: The task's share of the unit.
        source: Opens the items.
        target: What the waveforms should be.
        careful: Decode each record in a killable child process.
    """
    yield DecodedList(items=(), seconds=0.0)
    items = [record for group in groups for record in group]
    if careful:
        decoded = decode_isolated(items, source=source, target=target)
    else:
        decoded = decode_items(items, source=make_source(source), target=target)
    for group in groups:
        yield from _lists(islice(decoded, len(group)))


def _lists(decoded: Iterable[Decoded]) -> Iterator[DecodedList]:
    waiting: list[Decoded] = []
    seconds = 0.0
    start = time.monotonic()
    for item in decoded:
        duration = item.facts.duration_seconds if isinstance(item, DecodedItem) else 0.0
        if waiting and (seconds + duration > MAX_LIST_SECONDS or len(waiting) == MAX_LIST_ITEMS):
            yield DecodedList(items=tuple(waiting), seconds=time.monotonic() - start)
            waiting, seconds, start = [], 0.0, time.monotonic()
        waiting.append(item)
        seconds += duration
    if waiting:
        yield DecodedList(items=tuple(waiting), seconds=time.monotonic() - start)
