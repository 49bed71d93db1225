"""What every source offers: a listing of its items, and the bytes of each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.records import Item

if TYPE_CHECKING:  # a worker needs no tables
    from tokenizer_jobs.item_table import ItemTable

__all__ = ["HasFiles", "Listing", "Source", "list_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What a source holds at one moment."""

    items: Sequence[Item]
    """In any order: planning sorts. A tuple, or an `ItemTable` where there may be millions."""
    skipped: Mapping[str, int]
    """What is no item, counted by kind: fifos, folders named like audio, other files."""
    user_schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    """Types of the columns that the items pass through; empty when there are none."""
    num_missing: int = 0
    """Items whose local file is not there, as far as listing could tell; each becomes a reject when it is opened."""
    missing_ids: tuple[str, ...] = ()
    """Of these the first few."""


class Source(Protocol):
    """Where items come from. Built anew in every worker from its configuration, so it opens nothing when built.

    A worker opens its items in plan order, so a source may keep a container open from one item to the next. Threads may
    share a source.
    """

    def list(self) -> Listing:
        """List every item.

        Raises:
            ConfigError: a location does not exist, or holds no item.
            TransientError: the storage failed.
        """

    def open(self, item: Item) -> IO[bytes]:
        """Open an item's bytes for reading and seeking.

        Raises:
            ItemError: the item is not what was planned any more.
            OSError: it is gone, forbidden or unreadable.
            TransientError: the storage failed.
        """


@runtime_checkable
class HasFiles(Protocol):
    """A source of which items can be files of their own, opened from where they lie."""

    def file_location(self, item: Item) -> str | None:
        """What opens the file that an item is, or is a cut of; None: its bytes are a part of another file."""


@runtime_checkable
class _NamesFirst(Protocol):
    """A source that can list its items without a look into any of them."""

    def list_names(self) -> Listing:
        """As `Source.list`, with durations that are not known yet."""

    def estimate(self, items: "ItemTable") -> npt.NDArray[np.float64]:
        """Seconds of each of some items `[len(items)]`."""


def list_names(source: Source) -> tuple[Listing, "Callable[[ItemTable], ItemTable]"]:
    """List a source, and say how items get their durations: those that are known need no look into their files.

    Raises:
        ConfigError, TransientError: as `Source.list`.
    """
    if not isinstance(source, _NamesFirst):
        return source.list(), lambda items: items
    names_first = source
    return source.list_names(), lambda items: items.with_seconds(names_first.estimate(items))
