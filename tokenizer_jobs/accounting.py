"""Totals over commits: what status, snapshots and verify count. Pure functions."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum

from tokenizer_jobs.commits import Commit
from tokenizer_jobs.digest import Digest

__all__ = ["Totals", "total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over committed units."""

    units: int
    items: int
    """Planned items of these units: rows + rejects."""
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
    commits = list(commits)
    reasons: Counter[str] = Counter()
    for commit in commits:
        reasons.update(commit.rejects_by_reason)
    return Totals(
        units=len(commits),
        items=sum(commit.num_items for commit in commits),
        rows=sum(commit.num_rows for commit in commits),
        rejects=sum(commit.num_rejects for commit in commits),
        filtered=sum(commit.num_filtered for commit in commits),
        rejects_by_reason=dict(sorted(reasons.items())),
        frames=sum(commit.num_frames for commit in commits),
        hours=fsum(commit.audio_seconds for commit in commits) / 3600,
        bytes=sum(file.size_bytes for commit in commits for file in commit.shards),
        digest=Digest.total(commit.digest for commit in commits).hex,
    )
