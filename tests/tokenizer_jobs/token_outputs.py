"""Outputs with made-up codes, for tests of what trains on them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tests.tokenizer_jobs.factories import RECIPE, make_item, make_row, make_unit, plan_output
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.commits import Attempt, publish_unit
from tokenizer_jobs.planning import PlanFacts, write_plan
from tokenizer_jobs.recipe import METADATA_KEY
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.storage import Storage

RECORDED: Mapping[str, Any] = {
    "recipe_id": RECIPE.recipe_id,
    "weights_sha256": RECIPE.weights_sha256,
    "codec_config": {"target_bandwidths": [1.5, 3.0, 6.0, 12.0, 24.0]},
    "sample_rate": 24000,
    "hop_length": 320,
    "frame_rate": 75.0,
    "n_q": 8,
    "bandwidth_kbps": 6.0,
    "codebook_size": 1024,
    "windowed": False,
}

WORDS = pa.list_(pa.struct([("text", pa.string()), ("start_seconds", pa.float64()), ("end_seconds", pa.float64())]))


def write_output(
    folder: Path,
    units: Sequence[Sequence[int]],
    *,
    user_columns: pa.Schema | None = None,
    values: Mapping[str, Mapping[str, Any]] | None = None,
    recorded: Mapping[str, Any] | None = None,
    shard_format: Literal["parquet", "arrow"] = "parquet",
    places: Mapping[str, Mapping[str, int]] | None = None,
) -> Storage:
    """An output with a snapshot; each unit is one row group.

    Args:
        folder: Where.
        units: Frames of each row, by unit. Row j of unit i has the id `i-j`.
        user_columns: Of the source.
        values: Of these columns, by id.
        recorded: Changes to what the shards say of the codec.
        shard_format: Of the shards.
        places: `start_sample` and `slice_count` of rows that are slices, by id.
    """
    storage = Storage.open(folder)
    planned = plan_output(storage, [[f"{i}-{j}" for j in range(len(frames))] for i, frames in enumerate(units)])
    for unit, frames in zip(planned, units, strict=True):
        _finish(storage, unit, frames, user_columns, values or {}, recorded or {}, shard_format, places or {})
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    return storage


def grow_output(storage: Storage, frames: Sequence[int]) -> None:
    """Add a generation of one unit, and a snapshot."""
    unit = make_unit([f"new-{j}" for j in range(len(frames))], generation=2, unit_id="f" * 16)
    write_plan(storage, [unit], facts=PlanFacts(generation=2, recipe_id=RECIPE.recipe_id, selection={}))
    _finish(storage, unit, frames, None, {}, {}, "parquet", {})
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)


def codes_of(row_id: str, num_frames: int, *, num_codebooks: int = 8) -> npt.NDArray[np.uint16]:
    """The codes that such a row has, [K, T]."""
    return make_row(row_id, num_frames=num_frames, num_codebooks=num_codebooks).encoded.codes


def _finish(
    storage: Storage,
    unit: WorkUnit,
    frames: Sequence[int],
    user_columns: pa.Schema | None,
    values: Mapping[str, Mapping[str, Any]],
    recorded: Mapping[str, Any],
    shard_format: Literal["parquet", "arrow"],
    places: Mapping[str, Mapping[str, int]],
) -> None:
    said = {**RECORDED, **recorded}
    metadata = {b"huggingface": b"{}", METADATA_KEY: json.dumps(said).encode()}
    rows = []
    for item, num_frames in zip(unit.items, frames, strict=True):
        row = make_row(make_item(item.id, **values.get(item.id, {})), num_frames=num_frames, num_codebooks=said["n_q"])
        sliced = places.get(item.id)
        if sliced is not None:
            row = replace(
                row,
                place=replace(row.place, start_sample=sliced["start_sample"]),
                slice_count=sliced["slice_count"],
            )
        rows.append(row)
    columns = user_columns if user_columns is not None else pa.schema([])
    with ShardWriter(
        storage, unit=unit, schema=row_schema(columns), metadata=metadata, shard_format=shard_format
    ) as writer:
        writer.append(rows)
        shard = writer.close()
    rejects = write_rejects(
        storage, unit=unit, rejected=[], schema=reject_schema(columns), metadata=metadata, shard_format=shard_format
    )
    attempt = Attempt(number=1, device="cpu", started_at=datetime.now(UTC), stage_seconds={"encode": 0.5})
    publish_unit(storage, unit=unit, recipe_id=RECIPE.recipe_id, shard=shard, rejects=rejects, attempt=attempt)
