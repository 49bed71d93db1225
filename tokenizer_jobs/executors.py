"""Where units are tokenized: the executor protocol, and the executor that uses this process alone."""

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Literal, Protocol, Self

from tokenizer_jobs.decode import decode_items
from tokenizer_jobs.encoding import Codec, EncodeDesk, limit_torch_threads
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.isolation import IsolatedDecoder
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.pipeline import UnitDone, UnitJob, tokenize_unit
from tokenizer_jobs.records import Decoded, Item, WorkUnit
from tokenizer_jobs.sources import lives_in_memory, make_source
from tokenizer_jobs.stopping import StopRequest, UnitAbandonedError
from tokenizer_jobs.storage import Storage

__all__ = ["Executor", "InlineExecutor", "UnitFailed", "UnitOutcome"]

GPU_LANES = 2
"""Units at once on a GPU: one decodes while the other encodes."""
MAX_TRANSIENT_FAILURES = 3
"""Tries of one unit against failing storage before the job gives it up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailed:
    """A unit that was given up; it stays open and the next run tries it again."""

    unit: WorkUnit
    attempts: int
    message: str


UnitOutcome = UnitDone | UnitFailed


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
        self._idle_decoders: SimpleQueue[_Decoder] = SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the decoders and load the codec.

        Raises:
            ConfigError: there is no such codec.
        """
        with ExitStack() as stack:
            for _ in range(self._num_lanes):
                decoder = stack.enter_context(_make_decoder(self._job))
                self._idle_decoders.put(decoder)
                decoder.start()
            self._codec = self._load_codec()
            self._desk = EncodeDesk(self._codec, merges=False) if self._device == "cuda" else None
            if self._device == "cpu":
                stack.callback(limit_torch_threads, limit_torch_threads(1))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def describe(self) -> str:
        """One line on where and how units are encoded."""
        return f"encoding in this process, {self._num_lanes} units at once on {self._device}"

    def run(self, units: Iterable[WorkUnit], *, stop: StopRequest) -> Iterator[UnitOutcome]:
        """Tokenize units until done or asked to stop."""
        waiting, running = iter(units), set[Future[UnitOutcome]]()
        with ThreadPoolExecutor(self._num_lanes, thread_name_prefix="encoder") as lanes:
            try:
                while True:
                    while len(running) < self._num_lanes and not stop.requested and (unit := next(waiting, None)):
                        running.add(lanes.submit(self._run_unit, unit, stop=stop))
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        with suppress(UnitAbandonedError):
                            yield future.result()
            except Exception:
                stop.abandon()  # the pool waits for its threads, which need not finish their units
                raise

    def _run_unit(self, unit: WorkUnit, *, stop: StopRequest) -> UnitOutcome:
        decoder = self._idle_decoders.get()
        try:
            return self._try_unit(unit, decoder=decoder, stop=stop)
        finally:
            self._idle_decoders.put(decoder)

    def _try_unit(self, unit: WorkUnit, *, decoder: _Decoder, stop: StopRequest) -> UnitOutcome:
        message = ""
        for attempt in range(1, MAX_TRANSIENT_FAILURES + 1):
            # A unit that ends in the middle leaves nothing of itself in the decoder.
            with closing(_checked(decoder.decode(enumerate(unit.items)), stop=stop)) as decoded:
                try:
                    return tokenize_unit(
                        unit,
                        decoded=decoded,
                        job=self._job,
                        codec=self._codec,
                        storage=self._storage,
                        attempt=attempt,
                        device=self._device,
                        desk=self._desk,
                    )
                except TransientError as error:
                    message = str(error)
        return UnitFailed(unit=unit, attempts=MAX_TRANSIENT_FAILURES, message=message)


def _checked(decoded: Generator[Decoded, None, None], *, stop: StopRequest) -> Generator[Decoded, None, None]:
    with closing(decoded):
        for item in decoded:
            stop.check()
            yield item
