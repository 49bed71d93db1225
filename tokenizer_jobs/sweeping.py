"""The sweep: what no commit names goes, and nothing else; so that the glob of a folder is the newest snapshot."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

from tokenizer_jobs.commits import Commit, read_all_commits
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.planning import forgotten_plans, list_generations, read_plan_summary
from tokenizer_jobs.receipts import forgotten_lists, read_receipts
from tokenizer_jobs.shards import CODES_FOLDER, REJECTS_FOLDER
from tokenizer_jobs.storage import STAGING_FOLDER, Storage, StoredFile, staged_by_the_dead

__all__ = ["Swept", "sweep_orphans"]

STAGING_SECONDS = 600.0
"""Staging younger than this may belong to a live run on another machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep removed."""

    shards: int = 0
    rejects: int = 0
    staged: int = 0


def sweep_orphans(
    storage: Storage, *, commits: Iterable[Commit] | None = None, still_ours: Callable[[], object] = lambda: None
) -> Swept:
    """Remove shards and rejects that no commit names, and what dead runs left behind; nothing else, ever.

    While a generation has open units, its nameless files stay for 10 minutes: an attempt that nobody waits for any
    more may still be between its shard and its commit, and would then name a file that is gone. For a committed unit
    that cannot happen: a second commit is never published.

    Crash points: any part of the removals is a state that the next sweep completes. A reader never sees a difference:
    it opens what a snapshot lists, and that is named.

    A run that slept through its lease may wake up in the middle of this, while another run goes on. So the lease is
    looked at after everything was read and before the first removal, and of generations that the commits at hand do
    not complete all commits are read anew.

    Args:
        storage: The output.
        commits: All of them, also those that do not count yet, as a run knows them that has no open units; None reads
            them.
        still_ours: Called before the first removal; raises when the output is another run's by now.
    """
    before = time.time() - STAGING_SECONDS
    files = [*storage.list(CODES_FOLDER), *storage.list(REJECTS_FOLDER)]
    # Commits are read after the listing: what is committed in between is then named, never an orphan. Generations
    # are taken from the files' names too, so that a lost plan does not make orphans of its shards.
    planned, receipts = list_generations(storage), read_receipts(storage)
    if commits is None:
        generations = {*planned, *map(_generation_of, files)}
        commits = read_all_commits(storage, generations, receipts=receipts, with_pending=True)
    else:
        unknown = {*map(_generation_of, files)}.difference(planned)
        commits = chain(commits, read_all_commits(storage, unknown, receipts=receipts, with_pending=True))
    # What receipts left of units is named by them, also where the commits at hand were read before the newest receipt.
    named_units, named_paths, num_committed = set[str](), receipts.kept_paths(), Counter[int]()
    for commit in commits:
        named_units.add(commit.unit_id)
        named_paths.update(file.path for file in commit.files)
        num_committed[commit.generation] += 1
    summaries = [read_plan_summary(storage, generation) for generation in planned]
    unfinished = {plan.generation for plan in summaries if num_committed[plan.generation] < plan.num_units}
    for commit in read_all_commits(storage, unfinished, receipts=receipts, with_pending=True):
        named_units.add(commit.unit_id)  # of others, since the commits at hand were read
        named_paths.update(file.path for file in commit.files)
    orphans = [
        file.path
        for file in files
        if _PART.search(file.path)  # anything else is somebody's own
        and file.path not in named_paths
        and file.path.endswith((".parquet", ".arrow"))
        and (file.modified < before or _generation_of(file) not in unfinished or _unit_of(file) in named_units)
    ]
    here = Owner.current()
    staged = [
        file.path
        for file in storage.list(STAGING_FOLDER)
        if file.modified < before or staged_by_the_dead(file.path.rpartition("/")[2], here=here)
    ]
    lists = [file.path for file in forgotten_lists(storage) if file.modified < before]
    lists += forgotten_plans(storage, summaries)
    still_ours()
    for path in (*orphans, *staged, *lists):
        storage.delete(path)
    num_shards = sum(path.startswith(f"{CODES_FOLDER}/") for path in orphans)
    return Swept(shards=num_shards, rejects=len(orphans) - num_shards, staged=len(staged))


_PART = re.compile(r"/part-(\d+)-\d+-([0-9a-f]+)")


def _generation_of(file: StoredFile) -> int:
    found = _PART.search(file.path)
    return int(found[1]) if found else 0


def _unit_of(file: StoredFile) -> str:
    found = _PART.search(file.path)
    return found[2] if found else ""
