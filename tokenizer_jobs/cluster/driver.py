"""The Ray executor: hands units to encoders, retries what failed, and stops when asked."""

import logging
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray

from tokenizer_jobs.cluster.actors import EncoderActor
from tokenizer_jobs.cluster.arrival import await_nodes
from tokenizer_jobs.cluster.crew import Crew, Ended
from tokenizer_jobs.cluster.decode_streams import DecodeFanOut
from tokenizer_jobs.cluster.faults import Fault
from tokenizer_jobs.cluster.metrics import EncoderMeter, RunMeter
from tokenizer_jobs.cluster.placement import EncoderPlace, Node, Placement, missing, place
from tokenizer_jobs.cluster.reach import ReachChecks, absolute_paths
from tokenizer_jobs.cluster.retry import MAX_UNITS_PER_ENCODER, Schedule
from tokenizer_jobs.cluster.session import connected, live_nodes, usable_nodes
from tokenizer_jobs.config import CodecRecipe, Runtime
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.decode.rows import LONG_WAVEFORM_BYTES
from tokenizer_jobs.executors import UnitOutcome
from tokenizer_jobs.logs import active_log_format, log_event
from tokenizer_jobs.pipeline import UnitJob
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.stopping import StopRequest
from tokenizer_jobs.watch import EncoderNow

__all__ = ["RayExecutor", "stretched_seconds"]

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
"""Between looks at the request to stop."""


