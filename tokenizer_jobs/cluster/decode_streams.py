"""How an encoder pulls decoded items from decode tasks on the cluster, in plan order and in bounded memory.

    task 0   group 0 ─┐       group 2 ─┐
    task 1            └ group 1 ─┐     └ group 3 …       the encoder takes group 0, 1, 2, 3, …

Each task runs ahead by at most two lists. How many tasks a unit gets follows from how long decoding and encoding took
so far; what they give, and in which order, does not. The consumer starts the tasks itself: a generator of references
cannot be handed to another process.
"""

import math
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from tokenizer_jobs.batching import auto_batch_seconds
from tokenizer_jobs.cluster.decode_tasks import DecodedList, Group, decode_share, decoded_seconds, plan_groups
from tokenizer_jobs.cluster.faults import DecodeWorkerLostError, decode_fault
from tokenizer_jobs.cluster.metrics import EncoderMeter
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.isolation import PATIENCE, DecodeLimits
from tokenizer_jobs.records import Decoded, DecodedItem, DecodedStretch, WorkUnit
from tokenizer_jobs.source_config import SourceConfig

__all__ = ["DecodeFanOut", "Pace"]

LISTS_AHEAD = 2
"""Lists that a decode task may have made and the encoder not yet taken."""

BEGIN_PATIENCE_SECONDS = 3.0
"""For which a unit lets another one begin first, at most: a decode worker takes one to two seconds to start (2 cores of
an AMD EPYC)."""

BEGUN_SECONDS = auto_batch_seconds("cpu")
"""Audio that a unit has given when it has begun: a batch of the usual size, which it encodes next."""

_beginning = threading.Lock()
"""Held by the unit of this process that begins, where one begins at a time."""


class Pace:
    """How long a second of audio takes, by the units so far: each weighs half as much as the next."""

    def __init__(self) -> None:
        self._seconds = self._audio_seconds = 0.0

    def note(self, seconds: float, *, audio_seconds: float) -> None:
        """Take note of a unit."""
        self._seconds = self._seconds / 2 + seconds
        self._audio_seconds = self._audio_seconds / 2 + audio_seconds

    @property
    def seconds(self) -> float | None:
        """For a second of audio; None before there was any."""
        return self._seconds / self._audio_seconds if self._audio_seconds else None


@dataclass(slots=True)
class _Allowance:
    """Decode tasks that a unit may have by now; None: as many as at the start."""

    num_tasks: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeFanOut:
    """How units are decoded on the cluster; it travels to the encoders."""

    source: SourceConfig
    target: AudioTarget
    num_tasks: int
    """For each unit in flight, at most, until another number is allowed."""
    cpus: float
    """That one task reserves."""
    start_timeout_seconds: float
    """After which a task that found no place fails its unit, so that units never wait for each other for ever."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """Of decoding one record."""
    folders: tuple[str, ...] = ()
    """Local ones of the source, which must be where a task runs."""
    one_begins: bool = False
    """Whether a unit begins when the one before it is decoded to its end, or has given a stretch or more than a batch:
    it then finds a worker that is free, else one would have to be started. For CPUs that encode as well, while encoding
    is what they wait for."""
    meter: EncoderMeter | None = None
    """Of the encoder, where there is one."""
    decoding: Pace = field(default_factory=Pace)
    encoding: Pace = field(default_factory=Pace)
    allowance: _Allowance = field(default_factory=_Allowance)

    def warm_up(self) -> None:
        """Have a process for each of a unit's tasks started while the encoder loads its codec: that takes a second."""
        for _ in range(self.num_tasks):
            _start([], fan_out=self, careful=False, name="get ready to decode")

    def allow(self, num_tasks: int) -> None:
        """Use so many tasks for a unit from now on, at most."""
        self.allowance.num_tasks = num_tasks

    def note_encoding(self, seconds: float, *, audio_seconds: float) -> None:
        """Take note of how long a unit took to encode."""
        self.encoding.note(seconds, audio_seconds=audio_seconds)

    def tasks_for_next_unit(self) -> int:
        """As many as decode as fast as the encoder encodes: with the next unit in flight, twice what it takes.

        The most that may be until a unit was measured.
        """
        most = self.allowance.num_tasks or self.num_tasks
        if not self.decoding.seconds or not self.encoding.seconds:
            return most
        return max(1, min(most, math.ceil(self.decoding.seconds / self.encoding.seconds)))

    def decode(self, unit: WorkUnit, *, careful: bool) -> Generator[Decoded, None, None]:
        """Decode a unit's items in plan order; closing the iterator ends the tasks.

        Args:
            unit: The unit.
            careful: A worker died on it: one task, each record in a killable child process.

        Raises:
            DecodeWorkerLostError: a task's process died, hung or had no memory, or it found no place.
            TokenizerJobsError: what decoding raised in a task.
        """
        groups = plan_groups(enumerate(unit.items))
        sample_rate, seconds = self.target.sample_rate, 0.0
        with ExitStack() as beginning, closing(self._decode(groups, careful=careful)) as steps:
            if self._waits_to_begin() and _beginning.acquire(timeout=BEGIN_PATIENCE_SECONDS):
                beginning.callback(_beginning.release)
            for decoded in steps:
                if isinstance(decoded, DecodedStretch) or seconds >= BEGUN_SECONDS:
                    beginning.close()
                seconds += decoded_seconds(decoded, sample_rate=sample_rate)
                yield decoded

    def _waits_to_begin(self) -> bool:
        """Whether one unit alone, as far as was measured, decodes at least twice as fast as the encoder encodes."""
        if not self.one_begins:
            return False
        if not self.decoding.seconds or not self.encoding.seconds:
            return True
        return self.decoding.seconds / self.tasks_for_next_unit() <= self.encoding.seconds / 2

    def _decode(self, groups: Sequence[Group], *, careful: bool) -> Generator[Decoded, None, None]:
        num_tasks = 1 if careful else min(self.tasks_for_next_unit(), len(groups))
        tasks = [
            _DecodeTask(
                _start(groups[index::num_tasks], fan_out=self, careful=careful, name="decode a unit"),
                fan_out=self,
                careful=careful,
            )
            for index in range(num_tasks)
        ]
        try:
            for index, group in enumerate(groups):
                yield from tasks[index % num_tasks].take(group)
            for task in tasks:
                task.finish()
            if not careful:
                audio_seconds = sum(task.audio_seconds for task in tasks)
                self.decoding.note(sum(task.seconds for task in tasks), audio_seconds=audio_seconds)
        finally:
            for task in tasks:
                task.cancel()


