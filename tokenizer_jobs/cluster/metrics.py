"""What the cluster tells Prometheus, through Ray's agents: counters of what was done, gauges of where the run is.

    driver    counts a unit once, when it ended, from its commit     survives encoders that die
    encoder   counts what is known while a unit is in hand           a kill costs what it had not handed on: 10 s

Ray puts `ray_` before each name and serves them on every node (`MetricsExportPort`); docs/monitoring.md lists them.
Tags are names of outputs, nodes, encoders, stages, reasons: few, whatever the number of items.
"""

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

from tokenizer_jobs.cluster.retry import Failure
from tokenizer_jobs.pipeline import UnitDone, UnitJob
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.storage import Storage

__all__ = ["METRICS", "EncoderMeter", "MetricFacts", "RunMeter"]

TICK_SECONDS = 5.0
"""Between two looks of an encoder at itself; Ray hands metrics on every 10 s."""

UNIT_SECONDS = [1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0]
"""Boundaries of the histogram."""

PREFIX = "tokenizer_jobs_"

Step = TypeVar("Step")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFacts:
    """One metric."""

    name: str
    """With its unit; Ray puts `ray_` before it."""
    kind: Literal["counter", "gauge", "histogram"]
    tags: tuple[str, ...]
    summary: str
    recorded_by: Literal["driver", "encoder"] = "driver"


def _fact(
    name: str,
    kind: Literal["counter", "gauge", "histogram"],
    tags: str,
    summary: str,
    recorded_by: Literal["driver", "encoder"] = "driver",
) -> MetricFacts:
    return MetricFacts(
        name=PREFIX + name, kind=kind, tags=("output", *tags.split()), summary=summary, recorded_by=recorded_by
    )


METRICS = {
    facts.name.removeprefix(PREFIX): facts
    for facts in (
        _fact("units_total", "counter", "encoder node", "Units that ended with a commit."),
        _fact("items_total", "counter", "encoder node", "Items of these units, with rows or rejected."),
        _fact("rows_total", "counter", "encoder node", "Rows written."),
        _fact("rejects_total", "counter", "reason", "Items that have no row, those that a filter left out among them."),
        _fact("audio_seconds_total", "counter", "encoder node", "Audio that has codes."),
        _fact("codes_total", "counter", "encoder node", "Codes written: frames times codebooks."),
        _fact("input_bytes_total", "counter", "encoder node", "Size of the inputs, each counted once in its unit."),
        _fact("written_bytes_total", "counter", "encoder node", "Size of the files of shards and rejects."),
        _fact("differing_rows_total", "counter", "", "Rows with other codes in another attempt: near ties, or worse."),
        _fact(
            "stage_seconds_total",
            "counter",
            "encoder node stage",
            "Time of units by stage: decode_wait, encode_wait, encode, write, publish. Several units of an encoder "
            "wait at once, so that only encode is a share of its time.",
        ),
        _fact("unit_seconds", "histogram", "", "Time from the beginning of a unit to its commit."),
        _fact("encoded_samples_total", "counter", "encoder node", "Samples, per channel, that the codec was given."),
        _fact("padded_samples_total", "counter", "encoder node", "Samples that it computed in vain beside them."),
        _fact("retries_total", "counter", "cause", "Attempts that failed and did not end their unit."),
        _fact("units_given_up_total", "counter", "", "Units that stay open until the next run."),
        _fact("encoders_lost_total", "counter", "", "Encoders that died or were out of reach."),
        _fact("units_in_flight", "gauge", "", "Units on encoders now."),
        _fact("units_pending", "gauge", "", "Units that are neither done nor on an encoder."),
        _fact("encoders", "gauge", "state", "Encoders by state: ready, or coming (being placed, loading)."),
        _fact(
            "encoder_busy_seconds_total",
            "counter",
            "encoder",
            "Time in which the codec computed; its rate is the encoder's busy share.",
            "encoder",
        ),
        _fact(
            "decode_place_wait_seconds_total",
            "counter",
            "encoder",
            "Time in which decode tasks waited for a CPU.",
            "encoder",
        ),
    )
}


