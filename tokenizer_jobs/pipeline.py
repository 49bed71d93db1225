"""One work unit from audio to commit, in one process, without Ray. This module defines what correct output is.

decoding ──▶ form_batches ──▶ RowAssembly (encodes) ──▶ ShardWriter, write_rejects ──▶ publish_unit
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from tokenizer_jobs.assembly import RowAssembly
from tokenizer_jobs.batching import auto_batch_seconds, form_batches
from tokenizer_jobs.commits import Attempt, EncodeWork, Published, publish_unit
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.encoding import Codec, EncodeDesk
from tokenizer_jobs.errors import Stage
from tokenizer_jobs.isolation import DecodeLimits
from tokenizer_jobs.logs import log_event
from tokenizer_jobs.records import Batch, Decoded, EncodeFigures, RejectedItem, WorkUnit
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, StagedShard, write_rejects
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.storage import Storage

__all__ = ["UnitDone", "UnitJob", "tokenize_unit"]

_log = logging.getLogger(__name__)


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
    batch_seconds: float | Literal["auto"]
    """`runtime.batch_seconds`; auto: what suits the device that encodes."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Of decoding one record."""
    takes_over: bool = False
    """Whether earlier generations have these items too (`PlanSummary.takes_over`)."""
    num_units: int = 0
    """That were open when the run came to the generation; for metrics."""


NAMED_REJECTS = 5
"""Of a unit, that the driver's log names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitDone:
    """A unit that has a commit, this attempt's or an earlier one's."""

    unit: WorkUnit
    published: Published
    publish_seconds: float = 0.0
    """That publishing took: its record is written before it is over, and cannot hold it."""
    rejected: tuple[RejectedItem, ...] = ()
    """The first few, without those that a filter left out."""


class _StageClock:
    """Adds up the seconds spent in each stage of a unit."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._started_at = datetime.now(UTC)

    def attempt(self, number: int, *, device: str, figures: EncodeFigures) -> Attempt:
        """What the commit says of the unit so far; encoding knows its own seconds, those of waiting among them."""
        return Attempt(
            number=number,
            device=device,
            started_at=self._started_at,
            stage_seconds={**self.seconds, "encode": figures.seconds, "encode_wait": figures.wait_seconds},
            encode_work=_encode_work(figures),
        )

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
        device: Name of the device that encodes; kept in the commit record, and `cuda` takes larger batches.
        desk: Of the codec, where several units share it; None: the unit has the codec for itself.

    Raises:
        TransientError: storage failed; the unit can be tried again.
        IntegrityError: the decoded items are not the unit's, or another commit of the unit has other ids or counts.
    """
    desk = EncodeDesk(codec, merges=False) if desk is None else desk
    clock = _StageClock()
    assembly = RowAssembly(
        unit,
        desk=desk,
        grain_samples=codec.describe().grain_samples,
        restarts=job.target.long_audio == "restart",
    )
    with desk.unit():
        shard, rejected = _write_rows(
            unit,
            decoded=decoded,
            job=job,
            batch_seconds=auto_batch_seconds(device) if job.batch_seconds == "auto" else job.batch_seconds,
            assembly=assembly,
            storage=storage,
            clock=clock,
        )
    with clock.stage("write"):
        rejects = write_rejects(
            storage,
            unit=unit,
            rejected=rejected,
            schema=reject_schema(job.user_schema),
            metadata=job.metadata,
            shard_format=job.shard_format,
        )
    _log_rejects(unit, rejected)
    with clock.stage("publish"):
        published = publish_unit(
            storage,
            unit=unit,
            recipe_id=job.recipe_id,
            shard=shard,
            rejects=rejects,
            attempt=clock.attempt(attempt, device=device, figures=assembly.figures),
            takes_over=job.takes_over,
        )
    told = [reject for reject in rejected if reject.stage != Stage.FILTER]
    return UnitDone(
        unit=unit,
        published=published,
        publish_seconds=clock.seconds["publish"],
        rejected=tuple(sorted(told, key=lambda reject: reject.position)[:NAMED_REJECTS]),
    )


def _write_rows(
    unit: WorkUnit,
    *,
    decoded: Iterable[Decoded],
    job: UnitJob,
    batch_seconds: float,
    assembly: RowAssembly,
    storage: Storage,
    clock: _StageClock,
) -> tuple[StagedShard, list[RejectedItem]]:
    """Encode the unit's items and write their rows; the staged shard, and the items without rows."""
    rejected: list[RejectedItem] = []
    with ShardWriter(
        storage,
        unit=unit,
        schema=row_schema(job.user_schema),
        metadata=job.metadata,
        shard_format=job.shard_format,
    ) as writer:
        for step in form_batches(clock.iterate("decode_wait", decoded), batch_seconds=batch_seconds):
            if isinstance(step, RejectedItem):
                assembly.void(step)
                rejected.append(step)
                continue
            rows = assembly.add_batch(step) if isinstance(step, Batch) else assembly.add_stretch(step)
            with clock.stage("write"):
                writer.append(rows)
        assembly.check_ended()
        with clock.stage("write"):
            return writer.close(), rejected


def _encode_work(figures: EncodeFigures) -> EncodeWork | None:
    if not figures.num_calls:
        return None
    return EncodeWork(
        num_calls=figures.num_calls,
        peak_items=figures.peak_items,
        num_samples=figures.num_samples,
        num_padded_samples=figures.num_padded_samples,
    )


def _log_rejects(unit: WorkUnit, rejected: Iterable[RejectedItem]) -> None:
    for reject in rejected:
        log_event(
            _log,
            logging.INFO,
            "item_rejected",
            unit=unit.part_name,
            item=unit.items[reject.position].id,
            stage=str(reject.stage),
            reason=str(reject.reason),
            detail=reject.message,
        )
