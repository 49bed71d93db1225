"""Totals over commits: what status, snapshots and verify count. Pure functions."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum

from tokenizer_jobs.commits import Commit
from tokenizer_jobs.digest import Digest

__all__ = ["Totals", "merge", "total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over committed units."""

    units: int
    items: int
    """Planned items of these units: those with rows + rejects."""
    rows: int
    rejects: int
    """Filtered items are among them."""
    filtered: int
    rejects_by_reason: Mapping[str, int]
    frames: int
    hours: float
    """Of audio that has codes."""
    bytes: int
    """Of shards."""
    digest: str
    """Over all rows; 64 hex digits."""


def total(commits: Iterable[Commit]) -> Totals:
    """Add up commits; their order does not matter."""
    reasons: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    seconds, digest = array("d"), Digest()
    for commit in commits:  # one pass: there may be 50,000, read as they are counted
        reasons.update(commit.rejects_by_reason)
        seconds.append(commit.audio_seconds)
        digest.add(commit.digest)
        sums.update(
            units=1,
            items=commit.num_items,
            rows=commit.num_rows,
            rejects=commit.num_rejects,
            filtered=commit.num_filtered,
            frames=commit.num_frames,
            bytes=sum(file.size_bytes for file in commit.shards),
        )
    return Totals(
        units=sums["units"],
        items=sums["items"],
        rows=sums["rows"],
        rejects=sums["rejects"],
        filtered=sums["filtered"],
        rejects_by_reason=dict(sorted(reasons.items())),
        frames=sums["frames"],
        hours=fsum(seconds) / 3600,
        bytes=sums["bytes"],
        digest=digest.hex,
    )


def merge(one: Totals, other: Totals) -> Totals:
    """The totals of the units of both, which have none in common."""
    return Totals(
        units=one.units + other.units,
        items=one.items + other.items,
        rows=one.rows + other.rows,
        rejects=one.rejects + other.rejects,
        filtered=one.filtered + other.filtered,
        rejects_by_reason=dict(sorted((Counter(one.rejects_by_reason) + Counter(other.rejects_by_reason)).items())),
        frames=one.frames + other.frames,
        hours=one.hours + other.hours,
        bytes=one.bytes + other.bytes,
        digest=Digest.total([one.digest, other.digest]).hex,
    )
