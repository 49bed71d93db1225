"""What a run of a job would do, from a listing and headers alone."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.accounting import total
from tokenizer_jobs.catalog import newest_snapshot
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.config import Filters, JobConfig
from tokenizer_jobs.dry_run.calibration import Workload, calibrate, gpus_in_use, seconds_on
from tokenizer_jobs.dry_run.costs import UnitWork
from tokenizer_jobs.dry_run.headers import ReadHeaders, measured_seconds, read_headers, summarize_headers
from tokenizer_jobs.dry_run.pricing import PriceList, machine_costs
from tokenizer_jobs.dry_run.warm_up import trial_seconds
from tokenizer_jobs.encoding import make_codec
from tokenizer_jobs.errors import ConfigError, RejectReason
from tokenizer_jobs.growth import EXAMPLES, Planning
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.planning import (
    Comparison,
    KnownItems,
    Selected,
    compare_with_known,
    duplicate_ids,
    known_ids,
    known_items,
    list_generations,
    plan_units,
    read_plan_summary,
    select_new,
)
from tokenizer_jobs.receipts import dropped_items, read_receipts
from tokenizer_jobs.recipe import RECIPE_PATH, CodecFacts, ResolvedRecipe, read_recipe
from tokenizer_jobs.results import Calibration, MachineCost, PlanResult, summary_fields
from tokenizer_jobs.sources import Listing, Source, list_names, make_source
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.wording import count_text

__all__ = ["plan"]


def plan(config: JobConfig, *, calibrated: bool = False, prices: PriceList | None = None) -> PlanResult:
    """Say what a run of the job would do.

    Args:
        config: The job.
        calibrated: Whether to do about a minute of the job, on a temporary output, and predict its duration.
        prices: Of machines, for the job's cost; they imply `calibrated`.

    Raises:
        ConfigError: the run would be refused: a source that cannot be listed, a codec that cannot be loaded,
            an output with another recipe. What can be told beside the rest is one of the result's `problems`.
    """
    storage = Storage.at(config.output)
    codec = make_codec(config.recipe.codec, device=config.runtime.device)
    facts = codec.describe()
    recipe = ResolvedRecipe.resolve(config.recipe, facts)
    problems = _recipe_problems(storage, recipe)
    begin = time.monotonic()
    source = make_source(config.selection.source)
    listing, estimated = list_names(source)
    planning = Planning(
        storage=storage, selection=config.selection, recipe=recipe, facts=facts, still_ours=lambda: None
    )
    listed, duplicates = _unique(_fitted(planning, listing, problems=problems))
    if duplicates:
        problems.append(
            f"{count_text(len(duplicates), 'id')} stand for more than one item each, such as {duplicates[0]!r}; "
            "every item needs one of its own: rename them, or take the doubled ones out of the source"
        )
    generations = list_generations(storage)
    known = known_items(storage, generations)
    comparison, selected = _choose(config, listed, storage, generations, known=known, source=source, problems=problems)
    selected = replace(selected, items=estimated(selected.items))
    sizes = _unit_sizes(selected.items, config, generation=max(generations, default=0) + 1, recipe_id=recipe.recipe_id)
    listing_seconds = time.monotonic() - begin
    headers = read_headers(source, selected.items)
    seconds = measured_seconds(selected.items, headers)
    units = _work(sizes, seconds)
    encode_seconds = trial_seconds(codec)
    calibration, costs = None, list[MachineCost]()
    if (calibrated or prices is not None) and not problems:
        work = Workload(
            config=config,
            facts=facts,
            source=source,
            items=selected.items.with_seconds(seconds),
            units=units,
            listing_seconds=listing_seconds,
            encode_seconds=encode_seconds,
        )
        calibration = calibrate(work)
        costs = [] if prices is None else _costs(prices, work, calibration)
    return PlanResult(
        **_output_fields(storage, generations, new_items=len(selected.items), new_units=len(units)),
        **_listing_fields(listing, comparison, selected),
        changed_ids=[item.id for item in comparison.changed[:EXAMPLES]],
        vanished_ids=list(known_ids(storage, known, comparison.is_vanished, at_most=EXAMPLES)),
        **_audio_fields(
            config, facts, items=selected.items, seconds=seconds, headers=headers, encode_seconds=encode_seconds
        ),
        problems=problems,
        duplicate_ids=list(duplicates),
        unit_minutes=sum(unit.audio_seconds for unit in units) / 60 / len(units) if units else 0.0,
        calibration=calibration,
        costs=costs,
    )


def _recipe_problems(storage: Storage, recipe: ResolvedRecipe) -> list[str]:
    if not storage.exists(RECIPE_PATH):
        return []
    stored = read_recipe(storage)
    if stored.recipe_id == recipe.recipe_id:
        return []
    difference = "; ".join(stored.difference(recipe))
    return [f"output {storage.name!r} has another recipe ({difference}); choose another output or the stored values"]


def _fitted(planning: Planning, listing: Listing, *, problems: list[str]) -> ItemTable:
    """The items with the user columns of the output; as they are, where these clash, which is a problem."""
    try:
        return planning.fitted(listing)
    except ConfigError as error:
        problems.append(str(error))
        return ItemTable.of(listing.items, user_schema=listing.user_schema)


def _unique(listed: ItemTable) -> tuple[ItemTable, Sequence[str]]:
    """The items whose ids are unique, and the ids that are not."""
    duplicates = duplicate_ids(listed)
    if not duplicates:
        return listed, ()
    doubled = pa.array(duplicates)
    masks = [~np.asarray(pa.compute.is_in(batch.column(0), doubled)) for batch in listed.batches(["id"])]
    return listed.where(np.concatenate(masks).astype(np.bool_)), duplicates


def _choose(
    config: JobConfig,
    listed: ItemTable,
    storage: Storage,
    generations: tuple[int, ...],
    *,
    known: KnownItems,
    source: Source,
    problems: list[str],
) -> tuple[Comparison, Selected]:
    """What is new and selected; a selection that leaves nothing is a problem."""
    known = known_items(storage, generations)
    dropped = dropped_items(storage, read_receipts(storage))
    comparison = compare_with_known(listed, known, dropped=sorted(dropped))
    try:
        selected = select_new(
            comparison.new,
            selection=config.selection,
            num_known=len(known),
            storage=storage,
            generations=generations,
            open_item=source.open,
        )
    except ConfigError as error:
        problems.append(str(error))
        selected = Selected(items=comparison.new.where(np.zeros(len(comparison.new), np.bool_)), left_out={})
    return comparison, selected


def _unit_sizes(items: ItemTable, config: JobConfig, *, generation: int, recipe_id: str) -> list[int]:
    """Items of each unit, cut as the run cuts them: by the estimates of the listing."""
    units = plan_units(
        items, generation=generation, recipe_id=recipe_id, unit_minutes=config.selection.shards.unit_minutes
    )
    return [len(unit.items) for unit in units]


def _work(sizes: Sequence[int], seconds: npt.NDArray[np.float64]) -> list[UnitWork]:
    """Units of so many neighbouring items, which last `seconds`."""
    ends = np.cumsum(np.array(sizes, np.int64)).tolist()
    return [
        UnitWork(items=size, audio_seconds=math.fsum(seconds[end - size : end].tolist()))
        for size, end in zip(sizes, ends, strict=True)
    ]


def _costs(prices: PriceList, work: Workload, calibration: Calibration) -> list[MachineCost]:
    return machine_costs(
        prices,
        cores=available_cpus(),
        gpus=gpus_in_use(calibration, work),
        seconds_on=lambda cores, gpus: seconds_on(work, calibration, cores=cores, gpus=gpus),
    )


def _output_fields(
    storage: Storage, generations: tuple[int, ...], *, new_items: int, new_units: int
) -> dict[str, object]:
    receipts = read_receipts(storage)
    totals = total(
        commit for generation in generations for commit in read_commits(storage, generation, receipts=receipts)
    )
    plans = [read_plan_summary(storage, generation) for generation in generations]
    newest = newest_snapshot(storage)
    fields = summary_fields(totals)
    del fields["hours"]  # of a plan they are those of the audio that is new
    return {
        **fields,
        "output": storage.name,
        "items": new_items + sum(known.num_items for known in plans if not known.takes_over) - receipts.num_dropped,
        "dropped": receipts.num_dropped,
        "units": new_units + sum(known.num_units for known in plans),
        "snapshot": None if newest is None else newest.number,
        "new_items": new_items,
    }


def _listing_fields(listing: Listing, comparison: Comparison, selected: Selected) -> dict[str, object]:
    return {
        "unchanged_items": len(comparison.unchanged),
        "changed_items": len(comparison.changed),
        "vanished_items": comparison.num_vanished,
        "missing_files": listing.num_missing,
        "missing_ids": list(listing.missing_ids),
        "skipped": {**listing.skipped, **selected.left_out},
    }


def _audio_fields(
    config: JobConfig,
    facts: CodecFacts,
    *,
    items: ItemTable,
    seconds: npt.NDArray[np.float64],
    headers: ReadHeaders,
    encode_seconds: float,
) -> dict[str, object]:
    filters = config.selection.filters
    by_length = _rejected_by_length(items, seconds, filters)
    passed = ~np.logical_or.reduce(list(by_length.values()))
    found = summarize_headers(headers, seconds=seconds, min_sample_rate=filters.min_sample_rate, judged=passed)
    filtered = {str(reason): int(mask.sum()) for reason, mask in by_length.items()}
    filtered[str(RejectReason.LOW_SAMPLE_RATE)] = round(found.low_rate_share * int(passed.sum()))
    kept = float(seconds[passed].sum()) * (1 - found.low_rate_share)
    rows = found.mean_channels if config.recipe.audio.channels == "each" else 1.0
    codes = round(kept * rows * facts.frame_rate) * facts.num_codebooks
    longest = int(seconds.argmax()) if len(seconds) else None
    return {
        "hours": float(seconds.sum()) / 3600,
        "longest_id": None if longest is None else items[longest].id,
        "longest_seconds": 0.0 if longest is None else float(seconds[longest]),
        "expected_filtered": {reason: count for reason, count in filtered.items() if count},
        "formats": found.formats,
        "sample_rates": found.sample_rates,
        "channels": found.channels,
        "hours_by_format": found.hours_by_format,
        "hours_by_sample_rate": found.hours_by_sample_rate,
        "hours_by_channels": found.hours_by_channels,
        "unreadable_headers": found.unreadable,
        "headers_read": found.looked_at,
        "expected_codes": codes,
        "expected_bytes": _expected_bytes(codes, facts),
        "expected_seconds": kept * rows * encode_seconds,
    }


def _rejected_by_length(
    items: ItemTable, seconds: npt.NDArray[np.float64], filters: Filters
) -> dict[RejectReason, npt.NDArray[np.bool_]]:
    """Items `[len(items)]` that will be rejects before their rate is looked at."""
    columns = [batch.column(0).is_valid().to_numpy(zero_copy_only=False) for batch in items.batches(["duplicate_of"])]
    is_duplicate = np.concatenate([np.zeros(0, np.bool_), *columns])
    least = 0.0 if filters.min_seconds is None else filters.min_seconds
    most = math.inf if filters.max_seconds is None else filters.max_seconds
    return {
        RejectReason.DUPLICATE: is_duplicate,
        RejectReason.TOO_SHORT: ~is_duplicate & (seconds < least),
        RejectReason.TOO_LONG: ~is_duplicate & (seconds > most),
    }


def _expected_bytes(codes: int, facts: CodecFacts) -> int:
    # Dictionary encoding packs codes to their bits; levels, the dictionary and the other columns add about 3 %.
    return round(codes * math.log2(facts.codebook_size) / 8 * 1.03)
