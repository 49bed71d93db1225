"""`retry`: rejects tried once more, as the units of a generation that takes their place."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.config import JobConfig, Recipe
from tokenizer_jobs.errors import ConfigError, RejectReason, Stage
from tokenizer_jobs.growth import Grown, Planning
from tokenizer_jobs.item_columns import user_schema_of
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.job import MakeExecutor, Report, execute
from tokenizer_jobs.planning import list_generations, read_item_ids, read_plan_summary, read_units
from tokenizer_jobs.receipts import read_receipts
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.records import Item
from tokenizer_jobs.results import RunResult
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.sources import list_names, make_source
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import did_you_mean

__all__ = ["retry"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which rejects are tried again."""

    reasons: frozenset[str]
    """Empty: every reason."""
    with_filtered: bool

    def takes(self, *, stage: str, reason: str) -> bool:
        """Whether it is one."""
        return (self.with_filtered or stage != Stage.FILTER) and (not self.reasons or reason in self.reasons)


def retry(
    output: str,
    *,
    reasons: Collection[str] = (),
    filtered: bool = False,
    config: JobConfig | None = None,
    report: Report | None = None,
    executor: MakeExecutor | None = None,
) -> RunResult:
    """Try an output's rejects again; a success is a row of a new shard in the next snapshot.

    The source is listed again, since a file that was mended is another version of it; an item that is not listed any
    more is tried as it was planned. What fails again is a reject with the attempts of both.

    Args:
        output: Local path or fsspec URL.
        reasons: Of rejects to try; none: all.
        filtered: Whether those of stage `filter` are tried too.
        config: The job, for its source, its filters and its runtime; None: as the newest plan was made. It is needed
            where the source was given with passwords or signed URLs, which are not stored.
        report: As in `run`.
        executor: As in `run`.

    Raises:
        ConfigError: this is no output, or a reason is none, or the source is stored without what opens it.
        OutputBusyError: another live run holds the output.
        IntegrityError: what is stored contradicts itself.
    """
    unknown = sorted(set(reasons) - {str(reason) for reason in RejectReason})
    if unknown:
        known = ", ".join(str(reason) for reason in RejectReason)
        meant = did_you_mean(unknown[0], map(str, RejectReason))
        raise ConfigError(f"--reason {unknown[0]!r} is no reason of a reject; choose of {known}{meant}")
    storage = Storage.at(output)
    job = stored_job(storage) if config is None else config.model_copy(update={"output": output})
    choice = Choice(reasons=frozenset(reasons), with_filtered=filtered)
    return execute(job, planner=partial(plan_retry, choice=choice), report=report, executor=executor)


def stored_job(storage: Storage) -> JobConfig:
    """The job that an output says it was made by: its recipe, and the selection of its newest plan.

    Raises:
        ConfigError: it has no plan, or its source was given with a password or query string.
    """
    recipe, generations = read_recipe(storage), list_generations(storage)
    if not generations:
        raise ConfigError(f"output {storage.name!r} has no plan yet, so nothing to try again; run its job first")
    plan = read_plan_summary(storage, generations[-1])
    if plan.is_source_stripped:
        raise ConfigError(
            f"the source of output {storage.name!r} was given with a password or a query string, which is never "
            "stored, so that nothing could be opened; pass the job file by --config JOB.yaml (in Python: config=…)"
        )
    selection = plan.read_selection()
    return JobConfig(output=storage.url, recipe=Recipe(codec=recipe.codec, audio=recipe.audio), selection=selection)


def plan_retry(planning: Planning, *, choice: Choice) -> Grown:
    """Plan the chosen rejects as a generation of their own; nothing where there are none."""
    storage = planning.storage
    after = max(list_generations(storage), default=0)
    wanted = frozenset(rejected_ids(storage, choice))
    if not wanted:
        return Grown()
    listing, estimated = list_names(make_source(planning.selection.source))
    listed = planning.fitted(listing)
    is_wanted = np.fromiter(
        (item_id in wanted for batch in listed.batches(["id"]) for item_id in batch.column("id").to_pylist()),
        np.bool_,
        len(listed),
    )
    items = list[Item](estimated(listed.where(is_wanted)))
    items += planned_items(storage, wanted.difference(item.id for item in items))
    schema = user_schema_of(listed.schema)
    return Grown(plans=(planning.write(ItemTable.of(items, user_schema=schema), after=after, cause="retry"),))


def rejected_ids(storage: Storage, choice: Choice) -> Iterator[str]:
    """Ids of the chosen rejects, as receipts have left them."""
    receipts = read_receipts(storage)
    for generation in list_generations(storage):
        for commit in read_commits(storage, generation, receipts=receipts):
            for file in commit.rejects:
                for batch in read_batches(storage, file.path, columns=["id", "stage", "reason"]):
                    columns = (batch.column(name).to_pylist() for name in ("id", "stage", "reason"))
                    for item_id, stage, reason in zip(*columns, strict=True):
                        if choice.takes(stage=stage, reason=reason):
                            yield item_id


def planned_items(storage: Storage, ids: frozenset[str]) -> Iterator[Item]:
    """Items as their newest plan has them."""
    left = set(ids)
    for generation in reversed(list_generations(storage)):
        if not left:
            return
        units = {unit for unit, item_ids in read_item_ids(storage, generation) if not left.isdisjoint(item_ids)}
        for unit in read_units(storage, generation) if units else ():
            for item in unit.items if unit.unit_id in units else ():
                if item.id in left:
                    left.discard(item.id)
                    yield item
