"""A whole run: claim the output, finish what was begun, plan what is new, tokenize it, publish a snapshot.

    lease ─▶ recipe ─▶ open generation? tokenize it ─▶ list, plan what is new ─▶ tokenize ─▶ receipt, where items take
    the place of older ones ─▶ snapshot ─▶ sweep

A run that dies at any of these arrows is resumed by the next: every step is either repeated harmlessly or found done.
"""

import dataclasses
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from tokenizer_jobs.accounting import Totals, total
from tokenizer_jobs.catalog import check_receipts, newest_snapshot, publish_snapshot
from tokenizer_jobs.commits import Commit, Outcome
from tokenizer_jobs.commonalities import describe_rejects
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.decode import AudioTarget, decoder_versions
from tokenizer_jobs.encoding import describe_codec
from tokenizer_jobs.errors import ConfigError, OutputBusyError
from tokenizer_jobs.executor_choice import uses_ray
from tokenizer_jobs.executors import Executor, InlineExecutor, UnitFailed, UnitOutcome, log_outcome, name_rejects
from tokenizer_jobs.growth import Grown, Planner, Planning, plan_growth
from tokenizer_jobs.isolation import DecodeLimits
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.logs import active_log_format
from tokenizer_jobs.machine import uncollected
from tokenizer_jobs.pipeline import UnitJob
from tokenizer_jobs.planning import (
    OpenUnits,
    PlanSummary,
    list_generations,
    read_plan_summary,
    read_user_schema,
)
from tokenizer_jobs.recipe import CodecFacts, ResolvedRecipe, store_recipe
from tokenizer_jobs.removal import take_over
from tokenizer_jobs.report import publish_card
from tokenizer_jobs.results import Progress, RunResult, summary_fields
from tokenizer_jobs.stopping import StopRequest, stop_on_signals
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.tally import Tally
from tokenizer_jobs.watch import Watch
from tokenizer_jobs.wording import count_text, counts_text, rejects_command

__all__ = ["MakeExecutor", "Report", "execute", "run"]

Report = Callable[[Progress], None]
MakeExecutor = Callable[[UnitJob], Executor]


def run(
    config: JobConfig,
    *,
    replace: bool = False,
    report: Report | None = None,
    executor: MakeExecutor | None = None,
) -> RunResult:
    """Bring an output up to date with its source.

    Args:
        config: The job.
        replace: Whether inputs that changed under a known id are tokenized anew, and their old rows taken out; else
            they are reported and left.
        report: Called with the progress at the start and after every unit; None: nobody listens.
        executor: Makes what tokenizes the units; None: what `runtime` says.

    Returns:
        The counts of the output and how the run ended: `stopped` after SIGTERM or SIGINT, with `problems` when units
        were given up or too many items rejected.

    Raises:
        ConfigError: the job cannot be done as it is written.
        OutputBusyError: another live run holds the output, or took it over.
        IntegrityError: what is stored contradicts itself.
    """
    return execute(config, planner=partial(plan_growth, replace=replace), report=report, executor=executor)


def execute(
    config: JobConfig, *, planner: Planner, report: Report | None = None, executor: MakeExecutor | None = None
) -> RunResult:
    """Finish what was begun in an output, plan, and tokenize what was planned; as `run`, with any planner."""
    storage = Storage.open(config.output)
    facts = describe_codec(config.recipe.codec)
    recipe = ResolvedRecipe.resolve(config.recipe, facts)
    with Lease(storage, run_id := uuid.uuid4().hex[:12]) as lease:
        store_recipe(storage, recipe)
        return _Run(
            config=config,
            planner=planner,
            storage=storage,
            facts=facts,
            recipe=recipe,
            run_id=run_id,
            lease=lease,
            stop=StopRequest(grace_seconds=config.runtime.grace_seconds),
            report=report or _ignore,
            ledger=Ledger(storage),
            make_executor=executor,
        ).execute()


