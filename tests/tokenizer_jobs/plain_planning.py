"""Planning written as plainly as it can be, over lists of records: what the planning of tables must equal."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from itertools import groupby

from tokenizer_jobs.records import Item, WorkUnit

Version = tuple[int | None, str | None]


def plain_order(items: Iterable[Item]) -> list[Item]:
    return sorted(items, key=lambda item: (*_recording(item), item.id))


def plain_units(items: Iterable[Item], *, recipe_id: str, unit_minutes: float | str) -> list[WorkUnit]:
    ordered = plain_order(items)
    if isinstance(unit_minutes, str):
        total = math.fsum(_cost(item) for item in ordered)
        target = min(max(total / 1024, 120.0), 24 * 3600.0)
    else:
        target = unit_minutes * 60
    units: list[list[Item]] = []
    seconds = 0.0
    for _, group in groupby(ordered, key=_recording):
        recording = list(group)
        if not units or seconds + math.fsum(map(_cost, recording)) > target:
            units.append([])
            seconds = 0.0
        units[-1] += recording
        for item in recording:
            seconds += _cost(item)
    return [
        WorkUnit(generation=1, index=index, unit_id=_unit_id(unit, recipe_id=recipe_id), items=tuple(unit))
        for index, unit in enumerate(units)
    ]


def plain_comparison(
    items: Iterable[Item], known: Mapping[str, Version]
) -> tuple[list[Item], list[Item], list[Item], set[str]]:
    """New, changed and unchanged items, and the ids that have vanished."""
    ordered = plain_order(items)
    new = [item for item in ordered if item.id not in known]
    old = [item for item in ordered if item.id in known]
    changed = [
        item
        for item in old
        if any(
            now is not None and before is not None and now != before
            for now, before in zip((item.source_size, item.source_etag), known[item.id], strict=True)
        )
    ]
    unchanged = [item for item in old if item not in changed]
    return new, changed, unchanged, known.keys() - {item.id for item in ordered}


def _recording(item: Item) -> tuple[str, str, int]:
    return item.source_uri, item.source_member or "", item.source_row or 0


def _cost(item: Item) -> float:
    return max(0.1, item.estimated_seconds) if math.isfinite(item.estimated_seconds) else 0.1


def _unit_id(items: Iterable[Item], *, recipe_id: str) -> str:
    contents = [
        [item.id, item.source_uri, item.source_member, item.source_row, item.source_size, item.source_etag]
        for item in items
    ]
    canonical = json.dumps([recipe_id, contents], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
