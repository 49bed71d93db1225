"""The statistics of an output: one pass over its commits, and one over its shards, in memory that does not grow.

Shards are read in an order that is drawn from their units' ids, so that a pass that runs out of its time has read a
sample of the units.
"""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import Field

from tokenizer_jobs.accounting import Totals, total
from tokenizer_jobs.catalog import newest_snapshot
from tokenizer_jobs.commit_records import StoredRecord
from tokenizer_jobs.commits import Commit, read_all_commits
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.lease import read_lease
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.planning import PlanSummary
from tokenizer_jobs.receipts import Receipts, read_receipts
from tokenizer_jobs.recipe import read_recipe
from tokenizer_jobs.report.codes import CodebookUse, CodeCounter, Transitions
from tokenizer_jobs.report.distributions import ROW_MEASURES, Category, CategoryCounter, Histogram, HistogramCounter
from tokenizer_jobs.report.facts import CodecShown, Provenance, codec_shown, read_plans, read_provenance
from tokenizer_jobs.report.rejected import ReasonShown, RejectReader
from tokenizer_jobs.report.work import Work, WorkLog
from tokenizer_jobs.row_checks import file_facts
from tokenizer_jobs.shards import read_batches, read_schema
from tokenizer_jobs.storage import Storage

__all__ = ["BUDGET_SECONDS", "Content", "Counts", "Statistics", "measure"]

BUDGET_SECONDS = 240.0
"""For reading shards, unless asked otherwise: a thousand hours take a fraction of it."""
FORMAT_VERSION = 1
KINDS = ("source_format", "source_sample_rate", "source_channels")
MOST_PROBLEMS = 20

State = Literal["running", "stopped", "done", "empty"]


class Counts(StoredRecord):
    """What an output holds; the same words as in `status`."""

    state: State
    """running: a live run holds it. stopped: units are left, and nobody works on them. empty: nothing is planned."""
    items: int
    rows: int
    rejects: int
    filtered: int
    dropped: int
    units: int
    units_committed: int
    frames: int
    hours: float
    bytes: int
    digest: str
    rejects_by_reason: dict[str, int]
    planned_hours: float
    """By headers and sizes."""


class Content(StoredRecord):
    """What was found in the rows."""

    rows: int
    """That were read."""
    shards_read: int
    shards: int
    """That there are; more than were read when the time was up."""
    seconds: float
    """That reading took."""
    codebooks: tuple[CodebookUse, ...]
    frames: int
    ideal_kbps: float
    """Of an ideal order-0 coder, over all codebooks."""
    stored_kbps: float | None
    """Of the shards as they are, all columns included."""
    transitions: Transitions | None
    measures: dict[str, Histogram]
    kinds: dict[str, dict[str, Category]]
    truncated: int
    """Rows kept although their audio was cut short."""
    slices: int
    """Rows that are one of several of their item."""

    @property
    def is_sampled(self) -> bool:
        """Whether it speaks for a part of the shards only."""
        return self.shards_read < self.shards


class Statistics(StoredRecord):
    """What there is to know of an output; `stats.json`."""

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    made_at: datetime
    snapshot: int | None
    """The newest, at the time."""
    counts: Counts
    codec: CodecShown
    provenance: Provenance | None = None
    """The next four: None in what a run leaves with its snapshot; `report` finds them out."""
    work: Work | None = None
    rejects: tuple[ReasonShown, ...] | None = None
    content: Content | None = None
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shard:
    path: str
    size_bytes: int
    audio_seconds: float


def measure(storage: Storage, *, budget_seconds: float | None = BUDGET_SECONDS) -> Statistics:
    """Find out all there is to know of an output, finished or not; writes nothing.

    Args:
        storage: The output.
        budget_seconds: For reading shards; None reads all of them, however long that takes.

    Raises:
        ConfigError: there is no output.
        IntegrityError: recipe, plans, commits or catalog are damaged; of damaged shards a problem tells.
    """
    recipe = read_recipe(storage)
    is_running = _is_held(storage)  # before the commits, so that a run that ends meanwhile is not called dead
    plans, receipts = read_plans(storage), read_receipts(storage)
    newest = newest_snapshot(storage)
    log, shards, rejects = WorkLog(), list[_Shard](), RejectReader()

    def passing() -> Iterable[Commit]:
        for commit in read_all_commits(storage, [plan.generation for plan in plans], receipts=receipts):
            log.add(commit)
            rejects.add(commit)
            share = commit.audio_seconds / max(1, len(commit.shards))
            shards.extend(
                _Shard(path=file.path, size_bytes=file.size_bytes, audio_seconds=share) for file in commit.shards
            )
            yield commit

    totals = total(passing())
    codec = _completed(codec_shown(recipe, plans), storage, shards)
    reading = _Reading(storage=storage, codec=codec)
    content = reading.read(shards, budget_seconds=budget_seconds) if shards else None
    return Statistics(
        made_at=datetime.now(UTC),
        snapshot=None if newest is None else newest.number,
        counts=counts_of(totals, plans, receipts=receipts, is_running=is_running),
        codec=codec,
        provenance=read_provenance(storage, plans),
        work=log.work(),
        rejects=rejects.read(storage, reading.problems),
        content=content,
        problems=tuple(reading.problems),
    )