def _ignore(_progress: Progress) -> None:
    """Nobody listens."""


@dataclass(kw_only=True)
class _Run:
    """One run under the output's lease."""

    config: JobConfig
    planner: Planner
    storage: Storage
    facts: CodecFacts
    recipe: ResolvedRecipe
    run_id: str
    lease: Lease
    stop: StopRequest
    report: Report
    ledger: Ledger
    make_executor: MakeExecutor | None
    started: float = field(default_factory=time.monotonic)
    new_rows: int = 0
    new_seconds: float = 0.0
    grown: Grown = field(default_factory=Grown)
    problems: list[str] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)

    def execute(self) -> RunResult:
        """Take the steps drawn at the top of this module."""
        self._tell(None, message=_codec_line(self.facts))
        check_receipts(self.ledger.receipts, newest_snapshot(self.storage))
        generations = list_generations(self.storage)
        for generation in generations:
            # All of them: a commit of an old generation may have been removed on the advice of `verify`.
            plan = read_plan_summary(self.storage, generation)
            if self.ledger.num_committed(generation) < plan.num_units and self._may_go_on():
                self._tokenize(plan)
        self._take_over()
        if self._may_go_on():
            self.grown = self.planner(
                Planning(
                    storage=self.storage,
                    selection=self.config.selection,
                    recipe=self.recipe,
                    facts=self.facts,
                    still_ours=self._may_go_on,
                )
            )
        for plan in self.grown.plans:
            if self._may_go_on():
                self._tokenize(plan)
        self._take_over()
        if self._may_go_on():
            self._judge(total(self._commits()))
        if self._may_go_on():
            self._publish()
        return self._result()

    def _may_go_on(self) -> bool:
        self.lease.look()
        if self.lease.lost is not None:
            raise OutputBusyError(f"this run lost the output {self.storage.name!r}: {self.lease.lost}")
        return not self.stop.requested and not self.problems

    def _take_over(self) -> None:
        """Put generations in place of what they supersede, once all their units are committed."""
        for plan in self._plans():
            if not plan.takes_over or self.ledger.receipts.has_taken_over(plan.generation):
                continue
            commits = list(self.ledger.commits(plan.generation, with_pending=True))
            if len(commits) < plan.num_units or not self._may_go_on() or self._too_many_replaced(plan, commits):
                continue
            newest = newest_snapshot(self.storage)
            take_over(
                self.storage,
                plan,
                commits,
                receipts=self.ledger.receipts,
                base_snapshot=None if newest is None else newest.number,
                still_ours=self._may_go_on,
            )
            self.ledger.forget_receipts()

    def _too_many_replaced(self, plan: PlanSummary, commits: Iterable[Commit]) -> bool:
        """Whether so many changed inputs are rejects now that their rows are better kept; says so."""
        fraction, totals = self.config.selection.max_reject_fraction, total(commits)
        failures = totals.rejects - totals.filtered
        if plan.cause != "replace" or fraction is None or failures <= fraction * plan.num_items:
            return False
        reasons = counts_text(totals.rejects_by_reason)
        self.problems.append(
            f"{failures} of {plan.num_items} inputs that changed are rejects now ({reasons}), more than "
            f"selection.max_reject_fraction = {fraction} allows, so that the rows from before were left in place; "
            "raise the limit and run again to give them up"
        )
        return True

    def _tokenize(self, plan: PlanSummary) -> None:
        """Tokenize the open units of a generation, as its plan selected them."""
        tally = Tally(plan, self.ledger.commits(plan.generation, with_pending=True))
        _check_versions(plan)
        job = dataclasses.replace(self._unit_job(plan), num_units=plan.num_units - len(tally.unit_ids))
        units = OpenUnits(self.storage, plan.generation, committed=tally.unit_ids)
        seconds_left = max(0.0, plan.estimated_seconds - tally.seconds)
        limit = self._reject_limit(plan)
        if tally.failures > limit:
            self._judge(total(self._commits()))
            return
        encoders = self._executor(job, seconds_left=seconds_left)
        self.watch.follow(encoders, self.stop)
        self._tell(tally)
        with encoders as executor, stop_on_signals(self.stop):
            self._tell(tally, message=executor.describe())
            for outcome in executor.run(units, stop=self.stop):
                self._count(outcome, tally)
                if self.lease.lost is not None or tally.failures > limit:
                    self.stop.request()
                    break
        self.ledger.settle(plan.generation)
        if tally.failures > limit:
            self._judge(total(self._commits()))

    def _count(self, outcome: UnitOutcome, tally: Tally) -> None:
        log_outcome(outcome)
        if isinstance(outcome, UnitFailed):
            unit = outcome.unit
            self.problems.append(
                f"unit {unit.part_name} was given up after {outcome.attempts} attempts ({outcome.message}); "
                "run again to try it anew"
            )
            return
        commit = outcome.published.commit
        tally.add(commit)
        self.watch.add(commit)
        self.ledger.add(commit)
        if outcome.published.outcome is Outcome.PUBLISHED:
            self.new_rows += commit.num_rows
            self.new_seconds += commit.audio_seconds
        differing = outcome.published.num_differing
        part = outcome.unit.part_name
        note = f"{differing} rows of {part} had other codes in another attempt" if differing else None
        rejected = name_rejects(outcome)
        if rejected is not None and active_log_format() == "text":  # in JSON logs `unit_committed` has it
            self._tell(tally, message=f"{part} has {count_text(commit.num_rejects, 'reject')}: {rejected}")
        self._tell(tally, message=note)

    def _judge(self, totals: Totals) -> None:
        """Fail the run when too many of the output's items are rejects; what is committed stays, unpublished."""
        failures, fraction = totals.rejects - totals.filtered, self.config.selection.max_reject_fraction
        reasons = counts_text(totals.rejects_by_reason)
        if fraction is not None and failures > fraction * self._num_planned():
            self.problems.append(
                f"{failures} of {self._num_planned()} items are rejects ({reasons}), more than "
                f"selection.max_reject_fraction = {fraction} allows; {self._in_common()}. "
                f"{rejects_command(self.storage.name)} shows them. Raise the limit and run again to go on with them, "
                "or mend the inputs and write to a new output"
            )
        elif totals.rows == 0 and failures:
            self.problems.append(
                f"every item was rejected ({reasons}); {self._in_common()}. "
                f"{rejects_command(self.storage.name)} shows them"
            )

    def _in_common(self) -> str:
        return describe_rejects(self.storage, list(self._commits()))

    def _reject_limit(self, plan: PlanSummary) -> float:
        """Rejects in a generation from which the whole output has too many, whatever is still to come."""
        fraction = self.config.selection.max_reject_fraction
        if fraction is None or plan.takes_over:  # its items are judged when they take the place of the older ones
            return float("inf")
        earlier = total(commit for commit in self._commits() if commit.generation != plan.generation)
        return fraction * self._num_planned() - (earlier.rejects - earlier.filtered)

    def _commits(self) -> Iterator[Commit]:
        yield from self.ledger.commits(*list_generations(self.storage))

    def _num_planned(self) -> int:
        planned = sum(plan.num_items for plan in self._plans() if not plan.takes_over)
        return planned - self.ledger.receipts.num_dropped

    def _plans(self) -> list[PlanSummary]:
        return [read_plan_summary(self.storage, generation) for generation in list_generations(self.storage)]

    def _unit_job(self, plan: PlanSummary) -> UnitJob:
        selection = plan.read_selection()
        # The job file's own source opens the items where it is of the same kind: signed URLs of an old plan expire,
        # and the plan holds none.
        asked = self.config.selection.source
        source = asked if asked.kind == selection.source.kind else selection.source
        return UnitJob(
            output=self.storage.url,
            run_id=self.run_id,
            recipe_id=self.recipe.recipe_id,
            weights_sha256=self.facts.weights_sha256,
            source=source,
            target=AudioTarget.for_codec(self.facts, audio=self.config.recipe.audio, filters=selection.filters),
            metadata={key.encode(): value.encode() for key, value in plan.file_metadata.items()},
            user_schema=read_user_schema(self.storage, plan.generation),
            shard_format=selection.shards.format,
            batch_seconds=self.config.runtime.batch_seconds,
            takes_over=plan.takes_over,
            limits=DecodeLimits.of(self.config.runtime),
        )

    def _executor(self, job: UnitJob, *, seconds_left: float) -> Executor:
        if self.make_executor is not None:
            return self.make_executor(job)
        if uses_ray(self.config, seconds_left=seconds_left):
            with uncollected():
                from tokenizer_jobs.cluster import RayExecutor  # Ray takes half a second to import
            return RayExecutor(job, codec_recipe=self.config.recipe.codec, runtime=self.config.runtime)
        with uncollected():
            from tokenizer_jobs.encoding import choose_device, make_codec  # torch takes seconds, and encodes here alone
        device = choose_device(self.config.runtime.device)
        return InlineExecutor(
            job,
            load_codec=partial(make_codec, self.config.recipe.codec, device=device),
            storage=self.storage,
            device=device,
            encoders=self.config.runtime.encoders,
        )

    def _publish(self) -> None:
        if list_generations(self.storage):
            snapshot = publish_snapshot(
                self.storage,
                recipe_id=self.recipe.recipe_id,
                commits=self._commits(),
                receipts=self.ledger.receipts,
            )
            publish_card(self.storage, snapshot)
            generations = list_generations(self.storage)
            commits = self.ledger.commits(*generations, with_pending=True)
            sweep_orphans(self.storage, commits=commits, still_ours=self._may_go_on)

    def _tell(self, tally: Tally | None, *, message: str | None = None) -> None:
        counts = {} if tally is None else tally.counts()
        seconds = time.monotonic() - self.started
        self.report(Progress(**counts, elapsed_seconds=seconds, message=message, watch=self.watch))

    def _result(self) -> RunResult:
        plans, totals = self._plans(), total(self._commits())
        newest = newest_snapshot(self.storage)
        return RunResult(
            **{
                **summary_fields(totals),
                "units_committed": sum(self.ledger.num_committed(plan.generation) for plan in plans),
            },
            output=self.storage.name,
            items=self._num_planned(),
            units=sum(plan.num_units for plan in plans),
            snapshot=None if newest is None else newest.number,
            problems=self.problems,
            stopped=self.stop.requested and not self.problems,
            new_rows=self.new_rows,
            new_hours=self.new_seconds / 3600,
            elapsed_seconds=time.monotonic() - self.started,
            rejects_by_reason=dict(totals.rejects_by_reason),
            generations=len(plans),
            recipe_id=self.recipe.recipe_id,
            codec=self.facts.name,
            dropped=self.ledger.receipts.num_dropped,
            changed=self.grown.changed,
            vanished=self.grown.vanished,
            changed_ids=list(self.grown.changed_ids),
            vanished_ids=list(self.grown.vanished_ids),
        )


def _codec_line(facts: CodecFacts) -> str:
    return f"codec {facts.name}, {count_text(facts.num_codebooks, 'codebook')} at {facts.bandwidth_kbps:g} kbps"


def _check_versions(plan: PlanSummary) -> None:
    now = decoder_versions()
    different = [
        f"{name} {plan.decoder_versions.get(name, 'absent')} then, {now.get(name, 'absent')} now"
        for name in sorted({*plan.decoder_versions, *now})
        if plan.decoder_versions.get(name) != now.get(name)
    ]
    if different:
        raise ConfigError(
            f"generation {plan.generation} was begun with other decoders ({'; '.join(different)}), which may "
            "give other samples; install those versions to finish it, or start a new output"
        )
