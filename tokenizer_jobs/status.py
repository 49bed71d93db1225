"""Where an output stands, from any machine: plans, commits, lease and catalog say it; no run is asked."""

import time
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.accounting import total
from tokenizer_jobs.catalog import SnapshotFacts, newest_snapshot
from tokenizer_jobs.commits import Commit, committed_unit_ids, read_commits
from tokenizer_jobs.digest import Digest
from tokenizer_jobs.lease import LeaseHolder, read_lease
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.planning import PlanSummary, list_generations, read_plan_summary
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.results import OutputSummary
from tokenizer_jobs.storage import Storage

__all__ = ["LiveRun", "Status", "read_status"]


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
    storage = Storage.at(output)
    recipe = read_recipe(storage)
    holder = read_lease(storage)  # before the commits, so that a run that ends meanwhile is not called dead
    plans = [read_plan_summary(storage, generation) for generation in list_generations(storage)]
    receipts = read_receipts(storage)
    committed = {plan.generation: len(committed_unit_ids(storage, plan.generation)) for plan in plans}
    newest = newest_snapshot(storage)
    covered = _covered_by(newest.facts if newest is not None else None, committed, receipts=receipts)
    commits = [
        commit
        for plan in plans
        if plan.generation not in covered
        for commit in read_commits(storage, plan.generation, receipts=receipts, with_pending=True)
    ]
    live, dead = _split_holder(holder)
    num_units = sum(plan.num_units for plan in plans)
    num_committed = sum(committed.values())
    left = max(0, num_units - num_committed)
    rate, eta_seconds = _pace(commits, live=live, left=left)
    return Status(
        output=storage.name,
        **_sums(newest.facts if newest is not None and covered else None, list(filter(receipts.is_live, commits))),
        items=sum(plan.num_items for plan in plans if not plan.takes_over) - receipts.num_dropped,
        dropped=receipts.num_dropped,
        units=num_units,
        units_committed=num_committed,
        left=left,
        running=live is not None,
        snapshot=None if newest is None else newest.number,
        rate=rate,
        eta_seconds=eta_seconds,
        live_run=live,
        generations=len(plans),
        recipe_id=recipe.recipe_id,
        codec=recipe.codec.model,
        problems=_problems(plans, committed=committed, dead=dead),
    )


def _covered_by(facts: SnapshotFacts | None, committed: dict[int, int], *, receipts: Receipts) -> frozenset[int]:
    """Generations whose commits need not be read, since the snapshot has the sums of just these units.

    Commits are never taken back, so equal numbers of units mean the same units; receipts say what left them.
    """
    if facts is None or facts.receipts != receipts.newest:
        return frozenset()
    if sum(committed.get(generation, 0) for generation in facts.generations) != facts.units:
        return frozenset()
    return frozenset(facts.generations)


def _sums(facts: SnapshotFacts | None, commits: Sequence[Commit]) -> dict[str, object]:
    """Totals of the commits that were read, on top of what the snapshot has."""
    sums = total(commits)
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


def _pace(commits: Sequence[Commit], *, live: LiveRun | None, left: int) -> tuple[float | None, float | None]:
    """Hours of audio per hour, and seconds until no unit is left.

    Both from the commits' own clocks: the clock of the machine that asks may differ. Units are planned to equal
    cost, so units per second tell the time that is left better than estimated hours.
    """
    if live is None:
        return None, None
    recent = [commit for commit in commits if commit.started_at.timestamp() >= live.started_at]
    if not recent:
        return None, None
    begun = min(commit.started_at for commit in recent)
    span_seconds = (max(commit.finished_at for commit in recent) - begun).total_seconds()
    if span_seconds <= 0:
        return None, None
    audio_seconds = sum(commit.audio_seconds for commit in recent)
    return audio_seconds / span_seconds, left * span_seconds / len(recent)


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
