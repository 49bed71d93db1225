"""One work unit from audio to commit, in one process, without Ray. This module defines what correct output is.

decode_unit ──▶ form_batches ──▶ Codec.encode ──▶ ShardWriter / RejectWriter ──▶ publish_unit
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from tokenizer_jobs.batching import form_batches
from tokenizer_jobs.commits import Attempt, Published, publish_unit
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.encoding import Codec, EncodeDesk
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.isolation import decode_isolated
from tokenizer_jobs.records import (
    Batch,
    Decoded,
    DecodedStretch,
    EncodedItem,
    Item,
    RejectedItem,
    TokenizedItem,
    WorkUnit,
)
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import Source
from tokenizer_jobs.storage import Storage

__all__ = ["UnitDone", "UnitJob", "decode_unit", "tokenize_unit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitJob:
    """What every unit of a generation shares; it travels to the workers."""

    output: str
    """URL or absolute path of the output."""
    run_id: str
    """The run that asked for the work; it names staged files."""
    recipe_id: str
    weights_sha256: str
    """Of the codec that every worker must have loaded."""
    source: SourceConfig
    target: AudioTarget
    metadata: Mapping[bytes, bytes]
    """File metadata, equal in every part of the generation."""
    user_schema: pa.Schema
    """Types of the columns passed through."""
    shard_format: Literal["parquet", "arrow"]
    batch_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """A unit that has a commit, this attempt's or an earlier one's."""

    unit: WorkUnit
    published: Published


class _StageClock:
    """Adds up the seconds spent in each stage of a unit."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside towards a stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - start

    def iterate(self, name: str, steps: Iterable[Any]) -> Iterator[Any]:
        """Count the time spent waiting for each step towards a stage."""
        iterator = iter(steps)
        while True:
            with self.stage(name):
                step = next(iterator, None)
            if step is None:
                return
            yield step


def decode_unit(
    items: Sequence[tuple[int, Item]], *, job: UnitJob, source: Source, careful: bool = False
) -> Iterator[Decoded]:
    """Decode items of a unit in plan order.

    Args:
        items: Pairs of position and item: the whole unit, or one task's fixed share of it.
        job: What the units share.
        source: Opens the items.
        careful: Decode in a killable child process and blame the record that kills it; for units that a worker
            died on before.
    """
    if careful:
        return decode_isolated(items, source=job.source, target=job.target)
    return decode_items(items, source=source, target=job.target)


def tokenize_unit(
    unit: WorkUnit,
    *,
    decoded: Iterable[Decoded],
    job: UnitJob,
    codec: Codec,
    storage: Storage,
    attempt: int,
    device: str,
    desk: EncodeDesk | None = None,
) -> UnitDone:
    """Batch, encode, write and commit one work unit.

    Args:
        unit: The unit.
        decoded: Its items in plan order, each exactly once, as `decode_unit` gives them.
        job: What the units share.
        codec: The codec whose weights the job names.
        storage: The output.
        attempt: Which try this is, from 1; kept in the commit record only.
        device: Name of the device that encodes; kept in the commit record only.
        desk: Of the codec, where several units share it; None: the unit has the codec for itself.

    Raises:
        TransientError: storage failed; the unit can be tried again.
        IntegrityError: the decoded items are not the unit's, or another commit of the unit has other ids or counts.
    """
    desk = EncodeDesk(codec, merges=False) if desk is None else desk
    clock, started_at = _StageClock(), datetime.now(UTC)
    rejected: list[RejectedItem] = []
    with (
        desk.unit(),
        ShardWriter(
            storage,
            unit=unit,
            schema=row_schema(job.user_schema),
            metadata=job.metadata,
            shard_format=job.shard_format,
        ) as writer,
    ):
        steps = form_batches(clock.iterate("decode_wait", decoded), batch_seconds=job.batch_seconds)
        for step in steps:
            if isinstance(step, RejectedItem):
                rejected.append(step)
                continue
            if isinstance(step, DecodedStretch):
                raise IntegrityError(f"unit {unit.unit_id} has a recording in stretches, which cannot be encoded yet")
            encoded, seconds = desk.encode([item.float_waveform() for item in step.items])
            clock.seconds["encode"] += seconds
            with clock.stage("write"):
                writer.append(_rows(step, encoded, unit=unit))
        with clock.stage("write"):
            shard = writer.close()
    rejects = write_rejects(
        storage,
        unit=unit,
        rejected=rejected,
        schema=reject_schema(job.user_schema),
        metadata=job.metadata,
        shard_format=job.shard_format,
    )
    published = publish_unit(
        storage,
        unit=unit,
        recipe_id=job.recipe_id,
        shard=shard,
        rejects=rejects,
        attempt=Attempt(number=attempt, device=device, started_at=started_at, stage_seconds=dict(clock.seconds)),
    )
    return UnitDone(unit=unit, published=published)


def _rows(batch: Batch, encoded: Sequence[EncodedItem], *, unit: WorkUnit) -> list[TokenizedItem]:
    return [
        TokenizedItem(item=unit.items[decoded.position], facts=decoded.facts, encoded=codes)
        for decoded, codes in zip(batch.items, encoded, strict=True)
    ]
