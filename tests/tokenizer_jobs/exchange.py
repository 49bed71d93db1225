"""An output made without a codec, and its codes by id: what exports and imports are compared with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tests.tokenizer_jobs.factories import FACTS, NO_COLUMNS, RECIPE, finish_unit, plan_output
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.recipe import file_metadata
from tokenizer_jobs.schema import row_schema
from tokenizer_jobs.shards import read_rows
from tokenizer_jobs.storage import Storage

HOSTILE_IDS = (("a.b/c.d", "ünï cödé", "%2E"), ("..", "x~y", "long/" + "n" * 300), ("same/001", "same_001", "same.001"))


def make_output(storage: Storage, ids: Sequence[Sequence[str]] = HOSTILE_IDS) -> str:
    """An output of one snapshot; returns its location."""
    metadata = file_metadata(RECIPE, FACTS, {"soxr": "1.0"}, schema=row_schema(NO_COLUMNS))
    for unit in plan_output(storage, ids):
        finish_unit(storage, unit, metadata=metadata, num_frames=30 + unit.index, rejected=[])
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    return storage.url


def codes_by_id(location: str) -> dict[str, npt.NDArray[np.uint16]]:
    """The codes [K, T] of every row of the newest snapshot."""
    return {row_id: row[0] for row_id, row in rows_by_id(location).items()}


def rows_by_id(location: str) -> dict[str, tuple[npt.NDArray[np.uint16], Mapping[str, Any]]]:
    """The codes and the other columns of every row of the newest snapshot."""
    storage = Storage.at(location)
    return {
        row.id: (row.encoded.codes.copy(), row.columns)
        for shard in read_snapshot(storage).shards
        for row in read_rows(storage, shard.path)
    }


def hashes_by_id(location: str) -> dict[str, str]:
    """`codes_sha256` of every row of the newest snapshot."""
    return {row_id: columns["codes_sha256"] for row_id, (_, columns) in rows_by_id(location).items()}


def codes_table(codes: Mapping[str, npt.NDArray[np.uint16]], **columns: Sequence[Any]) -> pa.Table:
    """A table of somebody else: `name`, `tokens` [T, K], and more columns."""
    tokens = pa.array([array.T.tolist() for array in codes.values()], type=pa.list_(pa.list_(pa.int64())))
    return pa.table({"name": list(codes), "tokens": tokens, **columns})