class RunMeter:
    """The driver's metrics of one generation.

    Args:
        job: What its units share.
    """

    def __init__(self, job: UnitJob) -> None:
        self._output = Storage.at(job.output).name
        self._num_codebooks = int(json.loads(job.metadata.get(b"tokenizer_jobs", b"{}")).get("n_q", 0))
        self._num_units = job.num_units
        self._num_ended = 0
        self._num_lost = 0
        # Made anew for each run: a process may be connected to one cluster after another.
        self._counters = {name: _counter(name) for name in _names("counter")}
        self._gauges = {name: _gauge(name) for name in _names("gauge")}
        self._unit_seconds = _histogram("unit_seconds", boundaries=UNIT_SECONDS)

    def unit_ended(self, done: UnitDone, *, encoder: str) -> None:
        """Count a unit that has a commit, by what the commit says, whichever attempt it is of."""
        self._num_ended += 1
        commit = done.published.commit
        place = {"encoder": _place_name(encoder), "node": commit.host}
        self._count("units_total", 1, **place)
        self._count("items_total", commit.num_items, **place)
        self._count("rows_total", commit.num_rows, **place)
        self._count("audio_seconds_total", commit.audio_seconds, **place)
        self._count("codes_total", commit.num_frames * self._num_codebooks, **place)
        self._count("input_bytes_total", _input_bytes(done.unit), **place)
        self._count("written_bytes_total", sum(file.size_bytes for file in commit.files), **place)
        self._count("differing_rows_total", done.published.num_differing)
        for reason, number in commit.rejects_by_reason.items():
            self._count("rejects_total", number, reason=reason)
        for stage, seconds in {**commit.stage_seconds, "publish": done.publish_seconds}.items():
            self._count("stage_seconds_total", seconds, stage=stage, **place)
        if commit.encode_work is not None:
            self._count("encoded_samples_total", commit.encode_work.num_samples, **place)
            self._count("padded_samples_total", commit.encode_work.num_padded_samples, **place)
        seconds = (commit.finished_at - commit.started_at).total_seconds()
        self._unit_seconds.observe(max(0.0, seconds), tags={"output": self._output})

    def attempt_failed(self, failure: Failure, *, is_given_up: bool) -> None:
        """Count an attempt that failed."""
        if is_given_up:
            self._num_ended += 1
            self._count("units_given_up_total", 1)
        else:
            self._count("retries_total", 1, cause=failure.name.lower())

    def look(self, *, in_flight: int, ready: int, coming: int, num_lost: int) -> None:
        """Say where the run is.

        Args:
            in_flight: Units on encoders.
            ready: Encoders that take units.
            coming: Encoders that will.
            num_lost: Encoders that were lost since the run began.
        """
        self._set("units_in_flight", in_flight)
        self._set("units_pending", max(0, self._num_units - self._num_ended - in_flight))
        self._set("encoders", ready, state="ready")
        self._set("encoders", coming, state="coming")
        self._count("encoders_lost_total", num_lost - self._num_lost)
        self._num_lost = num_lost

    def end(self) -> None:
        """Say that no encoder is left."""
        self.look(in_flight=0, ready=0, coming=0, num_lost=self._num_lost)

    def _count(self, name: str, amount: float, **tags: str) -> None:
        if amount > 0:  # Ray refuses to add nothing
            self._counters[name].inc(amount, tags={"output": self._output, **tags})

    def _set(self, name: str, value: float, **tags: str) -> None:
        self._gauges[name].set(value, tags={"output": self._output, **tags})


class EncoderMeter:
    """The metrics of one encoder, in its process.

    Args:
        output: URL or path of the output.
        encoder: Name of the encoder.
    """

    def __init__(self, output: str, *, encoder: str) -> None:
        self._tags = {"output": Storage.at(output).name, "encoder": _place_name(encoder)}
        self._lock = threading.Lock()
        self._busy_seconds = 0.0
        self._looked = 0.0

    def __reduce__(self) -> tuple[object, ...]:
        return _meter, (self._tags["output"], self._tags["encoder"])  # a lock stays where it is

    def watching(self, steps: Iterable[Step], *, busy_seconds: Callable[[], float]) -> Iterator[Step]:
        """Pass on steps, and every few seconds how long the codec has computed by then."""
        for step in steps:
            yield step
            if time.monotonic() - self._looked > TICK_SECONDS:
                self.look(busy_seconds())
        self.look(busy_seconds())

    def look(self, busy_seconds: float) -> None:
        """Take in how long the codec has computed since the encoder began."""
        with self._lock:
            more = busy_seconds - self._busy_seconds
            self._busy_seconds, self._looked = busy_seconds, time.monotonic()
        if more > 0:
            _encoder_counter("encoder_busy_seconds_total").inc(more, tags=self._tags)

    def decode_placed(self, waited_seconds: float) -> None:
        """Take in how long a decode task waited for its place."""
        if waited_seconds > 0:
            _encoder_counter("decode_place_wait_seconds_total").inc(waited_seconds, tags=self._tags)


def _place_name(encoder: str) -> str:
    """Name of an encoder without the count of those before it: on spot machines there are many."""
    return encoder.partition(".")[0]


def _meter(output: str, encoder: str) -> EncoderMeter:
    return EncoderMeter(output, encoder=encoder)


@cache
def _encoder_counter(name: str) -> Counter:
    """One for the process: an encoder and its decode tasks meet there, and it is of one cluster."""
    return _counter(name)


def _names(kind: str) -> list[str]:
    return [name for name, facts in METRICS.items() if facts.kind == kind and facts.recorded_by == "driver"]


def _counter(name: str) -> Counter:
    facts = METRICS[name]
    return Counter(facts.name, facts.summary, facts.tags)


def _gauge(name: str) -> Gauge:
    facts = METRICS[name]
    return Gauge(facts.name, facts.summary, facts.tags)


def _histogram(name: str, *, boundaries: list[float]) -> Histogram:
    facts = METRICS[name]
    return Histogram(facts.name, facts.summary, boundaries, facts.tags)


def _input_bytes(unit: WorkUnit) -> int:
    """Size of the recordings of a unit as their source gives it; cuts of one recording count it once."""
    sizes = {
        (item.source_uri, item.source_member, item.source_row): item.source_size
        for item in unit.items
        if item.source_size is not None
    }
    return sum(sizes.values())
