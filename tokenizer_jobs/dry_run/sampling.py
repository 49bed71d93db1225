"""A sample of a job's items that stands for the whole, as a source of its own.

Items are taken at equal steps from the list sorted by length, from a seeded start: short and long ones come in the
proportion that they have in the job.
"""

import math
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from tokenizer_jobs.dry_run.headers import estimated_seconds
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import PluginSource, SourceConfig
from tokenizer_jobs.sources import Listing, Source, make_source

__all__ = ["SampledItems", "sample_items", "sample_source", "unit_minutes"]

LEAST_ITEM_SECONDS = 0.5
"""What an item counts for in the budget at least: opening it takes as long as encoding about so much."""
LONGEST_SHARE = 1 / 8
"""Of the budget: of longer items only the beginning is taken."""


def sample_items(items: ItemTable, *, audio_seconds: float, seed: int) -> tuple[Item, ...]:
    """Take items of about so many seconds in all; everything, where there is no more.

    An item longer than an eighth of that becomes a cut of its beginning.

    Args:
        items: Of the job.
        audio_seconds: The budget.
        seed: Of the place where the steps begin.
    """
    longest = audio_seconds * LONGEST_SHARE
    seconds = np.clip(estimated_seconds(items), LEAST_ITEM_SECONDS, max(longest, LEAST_ITEM_SECONDS))
    if not len(items) or seconds.sum() <= audio_seconds:
        return tuple(items)
    num_items = max(1, math.floor(audio_seconds / float(seconds.mean())))
    start = np.random.default_rng(seed).uniform()
    by_length = np.argsort(estimated_seconds(items), kind="stable")
    places = by_length[
        np.minimum(((start + np.arange(num_items)) * len(items) / num_items).astype(int), len(items) - 1)
    ]
    mask = np.zeros(len(items), np.bool_)
    mask[places] = True
    return tuple(_shortened(item, longest) for item in items.where(mask))


def _shortened(item: Item, seconds: float) -> Item:
    if item.estimated_seconds <= seconds:
        return item
    return replace(item, start_seconds=item.start_seconds or 0.0, duration_seconds=seconds, estimated_seconds=seconds)


def sample_source(items: Sequence[Item], *, source: SourceConfig, user_schema: pa.Schema, folder: Path) -> PluginSource:
    """A source that lists these items and opens them as theirs does; they are kept in a folder."""
    path = folder / "items.pickle"
    path.write_bytes(pickle.dumps((tuple(items), user_schema)))
    return PluginSource.model_validate(
        {
            "kind": f"{SampledItems.__module__}:{SampledItems.__name__}",
            "path": str(path),
            "source": source.model_dump(mode="json"),
        }
    )


class SampledItems:
    """Items of another source.

    Args:
        path: Where they are kept.
        source: Configuration of the source that opens them.
    """

    def __init__(self, path: str, source: dict[str, Any]) -> None:
        self._path = Path(path)
        config: SourceConfig = TypeAdapter(SourceConfig).validate_python(source)
        self._source: Source = make_source(config)

    def list(self) -> Listing:
        """List the items as they were kept."""
        items, user_schema = pickle.loads(self._path.read_bytes())
        return Listing(items=items, skipped={}, user_schema=user_schema)

    def open(self, item: Item) -> IO[bytes]:
        """Open an item as its own source does."""
        return self._source.open(item)


def unit_minutes(real_seconds: float, *, audio_seconds: float, lanes: int, units_per_lane: int = 4) -> float:
    """Minutes of a unit of the sample: as in the job, but so short that every lane gets some."""
    return max(min(real_seconds, audio_seconds / (lanes * units_per_lane)), 1.0) / 60
