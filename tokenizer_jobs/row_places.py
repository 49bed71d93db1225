"""Stored rows and the items that they are of: found by the columns that a row's id was made from, never by its form."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa

from tokenizer_jobs.records import RowPlace

__all__ = ["PLACE_COLUMNS", "PlacedRow", "PlacedRows", "has_row_per_channel", "placed_row", "placed_rows"]

PLACE_COLUMNS = ("id", "channel", "slice_index", "slice_count", "start_sample")
"""What has to be read of a shard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRow:
    """One stored row, and which of its item's rows it is."""

    id: str
    item_id: str
    """Of the item; the row's own where its columns do not lead to its id, so that no planned item has it."""
    place: RowPlace
    slice_count: int


def has_row_per_channel(metadata: Mapping[str, Any]) -> bool:
    """Whether every channel is a row of its own in a shard with this metadata (`recipe.audio.channels`)."""
    return metadata.get("channel_policy") == "each"


def placed_row(columns: Mapping[str, Any], *, per_channel: bool) -> PlacedRow:
    """Read a row's place.

    Args:
        columns: Of the row, at least `PLACE_COLUMNS`.
        per_channel: From `has_row_per_channel`.
    """
    place = RowPlace(
        channel=columns["channel"] if per_channel else None,
        slice_index=columns["slice_index"],
        start_sample=columns["start_sample"],
    )
    row_id, count = columns["id"], columns["slice_count"]
    item_id = row_id.removesuffix(place.row_id("", slice_count=count))
    is_sound = place.row_id(item_id, slice_count=count) == row_id
    return PlacedRow(id=row_id, item_id=item_id if is_sound else row_id, place=place, slice_count=count)


def placed_rows(batch: pa.RecordBatch, *, per_channel: bool) -> Iterator[PlacedRow]:
    """Read the places of a row group's rows."""
    for columns in batch.select(list(PLACE_COLUMNS)).to_pylist():
        yield placed_row(columns, per_channel=per_channel)


class PlacedRows:
    """The rows of a unit, by item and channel: whether each has all its slices."""

    def __init__(self) -> None:
        self._slices: defaultdict[tuple[str, int | None], list[tuple[int, int, int]]] = defaultdict(list)

    def add(self, row: PlacedRow) -> None:
        """Take in a row; their order does not matter."""
        key = (row.item_id, row.place.channel)
        self._slices[key].append((row.place.slice_index, row.place.start_sample, row.slice_count))

    def problems(self) -> Iterator[str]:
        """Say of each item what is wrong with its slices; nothing where they are 0 to n - 1, one after the other."""
        for (item_id, channel), slices in self._slices.items():
            slices.sort()
            indices, starts, counts = zip(*slices, strict=True)
            of_channel = "" if channel is None else f" of channel {channel}"
            if set(counts) != {len(slices)} or list(indices) != list(range(len(slices))):
                yield (
                    f"item {item_id!r} has the slices {_few(indices)}{of_channel}, its rows say that there are "
                    f"{' or '.join(map(str, sorted(set(counts))))}"
                )
            elif any(before >= after for before, after in pairwise(starts)):
                yield f"item {item_id!r} has slices{of_channel} beginning at samples {_few(starts)}, not in order"


def _few(numbers: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown}, … ({len(numbers)})"
