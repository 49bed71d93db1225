"""The encoders of a run: started, watched, replaced when lost, and ended; as nodes join, there are more.

started ──▶ placed (it answers) ──▶ loaded (takes units) ──▶ lost ──▶ another is started in its place
                                            │                 ▲
                                            └──▶ leaving (its node drains: it ends what it holds)
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tokenizer_jobs.cluster.complaints import cannot_start, import_failure, not_placed, what_is_missing
from tokenizer_jobs.cluster.faults import Fault, NoEncoderLeftError, classify
from tokenizer_jobs.cluster.placement import EncoderPlace, Node, Placement, describe_nodes, follow
from tokenizer_jobs.cluster.ray_state import holds_place
from tokenizer_jobs.cluster.retry import Attempt, Failure
from tokenizer_jobs.config import Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.pipeline import UnitDone
from tokenizer_jobs.watch import EncoderNow
from tokenizer_jobs.watch import EncoderState as _State

__all__ = ["Crew", "Ended"]

_log = logging.getLogger(__name__)

MAX_LOST_AT_START = 3
"""Times that an encoder and those in its place may die before any takes units: the next would die of the same, most
likely. Deaths of several encoders are no sign of that: nodes are preempted when they like."""

START_SECONDS = 300.0
"""For an encoder that has its process to import what it needs: on a cold file system that is gigabytes."""

LOAD_SECONDS = 600.0
"""For a placed encoder to import torch and load its codec, which may mean a download to its node."""


NODES_SECONDS = 3.0
"""Between looks at the nodes; the notice of a preemption is 30 to 120 s."""

COMING_SECONDS = 20.0
"""For which units are left to an encoder that finds no place; on a cluster that has one it takes a second or two."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Encoder:
    name: str
    place: EncoderPlace
    handle: Any
    since: float
    """When it came into its state."""
    decode_tasks: int
    """That it was told to start for each unit, at most."""
    state: _State = _State.PLACING
    node_id: str | None = None
    """Where it was placed."""
    with_its_node: bool = False
    """Whether it was lost because its node was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt that ended on an encoder."""

    encoder: str
    attempt: Attempt
    result: UnitDone | Fault


