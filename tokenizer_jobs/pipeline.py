"""One work unit from audio to commit, in one process, without Ray. This module defines what correct output is.

decoding ──▶ form_batches ──▶ RowAssembly (encodes) ──▶ ShardWriter, write_rejects ──▶ publish_unit
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from tokenizer_jobs.assembly import RowAssembly
from tokenizer_jobs.batching import form_batches
from tokenizer_jobs.commits import Attempt, Published, publish_unit
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.encoding import Codec, EncodeDesk
from tokenizer_jobs.isolation import DecodeLimits
from tokenizer_jobs.records import Batch, Decoded, RejectedItem, WorkUnit
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, write_rejects
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.storage import Storage

__all__ = ["UnitDone", "UnitJob", "tokenize_unit"]


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
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Of decoding one record."""
    takes_over: bool = False
    """Whether earlier generations have these items too (`PlanSummary.takes_over`)."""


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
        decoded: What its items become, in plan order, as decoding gives it.
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
    assembly = RowAssembly(
        unit,
        desk=desk,
        grain_samples=codec.describe().grain_samples,
        restarts=job.target.long_audio == "restart",
    )
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
        for step in form_batches(clock.iterate("decode_wait", decoded), batch_seconds=job.batch_seconds):
            if isinstance(step, RejectedItem):
                assembly.void(step)
                rejected.append(step)
                continue
            rows = assembly.add_batch(step) if isinstance(step, Batch) else assembly.add_stretch(step)
            with clock.stage("write"):
                writer.append(rows)
        assembly.check_ended()
        with clock.stage("write"):
            shard = writer.close()
    clock.seconds["encode"] = assembly.encode_seconds
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
        takes_over=job.takes_over,
    )
    return UnitDone(unit=unit, published=published)
