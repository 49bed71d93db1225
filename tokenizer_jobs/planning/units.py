"""Cut items into work units by estimated cost: a pure function of its arguments."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from itertools import groupby

from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning.comparison import refuse_duplicates
from tokenizer_jobs.records import Item, WorkUnit, read_together

__all__ = ["plan_units", "read_together"]

AUTO_UNITS = 1024
SHORTEST_AUTO_UNIT_SECONDS = 2 * 60.0
LONGEST_AUTO_UNIT_SECONDS = 24 * 3600.0
LEAST_ITEM_SECONDS = 0.1
"""What opening an item costs at least, so that a million items of unknown length are not one unit."""


def plan_units(items: ItemTable, *, generation: int, recipe_id: str, unit_minutes: float | str) -> Iterator[WorkUnit]:
    """Cut items into work units in plan order, each unit up to the target cost, each item once.

    Items that are read at once stay together (`read_together`). A recording longer than the target is a unit of its
    own. One unit is in memory at a time.

    Args:
        items: What to plan.
        generation: Number of the plan.
        recipe_id: Enters every unit's id.
        unit_minutes: Target in minutes of audio; `auto`: the total / 1024, kept between 2 minutes and 24 hours.

    Raises:
        ConfigError: ids that are not unique.
    """
    refuse_duplicates(items)
    for index, unit_items in enumerate(_cut(items, _target_seconds(items, unit_minutes))):
        unit_id = _unit_id(unit_items, recipe_id=recipe_id)
        yield WorkUnit(generation=generation, index=index, unit_id=unit_id, items=unit_items)


def _cost(seconds: float) -> float:
    return max(LEAST_ITEM_SECONDS, seconds) if math.isfinite(seconds) else LEAST_ITEM_SECONDS


def _target_seconds(items: ItemTable, unit_minutes: float | str) -> float:
    if not isinstance(unit_minutes, str):
        return unit_minutes * 60
    seconds = (value for batch in items.batches(["estimated_seconds"]) for value in batch.column(0).to_pylist())
    total = math.fsum(map(_cost, seconds))
    return min(max(total / AUTO_UNITS, SHORTEST_AUTO_UNIT_SECONDS), LONGEST_AUTO_UNIT_SECONDS)


def _cut(items: Iterable[Item], target_seconds: float) -> Iterator[tuple[Item, ...]]:
    unit: list[Item] = []
    seconds = 0.0
    for _, group in groupby(items, key=read_together):
        together = tuple(group)
        costs = [_cost(item.estimated_seconds) for item in together]
        if unit and seconds + math.fsum(costs) > target_seconds:
            yield tuple(unit)
            unit, seconds = [], 0.0
        unit.extend(together)
        for cost in costs:
            seconds += cost
    if unit:
        yield tuple(unit)


def _cut_facts(item: Item) -> tuple[float | int | str | None, ...]:
    facts = (item.start_seconds, item.duration_seconds, item.channel, item.duplicate_of)
    return () if facts == (None, None, None, None) else facts


def _unit_id(items: Iterable[Item], *, recipe_id: str) -> str:
    contents = [
        [
            item.id,
            item.source_uri,
            item.source_member,
            item.source_row,
            item.source_size,
            item.source_etag,
            *_cut_facts(item),
        ]
        for item in items
    ]
    canonical = json.dumps([recipe_id, contents], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
