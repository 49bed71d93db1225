"""What runs and dry runs tell their callers: the fields that `--json` prints, under fixed names."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.accounting import Totals
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from tokenizer_jobs.watch import Watch

__all__ = [
    "Calibration",
    "DropResult",
    "MachineCost",
    "OutputSummary",
    "PlanResult",
    "Progress",
    "RunResult",
    "StageCost",
    "summary_fields",
]


class OutputSummary(BaseModel):
    """The counts of one output; every command that prints JSON prints at least these."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    output: str
    items: int
    """Planned, over all generations, without those that were dropped."""
    rows: int
    rejects: int
    """Filtered items are among them, so that items = items with rows + rejects once all units are committed."""
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
    dropped: int = 0
    """Items that were taken out on purpose; not among `items`."""
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
    changed_ids: list[str] = []
    """The first few."""
    vanished_ids: list[str] = []
    """The first few."""

    @property
    def exit_code(self) -> int:
        """0 done, 75 stopped and resumable, 1 failed."""
        if self.problems:
            return EXIT_FAILED
        return EXIT_STOPPED if self.stopped else EXIT_DONE


class _Stated(BaseModel):
    """A part of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class StageCost(_Stated):
    """What one stage takes of a lane: seconds = per_item x items + per_audio_second x audio + per_unit x units."""

    per_item: float
    per_audio_second: float
    per_unit: float


class Calibration(_Stated):
    """A part of the job, done and timed on this machine, and what follows for the whole."""

    items: int
    """In the sample."""
    audio_seconds: float
    """Of the sample, estimated as the plan estimates."""
    elapsed_seconds: float
    """That the sample took."""
    rejects: int
    """In the sample."""
    device: str
    """That encoded."""
    lanes: int
    """Units at once."""
    startup_seconds: float
    """Before the first unit and after the last: a new process, the codec, the listing, Ray if the job starts it."""
    stages: dict[str, StageCost]
    """Of one lane, by stage."""
    stage_seconds: dict[str, float]
    """Of one lane, by stage, for the whole job."""
    bound_stage: str
    """The stage that the job waits for most."""
    decode_cpu_per_audio_second: float
    """Seconds of one core, decoding and resampling included."""
    encode_per_audio_second: float
    """Seconds of one core, or of one GPU, that all others share in being busy."""
    predicted_seconds: float
    """Of the whole job, from the command to its end, on this machine, as busy with other work as it was now."""
    alone_seconds: float | None
    """The least that it takes with this machine to itself, all cores busy; None where CPU seconds do not tell that:
    with GPUs, with Ray, or with cores that the job leaves idle."""
    cpu_seconds: float
    """Of the whole job, over all its processes, Ray's left out; other work on the machine changes them little."""
    twice_cores_seconds: float
    """With twice the cores."""
    gpus_seconds: dict[int, float]
    """By number of GPUs. 0, where encoding was on cores: GPUs that take no time at all, the least that it can be."""
    assumptions: list[str]
    """On which the predictions rest."""


class MachineCost(_Stated):
    """The job on one machine of some kind."""

    name: str
    is_this_machine: bool
    seconds: float | None
    """None where this machine cannot tell: GPUs, if it has none."""
    cost: float | None
    currency: str


class PlanResult(OutputSummary):
    """What a run would do, from headers and sizes alone."""

    new_items: int
    """That would be planned; duplicates are among them."""
    unchanged_items: int
    changed_items: int
    vanished_items: int
    duplicate_ids: list[str]
    missing_files: int = 0
    """Inputs that a manifest names and that are not there."""
    missing_ids: list[str] = []
    """The first few."""
    changed_ids: list[str] = []
    """The first few."""
    vanished_ids: list[str] = []
    """The first few."""
    skipped: dict[str, int]
    """What the source holds that is no item, and items that the selection leaves out, by kind."""
    expected_filtered: dict[str, int] = {}
    """New items that a filter would reject, by reason: estimated by headers; duplicates are exact."""
    longest_id: str | None = None
    """The new item with the longest estimate."""
    longest_seconds: float = 0.0
    formats: dict[str, int]
    sample_rates: dict[int, int]
    channels: dict[int, int]
    hours_by_format: dict[str, float] = {}
    """Estimated, of all new items; what cannot be told by its header is `unknown`."""
    hours_by_sample_rate: dict[str, float] = {}
    hours_by_channels: dict[str, float] = {}
    unreadable_headers: int
    headers_read: int
    """Formats, rates, channels and unreadable headers are counted over so many new items, evenly chosen."""
    unit_minutes: float
    expected_codes: int
    """Of new items that no filter is expected to reject."""
    expected_bytes: int
    expected_seconds: float
    """Of encoding on this machine alone, from a trial of a few seconds of noise."""
    calibration: Calibration | None = None
    """With `--calibrate`."""
    costs: list[MachineCost] = []
    """With `--price`."""


class DropResult(_Stated):
    """What was taken out of an output, or would be."""

    output: str
    items: int
    """That have neither a row nor a reject left."""
    rows: int
    rejects: int
    units: int
    """Whose files were rewritten."""
    already: int
    """Ids that an earlier drop took out."""
    receipt: str | None
    """Its path in the output; None: nothing was taken out."""
    snapshot: int | None
    """Number of the newest."""
    dry_run: bool


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
    watch: Watch | None = None
    """What can be asked between this report and the next; None: nothing."""


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
