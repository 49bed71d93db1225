"""The encoders of a run: started, watched, replaced when lost, and ended.

started ──▶ placed (it answers) ──▶ loaded (takes units) ──▶ lost ──▶ another is started in its place
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tokenizer_jobs.cluster.faults import Fault, NoEncoderLeftError, classify, first_line
from tokenizer_jobs.cluster.placement import EncoderPlace, Placement, describe_nodes
from tokenizer_jobs.cluster.retry import Attempt
from tokenizer_jobs.cluster.session import live_nodes
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.pipeline import UnitDone

__all__ = ["Crew", "Ended"]

_log = logging.getLogger(__name__)

MAX_LOST_AT_START = 3
"""Encoders that may die before any takes units: later ones die of the same, most likely."""

LOAD_SECONDS = 600.0
"""For a placed encoder to load its codec, which may mean a download to its node."""


class _State(Enum):
    PLACING = auto()
    LOADING = auto()
    READY = auto()
    LOST = auto()


@dataclass(slots=True, kw_only=True, eq=False)
class _Encoder:
    name: str
    place: EncoderPlace
    handle: Any
    since: float
    """When it came into its state."""
    state: _State = _State.PLACING


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt that ended on an encoder."""

    encoder: str
    attempt: Attempt
    result: UnitDone | Fault


