"""Where units are tokenized: the executor protocol, and the executor that uses this process alone."""

import heapq
import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import count
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Protocol, Self

from tokenizer_jobs.decode import decode_items
from tokenizer_jobs.encoding import Codec, open_desk
from tokenizer_jobs.errors import IntegrityError, TransientError
from tokenizer_jobs.isolation import IsolatedDecoder
from tokenizer_jobs.logs import log_event
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.outages import MAX_STORAGE_FAILURES, Outage, Supply, pause_seconds
from tokenizer_jobs.pipeline import UnitDone, UnitJob, tokenize_unit
from tokenizer_jobs.records import Decoded, Item, WorkUnit
from tokenizer_jobs.sources import lives_in_memory, make_source
from tokenizer_jobs.stopping import StopRequest, UnitAbandonedError
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.watch import EncoderNow, EncoderState

__all__ = ["Executor", "InlineExecutor", "UnitFailed", "UnitOutcome", "log_outcome", "name_rejects"]

_log = logging.getLogger(__name__)

GPU_LANES = 2
"""Units at once on a GPU: one decodes while the other encodes."""
LOOK_SECONDS = 0.1
"""Between looks at the request to stop, and at units whose pause may be over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailed:
    """A unit that was given up; it stays open and the next run tries it again."""

    unit: WorkUnit
    attempts: int
    message: str


UnitOutcome = UnitDone | UnitFailed


def log_outcome(outcome: UnitOutcome) -> None:
    """Log what became of a unit."""
    if isinstance(outcome, UnitFailed):
        log_event(
            _log,
            logging.ERROR,
            "unit_given_up",
            unit=outcome.unit.part_name,
            attempts=outcome.attempts,
            detail=outcome.message,
        )
        return
    commit = outcome.published.commit
    log_event(
        _log,
        logging.INFO,
        "unit_committed",
        unit=outcome.unit.part_name,
        attempt=commit.attempt,
        outcome=str(outcome.published.outcome),
        node=commit.host,
        device=commit.device,
        items=commit.num_items,
        rows=commit.num_rows,
        rejects=commit.num_rejects,
        rejected=name_rejects(outcome),
        audio_seconds=commit.audio_seconds,
        differing_rows=outcome.published.num_differing or None,
    )


def name_rejects(done: UnitDone) -> str | None:
    """The first rejects of a unit with their reasons, and how many more; None where there are none.

    Those that a filter left out are what was asked for, and not told.
    """
    if not done.rejected:
        return None
    commit = done.published.commit
    names = [f"{_word(done.unit.items[reject.position].id)} ({reject.reason})" for reject in done.rejected]
    num_more = commit.num_rejects - commit.num_filtered - len(names)
    return ", ".join(names) + (f" and {num_more} more" if num_more > 0 else "")


def _word(item_id: str) -> str:
    """An id as one word of a line, whatever its file is called."""
    return item_id if item_id.isprintable() and " " not in item_id else repr(item_id)


class Executor(Protocol):
    """Tokenizes units somewhere; a context manager, so that workers are started and stopped with it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def describe(self) -> str:
        """One line on where and how units are encoded."""

    def run(self, units: Iterable[WorkUnit], *, stop: StopRequest) -> Iterator[UnitOutcome]:
        """Give the outcome of each unit as it ends; after a stop request, only of those in flight that finished.

        Raises:
            IntegrityError: at once, when one unit meets it.
        """


class _Decoder(Protocol):
    """Decodes the units of one lane."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def start(self) -> None:
        """Get ready without waiting for it."""

    def decode(self, items: Iterable[tuple[int, Item]]) -> Generator[Decoded, None, None]:
        """Decode pairs of position and item in order."""


class _DecoderHere:
    """Decodes in this process, where a source in its memory can be read, and nowhere else."""

    def __init__(self, job: UnitJob) -> None:
        self._job = job

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was started."""

    def start(self) -> None:
        """Nothing to start."""

    def decode(self, items: Iterable[tuple[int, Item]]) -> Generator[Decoded, None, None]:
        """Decode pairs of position and item in order."""
        yield from decode_items(list(items), source=make_source(self._job.source), target=self._job.target)


