"""`TokenTable`: the rows of a snapshot by their place or their id."""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training.codebooks import choose_codebooks
from tokenizer_jobs.training.opening import OpenedSnapshot, open_snapshot
from tokenizer_jobs.training.reading import RowGroup, read_columns, read_group

__all__ = ["TokenTable"]

_KEPT_GROUPS = 8


class TokenTable(Dataset[dict[str, Any]]):
    """Random access to one snapshot: a map-style dataset for torch.

    A row is a dict of `codes` (torch.uint16 [K, T]) and the columns asked for, `id` first. A row group is read at a
    time and the last 8 are kept, so that neighbours come fast; for training in random order `TokenDataset` reads each
    row group once.

    Args:
        output: Local path or URL of an output.
        snapshot: Its number; None: the newest.
        num_codebooks: The first so many; None: all.
        bandwidth_kbps: As many as it pays for, instead of `num_codebooks`.
        columns: Names; None: all but the codes.

    Raises:
        ConfigError: there is no such snapshot, column or bandwidth.
        IntegrityError: what is stored is damaged.
    """

    def __init__(
        self,
        output: str,
        *,
        snapshot: int | None = None,
        num_codebooks: int | None = None,
        bandwidth_kbps: float | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._opened: OpenedSnapshot = open_snapshot(output, number=snapshot)
        self._num_codebooks = choose_codebooks(
            self._opened.recorded, num_codebooks=num_codebooks, bandwidth_kbps=bandwidth_kbps
        )
        self._columns = _checked(columns, schema=self._opened.schema)
        self._groups: OrderedDict[int, RowGroup] = OrderedDict()
        self._ids: tuple[pa.Array, Any] | None = None

    def __len__(self) -> int:
        return int(self._opened.group_starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a snapshot of {len(self)} rows; expected {-len(self)} to {len(self) - 1}")
        index %= len(self)
        number = int(np.searchsorted(self._opened.group_starts, index, side="right")) - 1
        place = index - int(self._opened.group_starts[number])
        group = self._group(number)
        codes = group.codes(place)[: self._num_codebooks]
        values = {name: group.table.column(name)[place].as_py() for name in self._columns}
        return {**values, "codes": torch.from_numpy(np.array(codes, order="C"))}

    def by_id(self, row_id: str) -> dict[str, Any]:
        """The row of an id; the ids are read once, at the first call.

        Raises:
            KeyError: no row has it.
        """
        return self[self.index_of(row_id)]

    def index_of(self, row_id: str) -> int:
        """The place of an id's row.

        Raises:
            KeyError: no row has it.
        """
        if self._ids is None:
            self._ids = self._sorted_ids()
        ids, order = self._ids
        place = bisect_left(range(len(ids)), row_id.encode(), key=lambda at: ids[at].as_py().encode())
        if place == len(ids) or ids[place].as_py() != row_id:
            raise KeyError(f"id {row_id!r} is not among the {len(self)} rows of snapshot {self._opened.facts.number}")
        return int(order[place])

    @property
    def recorded(self) -> Mapping[str, Any]:
        """What the shards say of codec and recipe."""
        return self._opened.recorded

    def _group(self, number: int) -> RowGroup:
        group = self._groups.get(number)
        if group is None:
            columns = [name for name in self._columns if name != "codes"]
            group = read_group(Storage.at(self._opened.url), self._opened.place(number), columns=columns)
            self._opened.check_rows(number, group.num_frames.size)
            self._groups[number] = group
            if len(self._groups) > _KEPT_GROUPS:
                self._groups.popitem(last=False)
        self._groups.move_to_end(number)
        return group

    def _sorted_ids(self) -> tuple[pa.Array, Any]:
        storage = Storage.at(self._opened.url)
        places = (self._opened.place(number) for number in range(self._opened.num_groups))
        chunks = [read_columns(storage, place, columns=["id"]).column("id").combine_chunks() for place in places]
        ids = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in chunks])
        order = pc.sort_indices(ids)
        return ids.take(order), order.to_numpy()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict(), "_ids": None}


def _checked(columns: Sequence[str] | None, *, schema: pa.Schema) -> tuple[str, ...]:
    names = [name for name in schema.names if name != "codes"]
    asked = names if columns is None else ["id", *columns]
    missing = [name for name in asked if name not in names]
    if missing:
        raise ConfigError(f"columns {', '.join(missing)} are not in the output; choose of {', '.join(names)}")
    return tuple(dict.fromkeys(asked))
