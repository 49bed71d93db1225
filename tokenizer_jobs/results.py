"""What runs and dry runs tell their callers: the fields that `--json` prints, under fixed names."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.accounting import Totals
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED

__all__ = [
    "OutputSummary",
    "PlanResult",
    "Progress",
    "RunResult",
    "summary_fields",
]


class OutputSummary(BaseModel):
    """The counts of one output; every command that prints JSON prints at least these."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    output: str
    items: int
    """Planned, over all generations."""
    rows: int
    rejects: int
    """Filtered items are among them, so that items = rows + rejects once all units are committed."""
    filtered: int
    units: int
    units_committed: int
    hours: float
    """Of audio that has codes."""
    bytes: int
    """Of shards."""
    digest: str
    """Over all committed rows."""
    snapshot: int | None
    """Number of the newest; None before the first."""
    problems: list[str] = []
    """One line each: what is wrong, and what to do."""


class RunResult(OutputSummary):
    """How a run ended."""

    stopped: bool
    """Asked to stop before it was done; run again to resume."""
    new_rows: int
    """Committed by this run."""
    new_hours: float
    elapsed_seconds: float
    rejects_by_reason: dict[str, int]
    generations: int
    recipe_id: str
    codec: str
    changed: int
    """Inputs that changed under a known id, and were left as they are."""
    vanished: int
    """Known inputs that the source holds no more."""

    @property
    def exit_code(self) -> int:
        """0 done, 75 stopped and resumable, 1 failed."""
        if self.problems:
            return EXIT_FAILED
        return EXIT_STOPPED if self.stopped else EXIT_DONE


class PlanResult(OutputSummary):
    """What a run would do, from headers and sizes alone."""

    new_items: int
    unchanged_items: int
    changed_items: int
    vanished_items: int
    duplicate_ids: list[str]
    skipped: dict[str, int]
    """What the source holds that is no item, by kind."""
    formats: dict[str, int]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    unreadable_headers: int
    headers_read: int
    """Formats, rates, channels and unreadable headers are counted over so many new items, evenly chosen."""
    unit_minutes: float
    expected_codes: int
    expected_bytes: int
    expected_seconds: float
    """Of encoding on this machine alone, from a trial of a few seconds of noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is."""

    units: int = 0
    """Of the generation in hand; 0 before there is one, as in the counts below."""
    units_committed: int = 0
    items: int = 0
    rows: int = 0
    rejects: int = 0
    hours_done: float = 0.0
    """Of audio that has codes."""
    hours_total: float = 0.0
    """Estimated; of everything planned."""
    elapsed_seconds: float
    """Since the run began."""
    message: str | None = None
    """A line worth telling; None most of the time."""


def summary_fields(totals: Totals) -> dict[str, Any]:
    """The fields of `OutputSummary` that sums over commits give."""
    return {
        "rows": totals.rows,
        "rejects": totals.rejects,
        "filtered": totals.filtered,
        "units_committed": totals.units,
        "hours": totals.hours,
        "bytes": totals.bytes,
        "digest": totals.digest,
    }