def _make_decoder(job: UnitJob) -> _Decoder:
    if lives_in_memory(job.source):
        return _DecoderHere(job)
    return IsolatedDecoder(source=job.source, target=job.target, limits=job.limits)


@dataclass(slots=True, eq=False)
class _Lane:
    """One of the units at once: its decoder, and what it does."""

    name: str
    decoder: _Decoder
    state: EncoderState = EncoderState.LOADING
    num_items: int = 0
    """Of the unit in hand."""
    num_decoded: int = 0

    def look(self) -> EncoderNow:
        """What the lane does now."""
        return EncoderNow(
            name=self.name,
            state=self.state,
            num_units=int(self.num_items > 0),
            num_items=self.num_items,
            num_decoded=self.num_decoded,
        )

    def decode(self, items: Iterable[tuple[int, Item]], *, stop: StopRequest) -> Generator[Decoded, None, None]:
        """Decode until asked to stop; between two items the lane encodes or writes, else it waits for the next."""
        with closing(self.decoder.decode(items)) as decoded:
            self.state = EncoderState.WAITING
            for item in decoded:
                self.state, self.num_decoded = EncoderState.ENCODING, item.position + 1
                stop.check()
                yield item
                self.state = EncoderState.WAITING
            self.state = EncoderState.ENCODING