class Crew:
    """Encoder actors and the calls that they have in hand.

    Args:
        placement: Where encoders go.
        start: Starts an actor, given its name, its place and Ray's options for it.
        placement_timeout_seconds: How long there may be no placed encoder at all.
        max_lost: Encoders that may be lost without a unit ending in between; then none is replaced any more.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        start: Callable[[str, EncoderPlace, dict[str, Any]], Any],
        placement_timeout_seconds: float,
        max_lost: int,
    ) -> None:
        self._placement = placement
        self._start_actor = start
        self._placement_timeout_seconds = placement_timeout_seconds
        self._max_lost = max_lost
        self._encoders: list[_Encoder] = []
        self._states: dict[Any, _Encoder] = {}
        self._attempts: dict[Any, tuple[_Encoder, Attempt]] = {}
        self._num_lost = 0
        self._was_ready = False
        self._none_placed_since = time.monotonic()
        self._last_loss = "none was started"

    def start(self) -> None:
        """Ask the cluster for every encoder of the placement; returns at once."""
        self._none_placed_since = time.monotonic()
        for place in self._placement.encoders:
            self._start(place, name=place.name)

    def wait_until_ready(self) -> None:
        """Wait for the first encoder that takes units.

        Raises:
            ConfigError: none could be placed in time, or it cannot load the codec.
        """
        while not self.ready:
            for _ in self.wait(timeout_seconds=1.0):
                raise AssertionError("no attempt was started")

    @property
    def ready(self) -> list[str]:
        """Names of the encoders that take units."""
        return [encoder.name for encoder in self._encoders if encoder.state is _State.READY]

    @property
    def num_coming(self) -> int:
        """Encoders that are being placed or load their codec."""
        return sum(encoder.state is not _State.READY for encoder in self._encoders)

    def run(self, name: str, attempt: Attempt) -> None:
        """Start an attempt on an encoder."""
        encoder = next(encoder for encoder in self._encoders if encoder.name == name)
        call = encoder.handle.run.options(name=f"tokenize {attempt.unit.part_name}")
        self._attempts[call.remote(attempt.unit, number=attempt.number, careful=attempt.careful)] = (encoder, attempt)

    def wait(self, *, timeout_seconds: float) -> Iterator[Ended]:
        """Wait until something happens or the time is over; give the attempts that ended.

        Raises:
            ConfigError: no encoder was ever placed, or one cannot do this job.
            NoEncoderLeftError: all were lost and cannot be replaced.
            IntegrityError: from an encoder.
        """
        self._check_alive()
        waited_for = [*self._states, *self._attempts]
        if not waited_for:
            time.sleep(timeout_seconds)
            return
        some, _ = ray.wait(waited_for, timeout=timeout_seconds)
        ended = set(some)
        if some:  # there may be more by now
            ended.update(ray.wait(waited_for, num_returns=len(waited_for), timeout=0)[0])
        for reference in waited_for:
            if reference in ended and reference in self._states:
                self._advance(self._states.pop(reference), reference)
            elif reference in ended:
                yield self._end(reference)

    def forget_losses(self) -> None:
        """A unit ended: losses so far were not for nothing."""
        self._num_lost = 0

    def kill(self) -> None:
        """End every encoder at once, whatever it has in hand."""
        for encoder in self._encoders:
            if encoder.state is not _State.LOST:
                ray.kill(encoder.handle)
        self._encoders.clear()
        self._states.clear()
        self._attempts.clear()

    def _start(self, place: EncoderPlace, *, name: str) -> None:
        handle = self._start_actor(name, place, self._options(place))
        encoder = _Encoder(name=name, place=place, handle=handle, since=time.monotonic())
        self._encoders.append(encoder)
        self._states[handle.locate.remote()] = encoder

    def _options(self, place: EncoderPlace) -> dict[str, Any]:
        options: dict[str, Any] = {
            "num_cpus": 0,
            "num_gpus": place.gpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": self._placement.units_per_encoder,
        }
        if place.encoder_slots:
            options["resources"] = {"encoder": place.encoder_slots}
        if place.node_id:
            # Soft: where its node is gone, any other serves.
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(place.node_id, soft=True)
        return options

    def _advance(self, encoder: _Encoder, reference: Any) -> None:
        try:
            answer = ray.get(reference)
        except RayError as error:
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise _cannot_start(encoder.name, _import_failure(error)) from error
            self._lose(encoder, classify(error).message)
            if not self._was_ready and self._num_lost >= MAX_LOST_AT_START:
                raise _cannot_start(encoder.name, self._last_loss) from error
            return
        encoder.since = time.monotonic()
        if encoder.state is _State.PLACING:
            encoder.state = _State.LOADING
            num_threads = self._placement.num_threads(answer.node_id)
            self._states[encoder.handle.load.remote(num_threads=num_threads)] = encoder
            _log.info(
                "%s is process %d on %s, GPUs %s, %d torch threads",
                encoder.name, answer.pid, answer.host, list(answer.gpu_ids), num_threads,
            )  # fmt: skip
        elif encoder.state is _State.LOADING:
            encoder.state = _State.READY
            self._was_ready = True
            _log.info("%s is ready on %s", encoder.name, answer)

    def _end(self, reference: Any) -> Ended:
        encoder, attempt = self._attempts.pop(reference)
        result: UnitDone | Fault
        try:
            result = ray.get(reference)
        except RayError as error:
            result = classify(error)
            _log.warning("%s, attempt %d: %s", attempt.unit.part_name, attempt.number, result.message)
            if result.encoder_lost:
                self._lose(encoder, result.message)
        return Ended(encoder=encoder.name, attempt=attempt, result=result)

    def _lose(self, encoder: _Encoder, message: str) -> None:
        if encoder.state is _State.LOST:
            return  # the second of its two units says the same
        encoder.state = _State.LOST
        self._encoders.remove(encoder)
        self._last_loss = message
        ray.kill(encoder.handle)  # it may be out of reach and alive
        self._num_lost += 1
        if not any(other.state is not _State.PLACING for other in self._encoders):
            self._none_placed_since = time.monotonic()
        if self._num_lost <= self._max_lost:
            stem, _, count = encoder.name.partition(".")
            self._start(encoder.place, name=f"{stem}.{int(count or 1) + 1}")
            _log.warning("%s was lost and is replaced: %s", encoder.name, message)
        else:
            _log.warning("%s was lost: %s", encoder.name, message)

    def _check_alive(self) -> None:
        now = time.monotonic()
        for encoder in [*self._encoders]:
            if encoder.state is _State.LOADING and now - encoder.since > LOAD_SECONDS:
                self._lose(encoder, f"it did not load the codec within {LOAD_SECONDS:g} s")
        if not self._encoders and not self._attempts:
            raise NoEncoderLeftError(
                f"{self._num_lost} encoders were lost with no unit finished in between, and none is left; "
                f"the last one: {self._last_loss}"
            )
        none_placed = all(encoder.state is _State.PLACING for encoder in self._encoders) and not self._attempts
        if none_placed and now - self._none_placed_since > self._placement_timeout_seconds:
            raise self._not_placed()

    def _not_placed(self) -> Exception:
        asked = " or ".join(sorted({encoder.place.describe() for encoder in self._encoders}))
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        message = (
            f"no encoder found a place on the cluster within {self._placement_timeout_seconds:g} s: "
            f"{len(self._encoders)} asked for {asked} each; the cluster has {describe_nodes(live_nodes())}, "
            f"of which {free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs and "
            f"{free.get('encoder', 0):g} 'encoder' are free; start nodes that have it, wait for what holds "
            f"it, {'set runtime.device: cpu, ' if self._encoders[0].place.gpus else ''}or raise "
            "runtime.placement_timeout_seconds where nodes are slow to come"
        )
        return NoEncoderLeftError(message) if self._was_ready else ConfigError(message)


def _cannot_start(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{name} cannot start on the cluster ({reason}); check that this package and its dependencies are installed on "
        "every node, or sent along (working_dir or pip in the runtime environment), and that its memory holds the codec"
    )


def _import_failure(error: ActorDiedError) -> str:
    lines = [line for line in str(error).splitlines() if "Error" in line]
    return lines[-1].strip() if lines else first_line(error)
