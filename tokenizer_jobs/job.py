"""A whole run: claim the output, finish what was begun, plan what is new, tokenize it, publish a snapshot.

    lease ─▶ recipe ─▶ open generation? tokenize it ─▶ list, plan what is new ─▶ tokenize ─▶ snapshot ─▶ sweep

A run that dies at any of these arrows is resumed by the next: every step is either repeated harmlessly or found done.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tokenizer_jobs.accounting import Totals, total
from tokenizer_jobs.breadcrumbs import Breadcrumbs
from tokenizer_jobs.catalog import newest_snapshot, publish_snapshot, sweep_orphans
from tokenizer_jobs.commits import Commit, Outcome
from tokenizer_jobs.config import JobConfig, Selection
from tokenizer_jobs.decode import AudioTarget, decoder_versions
from tokenizer_jobs.encoding import choose_device, describe_codec, load_codec
from tokenizer_jobs.errors import ConfigError, OutputBusyError
from tokenizer_jobs.executors import Executor, InlineExecutor, UnitFailed, UnitOutcome
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.ledger import Ledger
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.pipeline import UnitJob
from tokenizer_jobs.planning import (
    PlanFacts,
    PlanSummary,
    compare_with_known,
    known_items,
    list_generations,
    plan_units,
    read_plan_summary,
    read_units,
    read_user_schema,
    write_plan,
)
from tokenizer_jobs.recipe import CodecFacts, ResolvedRecipe, file_metadata, store_recipe
from tokenizer_jobs.results import Progress, RunResult, summary_fields
from tokenizer_jobs.schema import row_schema
from tokenizer_jobs.sources import make_source, public_source
from tokenizer_jobs.stopping import StopRequest, stop_on_signals
from tokenizer_jobs.storage import Storage

__all__ = ["Report", "run"]

RAY_PAYS_SECONDS = 600.0
"""Audio left from which `executor: auto` starts Ray on a machine with several CPUs: Ray itself takes 5 to 10 s."""

Report = Callable[[Progress], None]
MakeExecutor = Callable[[UnitJob], Executor]


def run(config: JobConfig, *, report: Report | None = None, executor: MakeExecutor | None = None) -> RunResult:
    """Bring an output up to date with its source.

    Args:
        config: The job.
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
    storage = Storage.open(config.output)
    facts = describe_codec(config.recipe.codec)
    recipe = ResolvedRecipe.resolve(config.recipe, facts)
    with Lease(storage, run_id := uuid.uuid4().hex[:12]) as lease:
        store_recipe(storage, recipe)
        return _Run(
            config=config,
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
    changed: int = 0
    vanished: int = 0
    problems: list[str] = field(default_factory=list)

    def execute(self) -> RunResult:
        """Take the steps drawn at the top of this module."""
        self._tell(None, message=_codec_line(self.facts))
        generations = list_generations(self.storage)
        for generation in generations:
            # All of them: a commit of an old generation may have been removed on the advice of `verify`.
            plan = read_plan_summary(self.storage, generation)
            if self.ledger.num_committed(generation) < plan.num_units and self._may_go_on():
                self._tokenize(plan)
        if self._may_go_on():
            grown = self._plan_what_is_new(generations)
            if grown is not None:
                self._tokenize(grown)
        if self._may_go_on():
            self._judge(total(self._commits()))
        if self._may_go_on():
            self._publish()
        return self._result()

    def _may_go_on(self) -> bool:
        if self.lease.lost is not None:
            raise OutputBusyError(f"this run lost the output {self.storage.name!r}: {self.lease.lost}")
        return not self.stop.requested and not self.problems

    def _plan_what_is_new(self, generations: tuple[int, ...]) -> PlanSummary | None:
        selection, source = self.config.selection, make_source(self.config.selection.source)
        listing = source.list()
        row_schema(listing.user_schema)  # a clash of names is refused before anything is planned
        listed = ItemTable.of(listing.items, user_schema=listing.user_schema)
        comparison = compare_with_known(listed, known_items(self.storage, generations))
        self.changed, self.vanished = len(comparison.changed), comparison.num_vanished
        if not comparison.new:
            return None
        generation = max(generations, default=0) + 1
        newest = newest_snapshot(self.storage)
        units = plan_units(
            comparison.new,
            generation=generation,
            recipe_id=self.recipe.recipe_id,
            unit_minutes=selection.shards.unit_minutes,
        )
        plan_facts = PlanFacts(
            generation=generation,
            recipe_id=self.recipe.recipe_id,
            selection=_public_selection(selection),
            base_snapshot=None if newest is None else newest.number,
            skipped=dict(listing.skipped),
            num_unchanged=len(comparison.unchanged),
            num_changed=self.changed,
            num_vanished=self.vanished,
            decoder_versions=(versions := decoder_versions()),
            file_metadata=self._file_metadata(versions, user_schema=listing.user_schema),
        )
        self._may_go_on()  # the listing may have taken hours: not under a lease that was lost meanwhile
        return write_plan(self.storage, units, facts=plan_facts, user_schema=listing.user_schema)

    def _tokenize(self, plan: PlanSummary) -> None:
        """Tokenize the open units of a generation, as its plan selected them."""
        tally = _Tally(plan, self.ledger.commits(plan.generation))
        _check_versions(plan)
        job = self._unit_job(plan)
        units = (unit for unit in read_units(self.storage, plan.generation) if unit.unit_id not in tally.unit_ids)
        seconds_left = max(0.0, plan.estimated_seconds - tally.seconds)
        limit = self._reject_limit(plan)
        if tally.failures > limit:
            self._judge(total(self._commits()))
            return
        with self._executor(job, seconds_left=seconds_left) as executor, stop_on_signals(self.stop):
            self._tell(tally, message=executor.describe())
            for outcome in executor.run(units, stop=self.stop):
                self._count(outcome, tally)
                if self.lease.lost is not None or tally.failures > limit:
                    self.stop.request()
                    break
        self.ledger.settle(plan.generation)
        if tally.failures > limit:
            self._judge(total(self._commits()))

    def _count(self, outcome: UnitOutcome, tally: "_Tally") -> None:
        if isinstance(outcome, UnitFailed):
            unit = outcome.unit
            self.problems.append(
                f"unit {unit.part_name} was given up after {outcome.attempts} attempts ({outcome.message}); "
                "run again to try it anew"
            )
            return
        commit = outcome.published.commit
        tally.add(commit)
        self.ledger.add(commit)
        if outcome.published.outcome is Outcome.PUBLISHED:
            self.new_rows += commit.num_rows
            self.new_seconds += commit.audio_seconds
        differing = outcome.published.num_differing
        note = f"{differing} rows of {outcome.unit.part_name} had other codes in another attempt" if differing else None
        self._tell(tally, message=note)

    def _judge(self, totals: Totals) -> None:
        """Fail the run when too many of the output's items are rejects; what is committed stays, unpublished."""
        failures, fraction = totals.rejects - totals.filtered, self.config.selection.max_reject_fraction
        reasons = ", ".join(f"{reason} {count}" for reason, count in totals.rejects_by_reason.items())
        if fraction is not None and failures > fraction * self._num_planned():
            self.problems.append(
                f"{failures} of {self._num_planned()} items are rejects ({reasons}), more than "
                f"selection.max_reject_fraction = {fraction} allows; look into rejects/, then raise the limit and run "
                "again to go on with them, or mend the inputs and write to a new output"
            )
        elif totals.rows == 0 and failures:
            self.problems.append(f"every item was rejected ({reasons}); look into rejects/")

    def _reject_limit(self, plan: PlanSummary) -> float:
        """Rejects in a generation from which the whole output has too many, whatever is still to come."""
        fraction = self.config.selection.max_reject_fraction
        if fraction is None:
            return float("inf")
        earlier = total(commit for commit in self._commits() if commit.generation != plan.generation)
        return fraction * self._num_planned() - (earlier.rejects - earlier.filtered)

    def _commits(self) -> Iterator[Commit]:
        yield from self.ledger.commits(*list_generations(self.storage))

    def _num_planned(self) -> int:
        return sum(plan.num_items for plan in self._plans())

    def _plans(self) -> list[PlanSummary]:
        return [read_plan_summary(self.storage, generation) for generation in list_generations(self.storage)]

    def _file_metadata(self, versions: dict[str, str], *, user_schema: pa.Schema) -> dict[str, str]:
        metadata = file_metadata(self.recipe, self.facts, versions, schema=row_schema(user_schema))
        return {key.decode(): value.decode() for key, value in metadata.items()}

    def _unit_job(self, plan: PlanSummary) -> UnitJob:
        selection = Selection.model_validate(plan.selection)
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
        )

    def _executor(self, job: UnitJob, *, seconds_left: float) -> Executor:
        if self.make_executor is not None:
            return self.make_executor(job)
        if _uses_ray(self.config, seconds_left=seconds_left):
            from tokenizer_jobs.cluster import RayExecutor  # Ray takes half a second to import

            return RayExecutor(job, codec_recipe=self.config.recipe.codec, runtime=self.config.runtime)
        device = choose_device(self.config.runtime.device)
        return InlineExecutor(
            job,
            codec=load_codec(self.config.recipe.codec, device=device),
            storage=self.storage,
            breadcrumbs=Breadcrumbs(self.storage.url),
            device=device,
            encoders=self.config.runtime.encoders,
        )

    def _publish(self) -> None:
        if list_generations(self.storage):
            publish_snapshot(self.storage, recipe_id=self.recipe.recipe_id, commits=self._commits())
            sweep_orphans(self.storage, commits=self._commits())

    def _tell(self, tally: "_Tally | None", *, message: str | None = None) -> None:
        elapsed_seconds = time.monotonic() - self.started
        if tally is None:
            self.report(Progress(elapsed_seconds=elapsed_seconds, message=message))
            return
        self.report(
            Progress(
                units=tally.plan.num_units,
                units_committed=len(tally.unit_ids),
                items=tally.plan.num_items,
                rows=tally.rows,
                rejects=tally.rejects,
                hours_done=tally.seconds / 3600,
                hours_total=tally.plan.estimated_seconds / 3600,
                elapsed_seconds=elapsed_seconds,
                message=message,
            )
        )

    def _result(self) -> RunResult:
        plans, totals = self._plans(), total(self._commits())
        newest = newest_snapshot(self.storage)
        return RunResult(
            **summary_fields(totals),
            output=self.storage.name,
            items=sum(plan.num_items for plan in plans),
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
            changed=self.changed,
            vanished=self.vanished,
        )