def counts_of(totals: Totals, plans: list[PlanSummary], *, receipts: Receipts, is_running: bool) -> Counts:
    """What an output holds, by its commits and its plans."""
    num_units = sum(plan.num_units for plan in plans)
    state: State = "done" if totals.units >= num_units else "stopped"
    return Counts(
        state="running" if is_running else state if plans else "empty",
        items=sum(plan.num_items for plan in plans if not plan.takes_over) - receipts.num_dropped,
        rows=totals.rows,
        rejects=totals.rejects,
        filtered=totals.filtered,
        dropped=receipts.num_dropped,
        units=num_units,
        units_committed=totals.units,
        frames=totals.frames,
        hours=totals.hours,
        bytes=totals.bytes,
        digest=totals.digest,
        rejects_by_reason=dict(totals.rejects_by_reason),
        planned_hours=sum(plan.estimated_seconds for plan in plans if not plan.takes_over) / 3600,
    )


def _is_held(storage: Storage) -> bool:
    holder = read_lease(storage)
    return holder is not None and not holder.may_be_replaced(here=Owner.current(), now=time.time())


def _completed(codec: CodecShown, storage: Storage, shards: list[_Shard]) -> CodecShown:
    """Where a plan does not say what the codes are, a shard does."""
    if codec.frame_rate is not None or not shards:
        return codec
    try:
        said = file_facts(read_schema(storage, shards[0].path))
    except (IntegrityError, FileNotFoundError):  # of which a problem tells when it is read for its rows
        return codec
    known = {name: said.get(key) for name, key in _SAID.items()}
    return codec.model_copy(update={**known, "windowed": bool(said.get("windowed", False))})


_SAID = {
    "sample_rate": "sample_rate",
    "channels": "channels",
    "frame_rate": "frame_rate",
    "num_codebooks": "n_q",
    "codebook_size": "codebook_size",
    "bandwidth_kbps": "bandwidth_kbps",
    "precision": "precision",
}


@dataclass(slots=True, kw_only=True)
class _Reading:
    """The pass over the shards."""

    storage: Storage
    codec: CodecShown
    problems: list[str] = field(default_factory=list)
    codes: CodeCounter = field(default_factory=CodeCounter)
    measures: dict[str, HistogramCounter] = field(default_factory=dict)
    kinds: dict[str, CategoryCounter] = field(default_factory=dict)
    rows: int = 0
    frames: int = 0
    truncated: int = 0
    slices: int = 0

    def read(self, shards: list[_Shard], *, budget_seconds: float | None) -> Content:
        """Read shards until all are read or the time is up; one is always read."""
        began = time.monotonic()
        self.codes = CodeCounter(codebook_size=self.codec.codebook_size or 0)
        self.measures = {name: HistogramCounter(edges) for name, edges in ROW_MEASURES.items()}
        self.kinds = {name: CategoryCounter() for name in KINDS}
        size_bytes, audio_seconds, done = 0, 0.0, 0
        for shard in sorted(shards, key=lambda shard: hashlib.sha256(shard.path.encode()).digest()):
            if done and budget_seconds is not None and time.monotonic() - began > budget_seconds:
                break
            if self._read_shard(shard.path):
                done += 1
                size_bytes += shard.size_bytes
                audio_seconds += shard.audio_seconds
        uses = self.codes.uses(frame_rate=self.codec.frame_rate or 0.0)
        return Content(
            rows=self.rows,
            shards_read=done,
            shards=len(shards),
            seconds=time.monotonic() - began,
            codebooks=uses,
            frames=self.frames,
            ideal_kbps=sum(use.ideal_kbps for use in uses),
            stored_kbps=8e-3 * size_bytes / audio_seconds if audio_seconds else None,
            transitions=self.codes.transitions(),
            measures={name: counter.histogram() for name, counter in self.measures.items()},
            kinds={name: counter.categories() for name, counter in self.kinds.items()},
            truncated=self.truncated,
            slices=self.slices,
        )

    def _read_shard(self, path: str) -> bool:
        """Count a shard; one that is gone or damaged is told of, and what was counted of it by then stays counted."""
        columns = ("codes", "num_frames", *ROW_MEASURES, *KINDS, "truncated", "slice_count")
        try:
            for batch in read_batches(self.storage, path, columns=columns):
                self.codes.add(batch.column("codes"))
                for name, counter in self.measures.items():
                    counter.add(batch.column(name))
                for name, kind in self.kinds.items():
                    kind.add(batch.column(name), seconds=batch.column("duration_seconds"))
                self.rows += batch.num_rows
                self.frames += batch.column("num_frames").to_numpy().sum(dtype=int)
                self.truncated += batch.column("truncated").true_count
                self.slices += int((batch.column("slice_count").to_numpy() > 1).sum())
        except FileNotFoundError:
            self._blame(f"{path} was not there any more: the output changed meanwhile, or the file was lost; verify it")
            return False
        except IntegrityError as error:
            self._blame(str(error))
            return False
        return True

    def _blame(self, problem: str) -> None:
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(problem)
