"""How the work went, from commit records: throughput over time, stages, padding, and who did which unit when.

Times are laid on one clock without pauses: a job that was stopped for a weekend is not a plot of a weekend.
"""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.commit_records import Commit, StoredRecord

__all__ = ["Lane", "TimeBin", "UnitSpan", "Work", "WorkLog"]

NUM_BINS = 60
LONGEST_PAUSE = 10.0
"""Seconds without any unit in hand, from which they are left out of the clock. A run that goes on always has some; one
that is stopped and begun again has none for longer."""
MOST_SPANS = 2000
MOST_LANES = 64
MOST_PAUSES = 50
STAGES = ("decode_wait", "encode_wait", "encode", "write", "other")
_CHUNK = 8192

Floats = npt.NDArray[np.float64]


class TimeBin(StoredRecord):
    """One stretch of the clock. What a unit says of itself is spread evenly over the time that it took."""

    start_seconds: float
    end_seconds: float
    audio_seconds: float
    """That units came to in it."""
    stage_seconds: dict[str, float]
    """Of all units in hand, by stage."""


class Lane(StoredRecord):
    """A device on a host; several encoders may share it."""

    host: str
    device: str
    units: int
    audio_seconds: float
    busy_seconds: float
    """With at least one unit in hand."""


class UnitSpan(StoredRecord):
    """One unit on the clock."""

    lane: int
    row: int
    """Within the lane, from 0: units that overlap are in different rows."""
    start_seconds: float
    end_seconds: float
    audio_seconds: float
    generation: int
    index: int
    attempt: int


class Work(StoredRecord):
    """How the committed units were done."""

    clock_seconds: float
    """From the first unit to the last, without pauses."""
    pauses: int
    pause_seconds: float
    pauses_at: tuple[float, ...] = ()
    """Where on the clock they were taken out; the first of them where there are too many to show."""
    speed: float | None
    """Seconds of audio for each second of the clock."""
    stage_seconds: dict[str, float]
    """Over all units."""
    num_samples: int
    num_padded_samples: int
    """Computed beyond these, since items of different lengths shared a batch."""
    padding_share: float | None
    """Of the samples that were computed; null where no commit says."""
    retried_units: int
    """That took more than one attempt."""
    bins: tuple[TimeBin, ...]
    lanes: tuple[Lane, ...]
    """The busiest first; no more than are shown."""
    other_lanes: int
    spans: tuple[UnitSpan, ...]
    spans_left_out: int
    """Units that are not among the spans, since there are too many to show; those shown are spread evenly."""