class InlineExecutor:
    """Units in threads of this process: as many at once as there are encoders.

    On a CPU each encodes with one torch thread. Convolutions of short clips are too small to be shared between
    threads, and threads that wait for each other on a busy machine cost tenfold (measured on 2 cores at load 6:
    1 x real time with 2 torch threads). On a GPU one unit decodes while the other encodes.

    Each lane decodes in a child process of its own, which it keeps: a record that crashes its decoder, hangs or eats
    memory costs itself alone, and the next ones are decoded while this process encodes.

    Args:
        job: What the units share.
        load_codec: Loads the codec that the job names; called once the children are starting.
        storage: The output.
        device: That the codec is on.
        encoders: Units at once; `auto`: one per CPU, or two on a GPU.
    """

    def __init__(
        self,
        job: UnitJob,
        *,
        load_codec: Callable[[], Codec],
        storage: Storage,
        device: Literal["cpu", "cuda"],
        encoders: int | Literal["auto"],
    ) -> None:
        self._job = job
        self._load_codec = load_codec
        self._storage = storage
        self._device = device
        self._num_lanes = (available_cpus() if device == "cpu" else GPU_LANES) if encoders == "auto" else encoders
        self._lanes: tuple[_Lane, ...] = ()
        self._idle_lanes: SimpleQueue[_Lane] = SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the decoders and load the codec.

        Raises:
            ConfigError: there is no such codec.
            IntegrityError: its weights are not those of the job.
        """
        with ExitStack() as stack:
            decoders = [stack.enter_context(_make_decoder(self._job)) for _ in range(self._num_lanes)]
            self._lanes = tuple(_Lane(f"encoder-{number}", decoder) for number, decoder in enumerate(decoders))
            for lane in self._lanes:
                lane.decoder.start()
                self._idle_lanes.put(lane)
            self._codec = self._load_codec()
            self._check_weights()
            for lane in self._lanes:
                lane.state = EncoderState.WAITING
            self._desk = open_desk(self._codec, device=self._device) if self._device == "cuda" else None
            if self._device == "cpu":
                from tokenizer_jobs.encoding import limit_torch_threads  # imports torch, which others do without

                stack.callback(limit_torch_threads, limit_torch_threads(1))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _check_weights(self) -> None:
        facts, expected = self._codec.describe(), self._job.weights_sha256
        if facts.weights_sha256 != expected:
            raise IntegrityError(
                f"{facts.name} was loaded with weights sha256 {facts.weights_sha256}; the job's are {expected}: it was "
                "changed since the run began; pin recipe.codec.revision, or put the model back, and run again"
            )

    def describe(self) -> str:
        """One line on where and how units are encoded."""
        return f"encoding in this process, {self._num_lanes} units at once on {self._device}"

    def look(self) -> list[EncoderNow]:
        """What each of the units at once is at."""
        return [lane.look() for lane in self._lanes]

    def run(self, units: Iterable[WorkUnit], *, stop: StopRequest) -> Iterator[UnitOutcome]:
        """Tokenize units until done or asked to stop.

        Raises:
            StorageOutageError: storage failed for every unit for too long.
        """
        open_units, running = _OpenUnits(units), dict[Future[UnitDone], _Try]()
        with ThreadPoolExecutor(self._num_lanes, thread_name_prefix="encoder") as lanes:
            try:
                while True:
                    while len(running) < self._num_lanes and not stop.requested and (one := open_units.take()):
                        running[lanes.submit(self._run_unit, one, stop=stop)] = one
                    if not running and (stop.requested or open_units.finished):
                        return
                    done, _ = wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                    if not running:
                        time.sleep(LOOK_SECONDS)
                    for future in done:
                        outcome = _settle(future, running.pop(future), open_units, num_others=len(running))
                        if outcome is not None:
                            yield outcome
            except Exception:
                stop.abandon()  # the pool waits for its threads, which need not finish their units
                raise

    def _run_unit(self, one: "_Try", *, stop: StopRequest) -> UnitDone:
        lane = self._idle_lanes.get()
        lane.num_items, lane.num_decoded = len(one.unit.items), 0
        try:
            # A unit that ends in the middle leaves nothing of itself in the decoder.
            with closing(lane.decode(enumerate(one.unit.items), stop=stop)) as decoded:
                return tokenize_unit(
                    one.unit,
                    decoded=decoded,
                    job=self._job,
                    codec=self._codec,
                    storage=self._storage,
                    attempt=one.number,
                    device=self._device,
                    desk=self._desk,
                )
        finally:
            lane.state, lane.num_items = EncoderState.WAITING, 0
            self._idle_lanes.put(lane)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    """One try at a unit."""

    unit: WorkUnit
    number: int = 1
    num_failures: int = 0
    """Of storage that served other units meanwhile."""


class _OpenUnits:
    """Units to be tried: those that met failing storage once their pause is over, then fresh ones."""

    def __init__(self, units: Iterable[WorkUnit]) -> None:
        self._supply = Supply(units)
        self._waiting: list[tuple[float, int, _Try]] = []
        self._order = count()
        self._outage = Outage()

    @property
    def finished(self) -> bool:
        """Nothing is left to be tried."""
        return self._supply.has_ended and not self._waiting

    def take(self) -> _Try | None:
        """What to try next; None when there is nothing now."""
        now = time.monotonic()
        is_due = self._waiting and (self._outage.is_open or self._waiting[0][0] <= now)
        if not is_due and (unit := self._supply.take(now=now)) is not None:
            heapq.heappush(self._waiting, (now, next(self._order), _Try(unit=unit)))
        due, _, one = self._waiting[0] if self._waiting else (math.inf, 0, None)
        if one is None or (due > now and not self._outage.is_open) or not self._outage.enter(one.unit.unit_id, now=now):
            return None
        return heapq.heappop(self._waiting)[2]

    def done(self, one: _Try) -> None:
        """Take note that a unit got through."""
        self._outage.passed(one.unit.unit_id)

    def failed(self, one: _Try, *, message: str, num_others: int) -> UnitFailed | None:
        """Plan the next try of a unit that met failing storage; None when there will be one."""
        now, unit = time.monotonic(), one.unit
        blameless = self._outage.failed(unit.unit_id, message=message, num_in_flight=num_others, now=now)
        again = _Try(unit=unit, number=one.number + 1, num_failures=one.num_failures + (not blameless))
        pause = 0.0
        if not blameless:
            if again.num_failures >= MAX_STORAGE_FAILURES:
                return UnitFailed(unit=unit, attempts=one.number, message=message)
            pause = pause_seconds(again.num_failures, key=unit.unit_id)
            _log.warning("%s, attempt %d, tried again in %.0f s: %s", unit.part_name, one.number, pause, message)
        heapq.heappush(self._waiting, (now + pause, next(self._order), again))
        return None


def _settle(future: Future[UnitDone], one: _Try, open_units: _OpenUnits, *, num_others: int) -> UnitOutcome | None:
    """Take note of a try that ended; None when the unit will be tried again, or was abandoned."""
    try:
        done = future.result()
    except UnitAbandonedError:
        return None
    except TransientError as error:
        return open_units.failed(one, message=str(error), num_others=num_others)
    open_units.done(one)
    return done
