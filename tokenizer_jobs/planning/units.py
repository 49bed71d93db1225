"""Cut items into work units by estimated cost, and tell what is new: pure functions of their arguments."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import Item, WorkUnit

__all__ = ["Comparison", "Version", "compare_with_known", "duplicate_ids", "plan_units"]

AUTO_UNITS = 1024
SHORTEST_AUTO_UNIT_SECONDS = 2 * 60.0
LONGEST_AUTO_UNIT_SECONDS = 24 * 3600.0
LEAST_ITEM_SECONDS = 0.1
"""What opening an item costs at least, so that a million items of unknown length are not one unit."""

Version = tuple[int | None, str | None]
"""Size in bytes and etag of an input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A listing set against what the output has already."""

    new: tuple[Item, ...]
    changed: tuple[Item, ...]
    """Known by id, with another size or etag."""
    unchanged: tuple[Item, ...]
    vanished: tuple[str, ...]
    """Known ids that are not listed, sorted."""


def duplicate_ids(items: Iterable[Item]) -> tuple[str, ...]:
    """Ids that more than one item has, sorted."""
    return tuple(sorted(item_id for item_id, count in Counter(item.id for item in items).items() if count > 1))


def compare_with_known(items: Sequence[Item], known: Mapping[str, Version]) -> Comparison:
    """Split a listing into new, changed and unchanged items, and name what has vanished.

    An input has changed when its size or its etag is known on both sides and differs.

    Raises:
        ConfigError: ids that are not unique.
    """
    _refuse_duplicates(items)
    new, changed, unchanged = [], [], []
    for item in sorted(items, key=_plan_order):
        if item.id not in known:
            new.append(item)
        elif _differs(item.source_size, known[item.id][0]) or _differs(item.source_etag, known[item.id][1]):
            changed.append(item)
        else:
            unchanged.append(item)
    vanished = known.keys() - {item.id for item in items}
    return Comparison(
        new=tuple(new), changed=tuple(changed), unchanged=tuple(unchanged), vanished=tuple(sorted(vanished))
    )


def plan_units(
    items: Iterable[Item], *, generation: int, recipe_id: str, unit_minutes: float | str
) -> Iterator[WorkUnit]:
    """Cut items into work units: sorted by where they lie, each unit up to the target cost, each item once.

    A pure function: the order of `items` makes no difference. An item longer than the target is a unit of its own.

    Args:
        items: What to plan.
        generation: Number of the plan.
        recipe_id: Enters every unit's id.
        unit_minutes: Target in minutes of audio; `auto`: the total / 1024, kept between 2 minutes and 24 hours.

    Raises:
        ConfigError: ids that are not unique.
    """
    ordered = sorted(items, key=_plan_order)
    _refuse_duplicates(ordered)
    for index, unit_items in enumerate(_cut(ordered, _target_seconds(ordered, unit_minutes))):
        unit_id = _unit_id(unit_items, recipe_id=recipe_id)
        yield WorkUnit(generation=generation, index=index, unit_id=unit_id, items=unit_items)


def _plan_order(item: Item) -> tuple[str, str, int, str]:
    return item.source_uri, item.source_member or "", item.source_row or 0, item.id


def _refuse_duplicates(items: Sequence[Item]) -> None:
    duplicates = duplicate_ids(items)
    if duplicates:
        shown = ", ".join(repr(item_id) for item_id in duplicates[:5])
        more = f" and {len(duplicates) - 5} more" if len(duplicates) > 5 else ""
        raise ConfigError(
            f"ids are not unique: {shown}{more}; every item of selection.source needs an id of its own, "
            "so rename them in the source"
        )


def _differs(now: object, before: object) -> bool:
    return now is not None and before is not None and now != before


def _cost(item: Item) -> float:
    seconds = item.estimated_seconds
    return max(LEAST_ITEM_SECONDS, seconds) if math.isfinite(seconds) else LEAST_ITEM_SECONDS


def _target_seconds(items: Sequence[Item], unit_minutes: float | str) -> float:
    if not isinstance(unit_minutes, str):
        return unit_minutes * 60
    total = math.fsum(_cost(item) for item in items)
    return min(max(total / AUTO_UNITS, SHORTEST_AUTO_UNIT_SECONDS), LONGEST_AUTO_UNIT_SECONDS)


def _cut(items: Iterable[Item], target_seconds: float) -> Iterator[tuple[Item, ...]]:
    unit: list[Item] = []
    seconds = 0.0
    for item in items:
        if unit and seconds + _cost(item) > target_seconds:
            yield tuple(unit)
            unit, seconds = [], 0.0
        unit.append(item)
        seconds += _cost(item)
    if unit:
        yield tuple(unit)


def _unit_id(items: Iterable[Item], *, recipe_id: str) -> str:
    contents = [
        [item.id, item.source_uri, item.source_member, item.source_row, item.source_size, item.source_etag]
        for item in items
    ]
    canonical = json.dumps([recipe_id, contents], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
