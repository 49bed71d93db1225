"""What headers say about the items of a job: of some, evenly chosen, and as few as their storage makes dear.

A listing knows durations by what a manifest or a table states, else by bytes and what formats usually need, and nothing
at all of files of unknown size. The headers that are read anyway put that right: what items like those lasted longer or
shorter than was estimated, all of them are taken to.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources import HeaderFacts, Source, probe

__all__ = ["HeaderSummary", "ReadHeaders", "estimated_seconds", "measured_seconds", "read_headers", "summarize_headers"]

HEADER_THREADS = 8
MOST_HEADERS = 20_000
"""Of local files: one takes 0.1 ms from memory, and a seek where it must come from a disk."""
MOST_REMOTE_HEADERS = 300
"""Of files behind a URL and of members of archives: each costs a request, or more."""
MOST_GROUPS, GROUP_HEADERS = 16, 20
"""Of tables: parts that are read, whole, and headers that are taken from each."""
UNKNOWN = "unknown"
"""Where hours go whose header cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadHeaders:
    """The headers of some items."""

    places: npt.NDArray[np.int64]
    """[n] of the items among all, in order."""
    items: Sequence[Item]
    """[n]"""
    headers: Sequence[HeaderFacts | None]
    """[n]; None where one cannot be read."""
    kinds: npt.NDArray[np.int8]
    """[all items] how each is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderSummary:
    """What some headers say, and what that means for all items."""

    formats: dict[str, int]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    hours_by_format: dict[str, float]
    """Estimated, of all items: they add up to all hours."""
    hours_by_sample_rate: dict[str, float]
    hours_by_channels: dict[str, float]
    low_rate_share: float
    """Share of the judged items whose sample rate is below the filter's."""
    mean_channels: float
    """Of a second of audio."""
    unreadable: int
    looked_at: int


def estimated_seconds(items: ItemTable) -> npt.NDArray[np.float64]:
    """Estimated durations `[len(items)]`; 0 where an estimate is no number."""
    columns = [batch.column(0).to_numpy(zero_copy_only=False) for batch in items.batches(["estimated_seconds"])]
    seconds = np.concatenate(columns) if columns else np.zeros(0)
    return np.where(np.isfinite(seconds), np.maximum(seconds, 0.0), 0.0)


def read_headers(source: Source, items: ItemTable) -> ReadHeaders:
    """Read the headers of some items.

    Args:
        source: Opens the items.
        items: All that are planned.
    """
    kinds, starts = _kinds(items)
    places = _choose(kinds, starts)
    mask = np.zeros(len(items), np.bool_)
    mask[places] = True

    def look(item: Item) -> HeaderFacts | None:
        return probe(source, item)

    some = tuple(items.where(mask))
    with ThreadPoolExecutor(HEADER_THREADS) as readers:
        return ReadHeaders(places=places, items=some, headers=tuple(readers.map(look, some)), kinds=kinds)


def measured_seconds(items: ItemTable, found: ReadHeaders) -> npt.NDArray[np.float64]:
    """Durations `[len(items)]`: as stated, else by the item's header, else as estimated and put right by the others'.

    Items of unknown size last as long as those of the same storage do on average.
    """
    seconds = estimated_seconds(items).copy()
    stated = [_mask(batch.column(0).is_valid()) for batch in items.batches(["duration_seconds"])]
    is_stated = np.concatenate([np.zeros(0, np.bool_), *stated])
    is_looked_at = np.zeros(len(items), np.bool_)
    is_looked_at[found.places] = True
    measured = [
        (place, max(0.0, header.seconds - (item.start_seconds or 0.0)))
        for place, item, header in zip(found.places.tolist(), found.items, found.headers, strict=True)
        if header is not None and item.duration_seconds is None
    ]
    places = np.array([place for place, _ in measured], np.int64)
    true = np.array([length for _, length in measured], np.float64)
    for kind in (_LOCAL, _REMOTE, _GROUPED):
        is_kind = found.kinds[places] == kind
        known, lengths = places[is_kind], true[is_kind]
        if not len(known):
            continue
        guessed = ~is_stated & ~is_looked_at & (found.kinds == kind)
        is_sized = seconds[known] > 0
        if is_sized.any():
            seconds[guessed] *= lengths[is_sized].sum() / seconds[known][is_sized].sum()
        seconds[guessed & (seconds == 0)] = lengths.mean()
        seconds[known] = lengths
    return seconds


