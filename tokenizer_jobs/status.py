"""Where an output stands, from any machine: plans, commits, lease and catalog say it; no run is asked."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.accounting import Totals, merge, total
from tokenizer_jobs.catalog import SnapshotFacts, newest_snapshot, snapshot_numbers
from tokenizer_jobs.commit_index import Version, list_records, read_listed
from tokenizer_jobs.commits import Commit, commit_folder, parse_commit
from tokenizer_jobs.digest import Digest
from tokenizer_jobs.lease import LeaseHolder, read_lease
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.pace import LATEST_UNITS, RecentWork, UnitPace, latest, recent_work
from tokenizer_jobs.planning import PlanSummary, list_generations, read_plan_summary
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.recipe import ResolvedRecipe, read_recipe
from tokenizer_jobs.results import OutputSummary
from tokenizer_jobs.storage import Storage

__all__ = ["LiveRun", "Status", "StatusReader", "read_status"]

FEW_RECORDS = 512
"""Records that are read one by one although an index may have them: eight rounds of requests."""


class LiveRun(BaseModel):
    """The run that holds the output."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    run_id: str
    host: str
    pid: int
    started_at: float
    """Seconds since 1970, by its clock."""
    heartbeat_age_seconds: float
    """Since it was last heard of; not below 0, although clocks differ."""


class Status(OutputSummary):
    """Where an output stands."""

    left: int
    """Units without a commit."""
    running: bool
    """Whether a live run holds the output."""
    rejects_by_reason: dict[str, int]
    rate: float | None
    """Hours of audio per hour, by the live run's commits; null without a live run or before its first commit."""
    eta_seconds: float | None
    """Until no unit is left, at the pace of the live run's commits; null where that is not known."""
    recent: RecentWork | None
    """What the latest units say; null before the first."""
    live_run: LiveRun | None
    generations: int
    recipe_id: str
    codec: str

    @property
    def is_settled(self) -> bool:
        """Nothing will change without another run: no unit is left, and no run lives."""
        return not self.running and self.left == 0


def read_status(output: str) -> Status:
    """Read where an output stands.

    Args:
        output: Local path or fsspec URL.

    Raises:
        ConfigError: there is no output.
        IntegrityError: a plan, a commit or the snapshot is damaged.
    """
    return StatusReader(output).read()