class RayExecutor:
    """Tokenizes units with encoder actors on a Ray cluster.

    Entering connects, places the encoders and waits for the first one; the others join as they become ready.

    Args:
        job: What the units share.
        codec_recipe: The codec that every encoder loads.
        runtime: Which cluster, how many encoders, budgets.
        encoder_class: What the actors are; the face of `EncoderActor`.
    """

    def __init__(
        self,
        job: UnitJob,
        *,
        codec_recipe: CodecRecipe,
        runtime: Runtime,
        encoder_class: type[Any] = EncoderActor,
    ) -> None:
        self._job = job
        self._codec_recipe = codec_recipe
        self._runtime = runtime
        self._encoder_class: Any = ray.remote(encoder_class)  # once: each one that is made is kept by the cluster
        self._stack = ExitStack()
        self._crew: Crew | None = None
        self._meter: RunMeter | None = None
        self._placement: Placement | None = None
        self._checks = ReachChecks(output=job.output, source=job.source)
        self._cluster = "no cluster"

    def __enter__(self) -> Self:
        """Connect, and wait for the first encoder.

        Raises:
            ConfigError: there is no such cluster, it has no place for the encoders, or they cannot load the codec.
            IntegrityError: an encoder loaded other weights than the job's.
        """
        with ExitStack() as stack:
            self._cluster = stack.enter_context(connected(self._runtime))
            was_empty = missing(usable_nodes(), self._runtime) is not None
            nodes = await_nodes(self._runtime)
            self._placement = place(nodes, self._runtime, growing=was_empty)
            _log.info("%s", self.describe())
            if len(live_nodes()) > 1:
                self._checks.start(nodes)
                self._checks.look(timeout_seconds=self._runtime.placement_timeout_seconds)
            self._meter = RunMeter(self._job)
            stack.callback(self._meter.end)
            self._crew = Crew(
                self._placement,
                runtime=self._runtime,
                nodes=self._nodes,
                start=self._start_encoder,
                max_lost=(self._runtime.max_infrastructure_failures + 1) * len(self._placement.encoders),
            )
            stack.callback(self._crew.kill)
            self._crew.start()
            self._crew.wait_until_ready()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the encoders, and Ray where it was started here."""
        self._crew = None
        self._stack.close()

    def describe(self) -> str:
        """One line on where the work runs."""
        placed = "not placed yet" if self._placement is None else self._placement.describe()
        return f"{placed}; {self._cluster}"

    def look(self) -> list[EncoderNow]:
        """What each encoder does now."""
        crew = self._crew
        return [] if crew is None else crew.look()

    def run(self, units: Iterable[WorkUnit], *, stop: StopRequest) -> Iterator[UnitOutcome]:
        """Give the outcome of each unit as it ends; after a stop request, only of those in flight that finished.

        Raises:
            IntegrityError: at once, when one unit meets it.
            NoEncoderLeftError: all encoders were lost and cannot be replaced.
            StorageOutageError: storage failed for every unit for too long.
            ConfigError: an encoder or decode task cannot do this job at all.
        """
        assert self._crew is not None, "run() is called inside the context"
        assert self._placement is not None
        assert self._meter is not None
        schedule = self._schedule(units, placement=self._placement)
        while True:
            if stop.requested:
                schedule.stop()
                if stop.seconds_left == 0.0 and not schedule.finished:
                    _log.warning("the grace period is over; %d units are abandoned", schedule.num_in_flight)
                    self._crew.kill()
                    return
            for encoder, attempt in schedule.assign(
                self._crew.ready,
                now=time.monotonic(),
                num_coming=self._crew.num_coming,
                max_in_flight=self._crew.placement.max_in_flight,
                decode_tasks=self._crew.placement.decode_tasks,
            ):
                self._crew.run(encoder, attempt)
            self._meter.look(
                in_flight=schedule.num_in_flight,
                ready=len(self._crew.ready),
                coming=self._crew.num_coming,
                num_lost=self._crew.num_lost_in_all,
            )
            if schedule.finished:
                return
            for ended in self._crew.wait(timeout_seconds=POLL_SECONDS):
                outcome = _settle(ended, schedule)
                _record(ended, outcome, self._meter)
                if outcome is not None:
                    self._crew.forget_losses()
                    yield outcome

    def _schedule(self, units: Iterable[WorkUnit], *, placement: Placement) -> Schedule:
        stretched, max_units = stretched_seconds(self._job.target), placement.units_per_encoder
        if math.isinf(stretched):  # each recording in flight is held whole
            max_units = min(max_units, MAX_UNITS_PER_ENCODER)
        return Schedule(
            units,
            max_lost_workers=self._runtime.max_infrastructure_failures,
            max_units=max_units,
            stretched_seconds=stretched,
        )

    def _nodes(self) -> list[Node]:
        """The nodes that may be given work; those that joined are checked meanwhile.

        Raises:
            ConfigError: one that joined does not see the output or the source: items decoded there would vanish.
        """
        nodes = usable_nodes()
        if len(nodes) > 1:
            self._checks.start(nodes)
        self._checks.look(timeout_seconds=0)
        return nodes

    def _start_encoder(self, name: str, placement: Placement, place: EncoderPlace, options: dict[str, Any]) -> Any:
        local_paths = absolute_paths(self._job.source)
        decoder = DecodeFanOut(
            source=self._job.source,
            target=self._job.target,
            num_tasks=placement.decode_tasks,
            cpus=placement.decode_cpus,
            start_timeout_seconds=self._runtime.placement_timeout_seconds,
            limits=self._job.limits,
            folders=tuple(path for path in local_paths if Path(path).is_dir()),
            one_begins=not place.gpus,
            meter=EncoderMeter(self._job.output, encoder=name),
        )
        return self._encoder_class.options(**options).remote(
            name,
            job=self._job,
            codec_recipe=self._codec_recipe,
            device=self._runtime.device if place.gpus else "cpu",
            decoder=decoder,
            local_paths=local_paths,
            log_format=active_log_format(),
        )


def stretched_seconds(target: AudioTarget) -> float:
    """Audio of a recording from which it comes in stretches; infinite where it never does."""
    if not target.streamed or target.long_audio == "restart":
        return math.inf
    return LONG_WAVEFORM_BYTES / (4 * target.channels * target.sample_rate)


def _settle(ended: Ended, schedule: Schedule) -> UnitOutcome | None:
    """Take note of an attempt that ended; None when the unit will be tried again, or had ended before."""
    if not isinstance(ended.result, Fault):
        is_first = schedule.done(ended.encoder, ended.attempt, now=time.monotonic())
        return ended.result if is_first else None
    return schedule.failed(
        ended.encoder, ended.attempt, ended.result.failure, message=ended.result.message, now=time.monotonic()
    )


def _record(ended: Ended, outcome: UnitOutcome | None, meter: RunMeter) -> None:
    """Tell metrics and log of an attempt that ended."""
    if isinstance(ended.result, Fault):
        meter.attempt_failed(ended.result.failure, is_given_up=outcome is not None)
        log_event(
            _log,
            logging.WARNING,
            "attempt_failed",
            unit=ended.attempt.unit.part_name,
            attempt=ended.attempt.number,
            encoder=ended.encoder,
            cause=ended.result.failure.name.lower(),
            encoder_lost=ended.result.encoder_lost,
            detail=ended.result.message,
        )
    elif outcome is not None:
        meter.unit_ended(ended.result, encoder=ended.encoder)
