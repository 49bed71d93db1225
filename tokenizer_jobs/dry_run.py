"""The dry run: what a run would do, from a listing and headers alone; nothing is written."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.accounting import total
from tokenizer_jobs.catalog import newest_snapshot
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.encoding import Codec, load_codec
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import (
    compare_with_known,
    duplicate_ids,
    known_items,
    list_generations,
    plan_units,
    read_plan_summary,
)
from tokenizer_jobs.recipe import RECIPE_PATH, CodecFacts, ResolvedRecipe, read_recipe
from tokenizer_jobs.records import Item
from tokenizer_jobs.results import PlanResult, summary_fields
from tokenizer_jobs.sources import HeaderFacts, Source, make_source, probe
from tokenizer_jobs.storage import Storage

__all__ = ["plan"]

HEADER_THREADS = 8
MOST_HEADERS = 20_000
"""Read by one dry run: of more items than that, every second, third, ... one."""
TRIAL_SECONDS, TRIAL_ITEMS = 2, 4
"""Noise that is encoded once to learn the speed of this machine; after as much again to warm up."""


def plan(config: JobConfig) -> PlanResult:
    """Say what a run of the job would do.

    Raises:
        ConfigError: the run would be refused: a source that cannot be listed, a codec that cannot be loaded,
            an output with another recipe.
    """
    storage = Storage.at(config.output)
    codec = load_codec(config.recipe.codec, device=config.runtime.device)
    facts = codec.describe()
    recipe = ResolvedRecipe.resolve(config.recipe, facts)
    problems = _recipe_problems(storage, recipe)
    source = make_source(config.selection.source)
    listing = source.list()
    listed = ItemTable.of(listing.items, user_schema=listing.user_schema)
    duplicates = duplicate_ids(listed)
    if duplicates:
        listed = listed.where(~_have_ids(listed, duplicates))
    generations = list_generations(storage)
    comparison = compare_with_known(listed, known_items(storage, generations))
    if duplicates:
        problems.append(f"{len(duplicates)} ids are not unique, such as {duplicates[0]!r}; rename them in the source")
    headers = _read_headers(source, comparison.new)
    units = plan_units(
        comparison.new,
        generation=max(generations, default=0) + 1,
        recipe_id=recipe.recipe_id,
        unit_minutes=config.selection.shards.unit_minutes,
    )
    num_units = sum(1 for _ in units)
    seconds = sum(item.estimated_seconds for item in comparison.new)
    codes = round(seconds * facts.frame_rate) * facts.num_codebooks
    totals = total(commit for generation in generations for commit in read_commits(storage, generation))
    plans = [read_plan_summary(storage, generation) for generation in generations]
    newest = newest_snapshot(storage)
    return PlanResult(
        **{**summary_fields(totals), "hours": seconds / 3600},
        output=storage.name,
        items=len(comparison.new) + sum(known.num_items for known in plans),
        units=num_units + sum(known.num_units for known in plans),
        snapshot=None if newest is None else newest.number,
        problems=problems,
        new_items=len(comparison.new),
        unchanged_items=len(comparison.unchanged),
        changed_items=len(comparison.changed),
        vanished_items=comparison.num_vanished,
        duplicate_ids=list(duplicates),
        skipped=dict(listing.skipped),
        formats=headers.formats,
        sample_rates=headers.sample_rates,
        channels=headers.channels,
        unreadable_headers=headers.unreadable,
        headers_read=headers.looked_at,
        unit_minutes=seconds / 60 / num_units if num_units else 0.0,
        expected_codes=codes,
        expected_bytes=_expected_bytes(codes, facts),
        expected_seconds=seconds * _seconds_per_audio_second(codec, facts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Headers:
    formats: dict[str, int]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    unreadable: int
    looked_at: int


def _recipe_problems(storage: Storage, recipe: ResolvedRecipe) -> list[str]:
    if not storage.exists(RECIPE_PATH):
        return []
    stored = read_recipe(storage)
    if stored.recipe_id == recipe.recipe_id:
        return []
    difference = "; ".join(stored.difference(recipe))
    return [f"output {storage.name!r} has another recipe ({difference}); choose another output or the stored values"]


def _have_ids(items: ItemTable, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
    wanted = frozenset(ids)
    return np.fromiter((item.id in wanted for item in items), np.bool_, len(items))


def _read_headers(source: Source, items: ItemTable) -> _Headers:
    step = -(-len(items) // MOST_HEADERS) or 1

    def look(item: Item) -> HeaderFacts | None:
        return probe(source, item)

    with ThreadPoolExecutor(HEADER_THREADS) as readers:
        found = list(readers.map(look, items.where(np.arange(len(items)) % step == 0)))
    known = [header for header in found if header is not None]
    return _Headers(
        formats=dict(Counter(header.format for header in known).most_common()),
        sample_rates=dict(Counter(header.sample_rate for header in known).most_common()),
        channels=dict(Counter(header.channels for header in known).most_common()),
        unreadable=len(found) - len(known),
        looked_at=len(found),
    )


def _expected_bytes(codes: int, facts: CodecFacts) -> int:
    # Dictionary encoding packs codes to their bits; levels, the dictionary and the other columns add about 3 %.
    return round(codes * math.log2(facts.codebook_size) / 8 * 1.03)


def _seconds_per_audio_second(codec: Codec, facts: CodecFacts) -> float:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (facts.channels, TRIAL_SECONDS * facts.sample_rate))
    waveforms = [noise.astype(np.float32)] * TRIAL_ITEMS
    codec.encode(waveforms)
    start = time.perf_counter()
    codec.encode(waveforms)
    return (time.perf_counter() - start) / (TRIAL_SECONDS * TRIAL_ITEMS)