class StatusReader:
    """Reads where an output stands, again and again: what is known of it by then is not read another time.

    Args:
        output: Local path or fsspec URL.
    """

    def __init__(self, output: str) -> None:
        self._storage = Storage.at(output)
        self._recipe: ResolvedRecipe | None = None
        self._plans: dict[int, PlanSummary] = {}
        self._newest: SnapshotFacts | None = None
        self._seen = _Seen()

    def read(self) -> Status:
        """Look once.

        Raises:
            ConfigError: there is no output.
            IntegrityError: a plan, a commit or the snapshot is damaged.
        """
        storage = self._storage
        recipe = self._recipe = self._recipe or read_recipe(storage)
        holder = read_lease(storage)  # before the commits, so that a run that ends meanwhile is not called dead
        plans = self._read_plans()
        receipts = read_receipts(storage)
        listed = {plan.generation: list_records(storage, commit_folder(plan.generation)) for plan in plans}
        committed = {generation: len(records) for generation, records in listed.items()}
        newest = self._read_newest()
        covered = _covered_by(newest, committed, receipts=receipts)
        self._read_commits(listed, covered=covered, receipts=receipts)
        live, dead = _split_holder(holder)
        num_units, num_committed = sum(plan.num_units for plan in plans), sum(committed.values())
        left = max(0, num_units - num_committed)
        rate, eta_seconds = self._seen.pace(live, left=left)
        return Status(
            output=storage.name,
            **_sums(newest if covered else None, self._seen.totals),
            items=sum(plan.num_items for plan in plans if not plan.takes_over) - receipts.num_dropped,
            dropped=receipts.num_dropped,
            units=num_units,
            units_committed=num_committed,
            left=left,
            running=live is not None,
            snapshot=None if newest is None else newest.number,
            rate=rate,
            eta_seconds=eta_seconds,
            recent=recent_work(self._seen.latest),
            live_run=live,
            generations=len(plans),
            recipe_id=recipe.recipe_id,
            codec=recipe.codec.model,
            problems=_problems(plans, committed=committed, dead=dead),
        )

    def _read_plans(self) -> list[PlanSummary]:
        for generation in list_generations(self._storage):
            if generation not in self._plans:
                self._plans[generation] = read_plan_summary(self._storage, generation)
        return [self._plans[generation] for generation in sorted(self._plans)]

    def _read_newest(self) -> SnapshotFacts | None:
        numbers = snapshot_numbers(self._storage)
        if numbers and (self._newest is None or self._newest.number != numbers[-1]):
            newest = newest_snapshot(self._storage)
            self._newest = None if newest is None else newest.facts
        return self._newest if numbers else None

    def _read_commits(
        self, listed: Mapping[int, Mapping[str, Version]], *, covered: frozenset[int], receipts: Receipts
    ) -> None:
        """Take in the commits that no snapshot covers, and of the others the latest."""
        if self._seen.basis != (covered, receipts.newest):
            self._seen = _Seen(basis=(covered, receipts.newest))
        modified = sorted((version[1], path) for generation in covered for path, version in listed[generation].items())
        chosen = {path for _, path in modified[-LATEST_UNITS:]}
        for generation, records in listed.items():
            some = {
                path: version
                for path, version in records.items()
                if path not in self._seen.paths and (generation not in covered or path in chosen)
            }
            found = read_listed(self._storage, commit_folder(generation), some, by_index=len(some) > FEW_RECORDS)
            commits = (receipts.effective(parse_commit(content, path=path)) for path, content in found)
            self._seen.add(commits, paths=some, receipts=None if generation in covered else receipts)


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What was read of commits so far: sums, and the latest units."""

    basis: tuple[frozenset[int], int] = (frozenset(), 0)
    """Generations that a snapshot has the sums of, and the newest receipt: under others all is read anew."""
    paths: set[str] = field(default_factory=set)
    totals: Totals = field(default_factory=lambda: total([]))
    """Of commits that no snapshot covers, and that count."""
    latest: list[UnitPace] = field(default_factory=list)
    times: list[tuple[float, float, float]] = field(default_factory=list)
    """When each unit that no snapshot covers was started and finished, and its seconds of audio."""

    def add(self, commits: Iterable[Commit], *, paths: Iterable[str], receipts: Receipts | None) -> None:
        """Take in commits; receipts of None: a snapshot has their sums."""

        def passing() -> Iterator[Commit]:
            some: list[UnitPace] = []
            for commit in commits:
                unit = UnitPace.of(commit)
                some.append(unit)
                if len(some) > 2 * LATEST_UNITS:
                    some = latest(some)
                if receipts is not None:
                    self.times.append((unit.started, unit.finished, unit.audio_seconds))
                    if receipts.is_live(commit):
                        yield commit
            self.latest = latest([*self.latest, *some])

        self.totals = merge(self.totals, total(passing()))
        self.paths.update(paths)

    def pace(self, live: LiveRun | None, *, left: int) -> tuple[float | None, float | None]:
        """Hours of audio per hour, and seconds until no unit is left.

        Both from the commits' own clocks: the clock of the machine that asks may differ. Units are planned to equal
        cost, so units per second tell the time that is left better than estimated hours.
        """
        recent = [] if live is None else [times for times in self.times if times[0] >= live.started_at]
        if not recent:
            return None, None
        span_seconds = max(finished for _, finished, _ in recent) - min(started for started, _, _ in recent)
        if span_seconds <= 0:
            return None, None
        return sum(audio for _, _, audio in recent) / span_seconds, left * span_seconds / len(recent)


def _covered_by(facts: SnapshotFacts | None, committed: dict[int, int], *, receipts: Receipts) -> frozenset[int]:
    """Generations whose commits need not be read, since the snapshot has the sums of just these units.

    Commits are never taken back, so equal numbers of units mean the same units; receipts say what left them.
    """
    if facts is None or facts.receipts != receipts.newest:
        return frozenset()
    if sum(committed.get(generation, 0) for generation in facts.generations) != facts.units:
        return frozenset()
    return frozenset(facts.generations)


def _sums(facts: SnapshotFacts | None, sums: Totals) -> dict[str, Any]:
    """Totals of the commits that were read, on top of what the snapshot has."""
    reasons = dict(sums.rejects_by_reason)
    for reason, count in (facts.rejects_by_reason if facts is not None else {}).items():
        reasons[reason] = reasons.get(reason, 0) + count
    return {
        "rows": sums.rows + (facts.rows if facts is not None else 0),
        "rejects": sums.rejects + (facts.rejects if facts is not None else 0),
        "filtered": sums.filtered + (facts.filtered if facts is not None else 0),
        "hours": sums.hours + (facts.hours if facts is not None else 0),
        "bytes": sums.bytes + (facts.bytes if facts is not None else 0),
        "digest": sums.digest if facts is None else Digest.total([sums.digest, facts.digest]).hex,
        "rejects_by_reason": dict(sorted(reasons.items())),
    }


def _split_holder(holder: LeaseHolder | None) -> tuple[LiveRun | None, LeaseHolder | None]:
    """The live run, or the holder of a lease that nobody keeps up any more."""
    if holder is None:
        return None, None
    now = time.time()
    if holder.may_be_replaced(here=Owner.current(), now=now):
        return None, holder
    live = LiveRun(
        run_id=holder.run_id,
        host=holder.owner.host,
        pid=holder.owner.pid,
        started_at=holder.started_at,
        heartbeat_age_seconds=max(0.0, now - holder.heartbeat),
    )
    return live, None


def _problems(plans: Sequence[PlanSummary], *, committed: dict[int, int], dead: LeaseHolder | None) -> list[str]:
    problems = [
        f"generation {plan.generation} has {committed[plan.generation]} commits for {plan.num_units} planned units; "
        "run `tokenizer-jobs verify`"
        for plan in plans
        if committed[plan.generation] > plan.num_units
    ]
    if dead is not None:
        problems.append(
            f"run {dead.run_id} on {dead.owner.host} (pid {dead.owner.pid}) ended without a word, last heard of "
            f"{max(0.0, time.time() - dead.heartbeat):.0f} s ago; run the job again to resume"
        )
    return problems