class _Tally:
    """Counts over the committed units of one generation, added to as units end."""

    def __init__(self, plan: PlanSummary, commits: Iterable[Commit]) -> None:
        self.plan = plan
        self.unit_ids: set[str] = set()
        self.rows = self.rejects = self.filtered = 0
        self.seconds = 0.0
        for commit in commits:
            self.add(commit)

    def add(self, commit: Commit) -> None:
        """Count one more unit."""
        if commit.unit_id in self.unit_ids:
            return
        self.unit_ids.add(commit.unit_id)
        self.rows += commit.num_rows
        self.rejects += commit.num_rejects
        self.filtered += commit.num_filtered
        self.seconds += commit.audio_seconds

    @property
    def failures(self) -> int:
        """Rejects that no filter asked for."""
        return self.rejects - self.filtered


def _public_selection(selection: Selection) -> dict[str, Any]:
    """The selection as the plan keeps it: without the query strings and passwords of URLs."""
    return selection.model_dump(mode="json") | {"source": public_source(selection.source)}


def _codec_line(facts: CodecFacts) -> str:
    return f"codec {facts.name}, {facts.num_codebooks} codebooks at {facts.bandwidth_kbps:g} kbps"


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


def _uses_ray(config: JobConfig, *, seconds_left: float) -> bool:
    runtime = config.runtime
    if runtime.executor != "auto":
        return runtime.executor == "ray"
    named = runtime.ray_address != "auto" or "RAY_ADDRESS" in os.environ or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return named or (available_cpus() > 1 and seconds_left > RAY_PAYS_SECONDS)