class Crew:
    """Encoder actors and the calls that they have in hand.

    Args:
        placement: Where encoders go at first.
        runtime: What the placement follows from, as nodes join and leave.
        nodes: Gives the nodes that may be given work.
        start: Starts an actor, given its name, the placement, its place and Ray's options for it.
        max_lost: Encoders that may be lost without a unit ending in between; then none is replaced any more.
    """

    def __init__(
        self,
        placement: Placement,
        *,
        runtime: Runtime,
        nodes: Callable[[], Sequence[Node]],
        start: Callable[[str, Placement, EncoderPlace, dict[str, Any]], Any],
        max_lost: int,
    ) -> None:
        self._placement = placement
        self._runtime = runtime
        self._usable_nodes = nodes
        self._start_actor = start
        self._max_lost = max_lost
        self._encoders: list[_Encoder] = []
        self._vacant: list[tuple[str, EncoderPlace]] = []
        self._num_named = 0
        self._states: dict[Any, _Encoder] = {}
        self._attempts: dict[Any, tuple[_Encoder, Attempt]] = {}
        self._num_lost = 0
        self.num_lost_in_all = 0
        """Encoders that were lost so far, for whatever reason."""
        self._was_ready = False
        self._lost_at_start = Counter[str]()
        """By place."""
        self._none_placed_since = time.monotonic()
        self._next_look = 0.0
        self._told_unplaced = False
        self._last_loss = "none was started"

    def start(self) -> None:
        """Ask the cluster for every encoder of the placement; returns at once."""
        self._none_placed_since = time.monotonic()
        for place in self._placement.encoders:
            self._start(place)
        self._next_look = time.monotonic() + NODES_SECONDS

    def wait_until_ready(self) -> None:
        """Wait for the first encoder that takes units.

        Raises:
            ConfigError: none could be placed in time, or it cannot load the codec.
        """
        while not self.ready:
            for _ in self.wait(timeout_seconds=1.0):
                raise AssertionError("no attempt was started")

    @property
    def placement(self) -> Placement:
        """Where encoders and decode tasks go on the nodes that are there."""
        return self._placement

    @property
    def ready(self) -> list[str]:
        """Names of the encoders that take units."""
        return [encoder.name for encoder in self._encoders if encoder.state is _State.WAITING]

    def look(self) -> list[EncoderNow]:
        """What each encoder does, and which were lost and have no successor yet; may be called in any thread."""
        held = Counter(encoder for encoder, _ in list(self._attempts.values()))
        seen = [EncoderNow.of(each.name, each.state, num_units=held[each]) for each in list(self._encoders)]
        shown = {each.name for each in seen}  # one that leaves has a vacancy already, and may keep it to its end
        return [*seen, *(EncoderNow.of(name, _State.LOST) for name, _ in list(self._vacant) if name not in shown)]

    @property
    def num_coming(self) -> int:
        """Encoders that load their codec or will do so soon; those that wait for a node are not counted."""
        soon = time.monotonic() - COMING_SECONDS
        return sum(
            encoder.state is _State.LOADING or (encoder.state is _State.PLACING and encoder.since > soon)
            for encoder in self._encoders
        )

    def run(self, name: str, attempt: Attempt) -> None:
        """Start an attempt on an encoder."""
        encoder = next(encoder for encoder in self._encoders if encoder.name == name)
        if encoder.decode_tasks != self._placement.decode_tasks:
            encoder.decode_tasks = self._placement.decode_tasks
            encoder.handle.allow_decode_tasks.remote(encoder.decode_tasks)
        # One name for all units: Ray keeps a metric's series for each name that a task ever had, here and in the
        # encoder (2.60), and sorts through all of them every ten seconds: 20 kB of memory a unit.
        call = encoder.handle.run.options(name="tokenize a unit")
        self._attempts[call.remote(attempt.unit, number=attempt.number, careful=attempt.careful)] = (encoder, attempt)

    def wait(self, *, timeout_seconds: float) -> Iterator[Ended]:
        """Wait until something happens or the time is over; give the attempts that ended.

        Raises:
            ConfigError: no encoder was ever placed, or one cannot do this job.
            NoEncoderLeftError: all were lost and cannot be replaced.
            IntegrityError: from an encoder.
        """
        if time.monotonic() >= self._next_look:
            self._follow_nodes()
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
            ray.kill(encoder.handle)
        self._encoders.clear()
        self._vacant.clear()
        self._states.clear()
        self._attempts.clear()

    def _follow_nodes(self) -> None:
        """Take note of nodes that joined, drain or left, and fill the places that are vacant."""
        self._next_look = time.monotonic() + NODES_SECONDS
        nodes = self._usable_nodes()
        there = {node.node_id for node in nodes}
        for encoder in [*self._encoders]:
            if encoder.node_id is not None and encoder.node_id not in there and encoder.state is not _State.LEAVING:
                self._leave(encoder)
        if self._num_lost > self._max_lost or (not self._vacant and tuple(nodes) == self._placement.nodes):
            return
        held = [encoder.place for encoder in self._encoders if encoder.state is not _State.LEAVING]
        vacant = [place for _, place in self._vacant]
        before = self._placement
        self._placement = follow(before, nodes, self._runtime, held=held, vacant=vacant)
        if tuple(nodes) != before.nodes:
            _log.info("the cluster has %s now, %d of them new", describe_nodes(nodes), _num_new(nodes, before.nodes))
        for place in self._placement.encoders[len(held) :]:
            self._start(place)
        self._vacant.clear()  # what is left was bound to nodes that are gone

    def _leave(self, encoder: _Encoder) -> None:
        """Give an encoder nothing new, because its node goes; another is asked for elsewhere at once."""
        _log.warning("%s gets no more units: its node drains or is gone", encoder.name)
        encoder.state = _State.LEAVING
        self._vacant.append((encoder.name, encoder.place))
        self._end_if_idle(encoder)

    def _end_if_idle(self, encoder: _Encoder) -> None:
        """End an encoder that leaves once it holds nothing any more."""
        if encoder.state is _State.LEAVING and not any(held is encoder for held, _ in self._attempts.values()):
            encoder.state = _State.LOST
            self._encoders.remove(encoder)
            ray.kill(encoder.handle)

    def _start(self, place: EncoderPlace) -> None:
        if self._vacant:
            before = self._vacant.pop(0)[0]
            name = f"{_stem(before)}.{int(before.partition('.')[2] or 1) + 1}"
        else:
            name = f"encoder-{self._num_named}"
            self._num_named += 1
        handle = self._start_actor(name, self._placement, place, self._options(place))
        num_tasks = self._placement.decode_tasks
        encoder = _Encoder(name=name, place=place, handle=handle, since=time.monotonic(), decode_tasks=num_tasks)
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
            # Hard: where its node is gone, it is bound to another, and not to a head that has no CPUs on purpose.
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(place.node_id, soft=False)
        return options

    def _advance(self, encoder: _Encoder, reference: Any) -> None:
        if encoder.state in (_State.LEAVING, _State.LOST):
            return
        try:
            answer = ray.get(reference)
        except RayError as error:
            if isinstance(error, ActorDiedError) and error.actor_init_failed:
                raise cannot_start(encoder.name, import_failure(error)) from error
            if isinstance(error, RayTaskError) and isinstance(error.cause, ImportError):
                raise cannot_start(encoder.name, f"{type(error.cause).__name__}: {error.cause}") from error
            if not self._lose(encoder, classify(error).message) and not self._was_ready:
                place = _stem(encoder.name)
                self._lost_at_start[place] += 1
                if self._lost_at_start[place] >= MAX_LOST_AT_START:
                    raise cannot_start(encoder.name, self._last_loss) from error
            return
        encoder.since = time.monotonic()
        if encoder.state is _State.PLACING:
            encoder.state, encoder.node_id = _State.LOADING, answer.node_id
            if all(answer.node_id != node.node_id for node in self._placement.nodes):
                self._follow_nodes()  # its node joined since
                if encoder.state is not _State.LOADING:
                    return
            num_threads = self._placement.num_threads(answer.node_id)
            self._states[encoder.handle.load.remote(num_threads=num_threads)] = encoder
            _log.info(
                "%s is process %d on %s, GPUs %s, %d torch threads",
                encoder.name, answer.pid, answer.host, list(answer.gpu_ids), num_threads,
            )  # fmt: skip
        elif encoder.state is _State.LOADING:
            encoder.state = _State.WAITING
            self._was_ready = True
            _log.info("%s is ready on %s", encoder.name, answer)

    def _end(self, reference: Any) -> Ended:
        encoder, attempt = self._attempts.pop(reference)
        result: UnitDone | Fault
        try:
            result = ray.get(reference)
        except RayError as error:
            result = classify(error)
            if result.encoder_lost and self._lose(encoder, result.message):
                result = replace(result, failure=Failure.NODE_LOST)
        self._end_if_idle(encoder)
        return Ended(encoder=encoder.name, attempt=attempt, result=result)

    def _lose(self, encoder: _Encoder, message: str) -> bool:
        """Take note of a loss; True when it is the node that is gone or about to be, which says nothing of the work."""
        if encoder.state is _State.LOST:
            return encoder.with_its_node  # another of its units says the same
        self.num_lost_in_all += 1
        there = {node.node_id for node in self._usable_nodes()}
        node_id = encoder.node_id or encoder.place.node_id  # one that is bound may lose its node before it is placed
        encoder.with_its_node = node_id is not None and node_id not in there
        if encoder.state is not _State.LEAVING:
            self._vacant.append((encoder.name, encoder.place))
            self._num_lost += not encoder.with_its_node
            self._last_loss = message
            _log.warning("%s was lost%s: %s", encoder.name, " with its node" * encoder.with_its_node, message)
        encoder.state = _State.LOST
        self._encoders.remove(encoder)
        ray.kill(encoder.handle)  # it may be out of reach and alive
        self._next_look = 0.0
        return encoder.with_its_node

    def _check_alive(self) -> None:
        now = time.monotonic()
        for encoder in [*self._encoders]:
            if encoder.state is _State.LOADING and now - encoder.since > LOAD_SECONDS:
                self._lose(encoder, f"it did not load the codec within {LOAD_SECONDS:g} s")
        if not self._encoders and not self._attempts and self._num_lost > self._max_lost:
            raise NoEncoderLeftError(
                f"{self._num_lost} encoders were lost with no unit finished in between, and none is left; "
                f"the last one: {self._last_loss}"
            )
        waiting = [encoder for encoder in self._encoders if encoder.state is _State.PLACING]
        if len(waiting) < len(self._encoders) or self._attempts:
            self._none_placed_since = now
            self._tell_unplaced(waiting, now=now)
        elif now - self._none_placed_since > self._runtime.placement_timeout_seconds and not any(
            now - encoder.since < START_SECONDS for encoder in waiting if holds_place(encoder.handle)
        ):
            message = not_placed((encoder.place for encoder in self._encoders), self._runtime)
            raise NoEncoderLeftError(message) if self._was_ready else ConfigError(message)

    def _tell_unplaced(self, waiting: Sequence[_Encoder], *, now: float) -> None:
        """Say once that some encoders found no place for long, while others work."""
        if not waiting:
            self._told_unplaced = False
        elif not self._told_unplaced:
            longest = now - min(encoder.since for encoder in waiting)
            if longest > self._runtime.placement_timeout_seconds:
                self._told_unplaced = True
                _log.warning(
                    "%d of %d encoders have found no place for %.0f s, and the run goes on without them: %s",
                    len(waiting), len(self._encoders), longest, what_is_missing(encoder.place for encoder in waiting),
                )  # fmt: skip


def _stem(name: str) -> str:
    """What the names of all encoders have in common that come one after the other in one place."""
    return name.partition(".")[0]


def _num_new(nodes: Sequence[Node], before: Sequence[Node]) -> int:
    return len({node.node_id for node in nodes} - {node.node_id for node in before})
