"""Records made up for tests of what is written."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from tokenizer_jobs.commits import Attempt, Published, publish_unit
from tokenizer_jobs.config import AudioRecipe, CodecRecipe, Recipe
from tokenizer_jobs.errors import RejectReason, Stage
from tokenizer_jobs.planning import PlanFacts, write_plan
from tokenizer_jobs.recipe import CodecFacts, ResolvedRecipe, store_recipe
from tokenizer_jobs.records import AudioFacts, EncodedItem, Item, RejectedItem, TokenizedItem, WorkUnit
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.storage import Storage

NO_COLUMNS = pa.schema([])

FACTS = CodecFacts(
    name="demo",
    revision=None,
    weights_sha256="ab" * 32,
    file_sha256={"model.safetensors": "cd" * 32},
    config={"sampling_rate": 24000, "upsampling_ratios": [8, 5, 4, 2], "transformers_version": "5.23"},
    sample_rate=24000,
    channels=1,
    hop_length=320,
    frame_rate=75.0,
    num_codebooks=8,
    bandwidth_kbps=6.0,
    codebook_size=1024,
    precision="fp32",
    windowed=False,
    grain_samples=320,
    streamed=True,
)

RECIPE = ResolvedRecipe.resolve(Recipe(codec=CodecRecipe(model="demo"), audio=AudioRecipe()), FACTS)

METADATA: Mapping[bytes, bytes] = {
    b"huggingface": b"{}",
    b"tokenizer_jobs": json.dumps({"recipe_id": RECIPE.recipe_id, "codebook_size": 1024, "n_q": 8}).encode(),
}


def finish_unit(
    storage: Storage,
    unit: WorkUnit,
    *,
    rejected: Sequence[int] = (),
    seed: int | None = None,
    shard_format: Literal["parquet", "arrow"] = "parquet",
    metadata: Mapping[bytes, bytes] = METADATA,
    before_publish: Callable[[], None] = lambda: None,
    attempt: int = 1,
    num_frames: int = 75,
    takes_over: bool = False,
) -> Published:
    """One attempt at a unit from rows to commit; the items at `rejected` positions are rejects."""
    rows = [
        make_row(item, seed=seed, num_frames=num_frames)
        for position, item in enumerate(unit.items)
        if position not in rejected
    ]
    schema = row_schema(NO_COLUMNS)
    with ShardWriter(storage, unit=unit, schema=schema, metadata=metadata, shard_format=shard_format) as writer:
        writer.append(rows)
        shard = writer.close()
    rejects = write_rejects(
        storage,
        unit=unit,
        rejected=[make_reject(position) for position in rejected],
        schema=reject_schema(NO_COLUMNS),
        metadata=metadata,
        shard_format=shard_format,
    )
    before_publish()
    facts = Attempt(number=attempt, device="cpu", started_at=datetime.now(UTC), stage_seconds={"encode": 0.5})
    return publish_unit(
        storage,
        unit=unit,
        recipe_id=RECIPE.recipe_id,
        shard=shard,
        rejects=rejects,
        attempt=facts,
        takes_over=takes_over,
    )


def plan_output(storage: Storage, names: Sequence[Sequence[str]], *, generation: int = 1) -> list[WorkUnit]:
    """Store the recipe and a plan whose units hold the named items."""
    store_recipe(storage, RECIPE)
    units = [
        make_unit(unit, generation=generation, index=index, unit_id=f"{generation:08x}{index:08x}")
        for index, unit in enumerate(names)
    ]
    write_plan(storage, units, facts=PlanFacts(generation=generation, recipe_id=RECIPE.recipe_id, selection={}))
    return units


def make_item(name: str, **columns: Any) -> Item:
    return Item(
        id=name,
        source_uri=f"/audio/{name}.wav",
        source_size=48044,
        source_etag="mtime-1",
        estimated_seconds=1.0,
        user_columns=columns,
    )


def make_unit(names: Sequence[str], *, generation: int = 1, index: int = 0, unit_id: str = "0" * 16) -> WorkUnit:
    return WorkUnit(generation=generation, index=index, unit_id=unit_id, items=tuple(make_item(name) for name in names))


def make_facts(num_frames: int, **changes: Any) -> AudioFacts:
    facts = AudioFacts(
        num_samples=max(1, num_frames * 320 - 5),
        sample_rate=24000,
        source_sample_rate=44100,
        source_channels=2,
        source_format="WAV/PCM_16",
        channel=-1,
        rms_db=-23.5,
        peak=0.5,
        clipped_fraction=0.0,
        silent_fraction=0.25,
        truncated=False,
    )
    return replace(facts, **changes)


def make_row(
    item: Item | str,
    *,
    num_codebooks: int = 8,
    num_frames: int = 75,
    codebook_size: int = 1024,
    seed: int | None = None,
    windows: Sequence[int] | None = None,
) -> TokenizedItem:
    """One row with uniform codes; the seed follows from the id unless given."""
    item = make_item(item) if isinstance(item, str) else item
    generator = np.random.default_rng(seed if seed is not None else list(item.id.encode()))
    codes = generator.integers(0, codebook_size, (num_codebooks, num_frames), dtype=np.uint16)
    scales = None if windows is None else generator.random(len(windows), dtype=np.float32)
    window_frames = None if windows is None else np.array(windows, dtype=np.int32)
    encoded = EncodedItem(codes=codes, scales=scales, window_frames=window_frames)
    return TokenizedItem(item=item, facts=make_facts(num_frames), encoded=encoded)


def make_reject(
    position: int, reason: RejectReason = RejectReason.CORRUPT, stage: Stage = Stage.DECODE
) -> RejectedItem:
    return RejectedItem(position=position, stage=stage, reason=reason, message=f"item {position} is damaged")