def _start(share: Sequence[Group], *, fan_out: DecodeFanOut, careful: bool, name: str) -> Any:
    # The one place that uses Ray's private spelling of backpressure (2.60); without it a task would fill the store.
    task = _share_decoder().options(
        name=name,
        num_cpus=fan_out.cpus,
        max_retries=0,
        num_returns="streaming",
        _generator_backpressure_num_objects=LISTS_AHEAD,
    )
    return task.remote(
        share,
        source=fan_out.source,
        target=fan_out.target,
        limits=fan_out.limits,
        careful=careful,
        folders=fan_out.folders,
    )


@cache
def _share_decoder() -> Any:
    """Made once in a process: each one that is made is sent to the cluster, and kept there and in every worker."""
    make_remote: Any = ray.remote  # its annotations know no keyword-only arguments
    return make_remote(decode_share)


class _DecodeTask:
    """One decode task, seen by its consumer."""

    def __init__(self, lists: Any, *, fan_out: DecodeFanOut, careful: bool) -> None:
        self._lists = lists
        self._fan_out = fan_out
        self._careful = careful
        self._start_deadline: float | None = time.monotonic() + fan_out.start_timeout_seconds
        self.seconds = self.audio_seconds = 0.0
        """Of decoding so far, and of the audio that it gave."""

    def take(self, group: Group) -> Iterator[Decoded]:
        """Take what the next group of the task's share is decoded to."""
        self._await_place()
        num_items, seconds_left = len(group), self._patience(group)
        while num_items > 0:
            started = time.monotonic()
            taken = self._next_list(seconds_left)
            seconds_left -= time.monotonic() - started
            num_items -= sum(decoded.is_last for decoded in taken.items)
            self.seconds += taken.seconds
            sample_rate = self._fan_out.target.sample_rate
            self.audio_seconds += sum(decoded_seconds(decoded, sample_rate=sample_rate) for decoded in taken.items)
            yield from map(_own_samples, taken.items)

    def finish(self) -> None:
        """Wait for the end of the task, all of whose items were taken; if its process is lost now, nothing is."""
        try:
            ray.get(next(self._lists))  # of a task that failed, one more reference holds the reason
        except StopIteration:
            return
        except RayError as error:
            fault = decode_fault(error)
            if isinstance(fault, DecodeWorkerLostError):
                return
            raise fault from error
        raise IntegrityError("a decode task gave more items than its share holds")

    def cancel(self) -> None:
        """End the task if it still runs, because nobody will take its items."""
        # Never in place of finish(): to cancel a task that is just ending killed this process in 2 of 150 units
        # (Ray 2.60: "Tried to complete task that was not pending").
        if not self._lists.is_finished():
            ray.cancel(self._lists)

    def _patience(self, group: Group) -> float:
        """Time that a group may take in a task that ends itself when one record takes too long."""
        if self._careful:
            return math.inf  # it waits for a child with limits of its own
        return PATIENCE * sum(self._fan_out.limits.seconds_for(item) for _, item in group)

    def _next_list(self, timeout_seconds: float) -> DecodedList:
        if not self._wait(timeout_seconds):
            # Its own alarm did not end it: it is stopped, or the kernel holds it. If it can be ended, it is.
            ray.cancel(self._lists, force=True)
            raise DecodeWorkerLostError("a decode task gave nothing for longer than all of its records may take")
        try:
            taken: DecodedList = ray.get(next(self._lists))
        except StopIteration:
            raise IntegrityError("a decode task ended before it had given all items of its share") from None
        except RayError as error:
            raise decode_fault(error) from error
        return taken

    def _await_place(self) -> None:
        if self._start_deadline is None:
            return
        began = time.monotonic()
        if not self._wait(self._start_deadline - began):
            raise DecodeWorkerLostError(
                f"a decode task of {self._fan_out.cpus:g} CPUs found no place within "
                f"{self._fan_out.start_timeout_seconds:g} s; the cluster's CPUs are taken"
            )
        self._next_list(math.inf)  # the empty one that a task begins with
        if self._fan_out.meter is not None:
            self._fan_out.meter.decode_placed(time.monotonic() - began)
        self._start_deadline = None

    def _wait(self, timeout_seconds: float) -> bool:
        timeout = None if math.isinf(timeout_seconds) else max(0.0, timeout_seconds)
        found, _ = ray.wait([self._lists], timeout=timeout)
        return bool(found)


def _own_samples(decoded: Decoded) -> Decoded:
    # What comes from the object store is a read-only view of it, which torch warns about; int16 is copied anyway,
    # when it becomes float32.
    if isinstance(decoded, DecodedItem | DecodedStretch) and decoded.waveform.dtype == np.float32:
        return replace(decoded, waveform=decoded.waveform.copy())
    return decoded