def summarize_headers(
    found: ReadHeaders,
    *,
    seconds: npt.NDArray[np.float64],
    min_sample_rate: int | None = None,
    judged: npt.NDArray[np.bool_] | None = None,
) -> HeaderSummary:
    """Count what headers say.

    Args:
        found: Of some items.
        seconds: Durations of all items.
        min_sample_rate: Of `selection.filters`, in Hz; None: any.
        judged: At which of all items that filter looks; None: at all.
    """
    known = [header for header in found.headers if header is not None]
    lengths = seconds[found.places].tolist()
    hours = float(seconds.sum()) / 3600
    looks = judged[found.places].tolist() if judged is not None else [True] * len(lengths)
    below = [
        h is not None and h.sample_rate < (min_sample_rate or 0)
        for h, is_judged in zip(found.headers, looks, strict=True)
        if is_judged
    ]

    def hours_by(trait: Callable[[HeaderFacts], Hashable]) -> dict[str, float]:
        return _shares(((UNKNOWN if h is None else str(trait(h))) for h in found.headers), lengths, total=hours)

    weights = [(header.channels, length) for header, length in zip(found.headers, lengths, strict=True) if header]
    weighed = sum(length for _, length in weights)
    return HeaderSummary(
        formats=dict(Counter(header.format for header in known).most_common()),
        sample_rates=dict(Counter(header.sample_rate for header in known).most_common()),
        channels=dict(Counter(header.channels for header in known).most_common()),
        hours_by_format=hours_by(lambda header: header.format),
        hours_by_sample_rate=hours_by(lambda header: header.sample_rate),
        hours_by_channels=hours_by(lambda header: header.channels),
        low_rate_share=sum(below) / len(below) if below else 0.0,
        mean_channels=sum(c * length for c, length in weights) / weighed if weighed else 1.0,
        unreadable=len(found.headers) - len(known),
        looked_at=len(found.headers),
    )


def _shares(names: Iterable[str], weights: Iterable[float], *, total: float) -> dict[str, float]:
    sums: Counter[str] = Counter()
    for name, weight in zip(names, weights, strict=True):
        sums[name] += weight  # type: ignore[assignment]  # a Counter of floats orders them too
    whole = sum(sums.values())
    return {name: total * share / whole for name, share in sums.most_common() if share} if whole else {}


def _choose(kinds: npt.NDArray[np.int8], starts: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Places of the items whose headers are read."""
    local, remote = np.flatnonzero(kinds == _LOCAL), np.flatnonzero(kinds == _REMOTE)
    chosen = [_evenly(local, MOST_HEADERS), _evenly(remote, MOST_REMOTE_HEADERS)]
    begins = np.flatnonzero(starts)
    ends = np.append(begins[1:], len(kinds))
    for number in _evenly(np.arange(len(begins)), MOST_GROUPS):
        inside = np.arange(begins[number], min(ends[number], begins[number] + GROUP_HEADERS))
        chosen.append(inside[kinds[inside] == _GROUPED])
    return np.unique(np.concatenate(chosen)).astype(np.int64)


_LOCAL, _REMOTE, _GROUPED = 0, 1, 2


def _kinds(items: ItemTable) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.bool_]]:
    """How each item is read, and where a part of a table begins."""
    kinds, starts = [np.zeros(0, np.int8)], [np.zeros(0, np.bool_)]
    for batch in items.batches(["source_uri", "source_member", "source_row", "source_group"]):
        uris, members, rows, groups = batch.columns
        is_grouped = _mask(pc.is_valid(groups)) | _mask(pc.is_valid(rows))
        is_remote = _mask(pc.match_substring(uris, "://")) | _mask(pc.is_valid(members))
        kinds.append(np.where(is_grouped, _GROUPED, np.where(is_remote, _REMOTE, _LOCAL)).astype(np.int8))
        begins = np.ones(batch.num_rows, np.bool_)  # of a batch too: a part may be counted twice
        begins[1:] = _mask(pc.not_equal(uris[1:], uris[:-1])) | _changes(groups)
        starts.append(begins & is_grouped)
    return np.concatenate(kinds), np.concatenate(starts)


def _changes(column: pa.Array) -> npt.NDArray[np.bool_]:
    numbers = np.asarray(pc.fill_null(column, -1).to_numpy(zero_copy_only=False))
    return np.asarray(numbers[1:] != numbers[:-1], np.bool_)


def _mask(column: Any) -> npt.NDArray[np.bool_]:
    return np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)


def _evenly(places: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    step = -(-len(places) // most) or 1
    return places[::step]