@dataclass(slots=True)
class WorkLog:
    """Takes in commits; a hundred bytes of each are kept."""

    _times: list[tuple[float, float, float]] = field(default_factory=list)
    """Started, finished, seconds of audio."""
    _stages: list[tuple[float, ...]] = field(default_factory=list)
    _places: list[int] = field(default_factory=list)
    _names: list[tuple[int, int, int]] = field(default_factory=list)
    _lanes: dict[tuple[str, str], int] = field(default_factory=dict)
    _num_samples: int = 0
    _num_padded: int = 0

    def add(self, commit: Commit) -> None:
        """Take in one commit."""
        started, finished = commit.started_at.timestamp(), commit.finished_at.timestamp()
        finished = max(started, finished)
        known = [commit.stage_seconds.get(stage, 0.0) for stage in STAGES[:-1]]
        self._times.append((started, finished, commit.audio_seconds))
        self._stages.append((*known, max(0.0, finished - started - sum(known))))
        self._places.append(self._lanes.setdefault((commit.host, commit.device), len(self._lanes)))
        self._names.append((commit.generation, commit.index, commit.attempt))
        if commit.encode_work is not None:
            self._num_samples += commit.encode_work.num_samples
            self._num_padded += commit.encode_work.num_padded_samples

    def work(self) -> Work | None:
        """What they say together; None without any."""
        if not self._times:
            return None
        clock = _Clock(np.array(self._times))
        stages = np.array(self._stages)
        computed = self._num_samples + self._num_padded
        total_audio = float(clock.audio.sum())
        lanes = self._lane_facts(clock)
        shown = {place: number for number, (place, _) in enumerate(lanes[:MOST_LANES])}
        spans, left_out = self._spans(clock, shown)
        return Work(
            clock_seconds=clock.length,
            pauses=clock.num_pauses,
            pause_seconds=clock.pause_seconds,
            pauses_at=tuple(clock.pauses_at[:MOST_PAUSES].tolist()),
            speed=total_audio / clock.length if clock.length > 0 else None,
            stage_seconds=dict(zip(STAGES, stages.sum(axis=0).tolist(), strict=True)),
            num_samples=self._num_samples,
            num_padded_samples=self._num_padded,
            padding_share=self._num_padded / computed if computed else None,
            retried_units=sum(attempt > 1 for _, _, attempt in self._names),
            bins=_bins(clock, stages),
            lanes=tuple(lane for _, lane in lanes[:MOST_LANES]),
            other_lanes=max(0, len(lanes) - MOST_LANES),
            spans=spans,
            spans_left_out=left_out,
        )

    def _lane_facts(self, clock: "_Clock") -> list[tuple[int, Lane]]:
        places = np.array(self._places)
        lanes = []
        for (host, device), place in self._lanes.items():
            own = places == place
            lanes.append(
                (
                    place,
                    Lane(
                        host=host,
                        device=device,
                        units=int(own.sum()),
                        audio_seconds=float(clock.audio[own].sum()),
                        busy_seconds=_covered(clock.starts[own], clock.ends[own]),
                    ),
                )
            )
        return sorted(lanes, key=lambda pair: (-pair[1].audio_seconds, pair[1].host, pair[1].device))

    def _spans(self, clock: "_Clock", shown: dict[int, int]) -> tuple[tuple[UnitSpan, ...], int]:
        order = [int(place) for place in np.argsort(clock.starts, kind="stable")]
        chosen = order[:: -(-len(order) // MOST_SPANS)]
        free: defaultdict[int, list[float]] = defaultdict(list)
        """When each row of a lane is free again."""
        spans = []
        for place in chosen:
            lane = shown.get(self._places[place])
            if lane is None:
                continue
            start, end = float(clock.starts[place]), float(clock.ends[place])
            rows = free[lane]
            row = next((number for number, until in enumerate(rows) if until <= start), len(rows))
            rows[row : row + 1] = [end]
            generation, index, attempt = self._names[place]
            spans.append(
                UnitSpan(
                    lane=lane,
                    row=row,
                    start_seconds=start,
                    end_seconds=end,
                    audio_seconds=float(clock.audio[place]),
                    generation=generation,
                    index=index,
                    attempt=attempt,
                )
            )
        return tuple(spans), len(order) - len(spans)


class _Clock:
    """Time from the first start on, pauses taken out."""

    def __init__(self, times: Floats) -> None:
        started, finished, self.audio = times.T
        order = np.argsort(started, kind="stable")
        ends = np.maximum.accumulate(finished[order])
        gaps = started[order][1:] - ends[:-1]
        is_pause = gaps > LONGEST_PAUSE
        self.num_pauses = int(is_pause.sum())
        self.pause_seconds = float(gaps[is_pause].sum())
        # Where the work goes on after a pause, and what was left out by then.
        resumed = started[order][1:][is_pause]
        left_out = np.concatenate([[0.0], np.cumsum(gaps[is_pause])])
        first = float(started.min())
        self.pauses_at = resumed - first - left_out[1:]
        self.starts = started - first - left_out[np.searchsorted(resumed, started, side="right")]
        self.ends = finished - first - left_out[np.searchsorted(resumed, started, side="right")]
        self.length = float(self.ends.max())


def _bins(clock: _Clock, stages: Floats) -> tuple[TimeBin, ...]:
    if clock.length <= 0:
        return ()
    edges = np.linspace(0.0, clock.length, NUM_BINS + 1)
    audio, spent = np.zeros(NUM_BINS), np.zeros((NUM_BINS, len(STAGES)))
    for first in range(0, len(clock.audio), _CHUNK):
        part = slice(first, first + _CHUNK)
        starts, ends = clock.starts[part, None], clock.ends[part, None]
        # What took no time at all is in the bin where it is.
        ends = np.maximum(ends, starts + clock.length * 1e-9)
        overlap = np.clip(np.minimum(ends, edges[1:]) - np.maximum(starts, edges[:-1]), 0.0, None)
        whole = overlap.sum(axis=1, keepdims=True)
        shares = np.divide(overlap, whole, out=np.zeros_like(overlap), where=whole > 0)
        shares[whole[:, 0] <= 0, -1] = 1.0
        audio += clock.audio[part] @ shares
        spent += shares.T @ stages[part]
    return tuple(
        TimeBin(
            start_seconds=float(edges[number]),
            end_seconds=float(edges[number + 1]),
            audio_seconds=float(audio[number]),
            stage_seconds=dict(zip(STAGES, spent[number].tolist(), strict=True)),
        )
        for number in range(NUM_BINS)
    )


def _covered(starts: Floats, ends: Floats) -> float:
    """Length of the union of spans."""
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    begun = np.concatenate([[-np.inf], ends[:-1]])
    return float(np.clip(ends - np.maximum(starts, begun), 0.0, None).sum())
