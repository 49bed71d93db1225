"""Where units are tokenized: the executor protocol, and the executor that uses this process alone."""

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol, Self

from tokenizer_jobs.breadcrumbs import Breadcrumbs
from tokenizer_jobs.encoding import Codec, EncodeDesk, limit_torch_threads
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.pipeline import UnitDone, UnitJob, decode_unit, tokenize_unit
from tokenizer_jobs.records import Decoded, WorkUnit
from tokenizer_jobs.sources import make_source
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


class InlineExecutor:
    """Units in threads of this process: as many at once as there are encoders.

    On a CPU each encodes with one torch thread. Convolutions of short clips are too small to be shared between
    threads, and threads that wait for each other on a busy machine cost tenfold (measured on 2 cores at load 6:
    1 x real time with 2 torch threads). On a GPU one unit decodes while the other encodes.

    A breadcrumb says which units are in hand. Where one is found at the start of a unit, an earlier process died on
    it, and the unit is decoded carefully: in a child process that may die.

    Args:
        job: What the units share.
        codec: The codec that the job names.
        storage: The output.
        breadcrumbs: Where the units in hand are marked.
        device: That the codec is on.
        encoders: Units at once; `auto`: one per CPU, or two on a GPU.
    """

    def __init__(
        self,
        job: UnitJob,
        *,
        codec: Codec,
        storage: Storage,
        breadcrumbs: Breadcrumbs,
        device: Literal["cpu", "cuda"],
        encoders: int | Literal["auto"],
    ) -> None:
        self._job = job
        self._codec = codec
        self._storage = storage
        self._breadcrumbs = breadcrumbs
        self._device = device
        self._num_lanes = (available_cpus() if device == "cpu" else GPU_LANES) if encoders == "auto" else encoders
        self._desk = EncodeDesk(codec, merges=False) if device == "cuda" else None
        self._source = make_source(job.source)

    def __enter__(self) -> Self:
        if self._device == "cpu":
            self._threads_before = limit_torch_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        if self._device == "cpu":
            limit_torch_threads(self._threads_before)

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
        careful = self._breadcrumbs.found(unit.unit_id)
        self._breadcrumbs.mark(unit.unit_id)
        try:
            return self._try_unit(unit, careful=careful, stop=stop)
        finally:
            # Reached however the unit ends, but not when the process dies: then the mark stays.
            self._breadcrumbs.clear(unit.unit_id)

    def _try_unit(self, unit: WorkUnit, *, careful: bool, stop: StopRequest) -> UnitOutcome:
        message = ""
        for attempt in range(1, MAX_TRANSIENT_FAILURES + 1):
            decoded = decode_unit(list(enumerate(unit.items)), job=self._job, source=self._source, careful=careful)
            try:
                return tokenize_unit(
                    unit,
                    decoded=_checked(decoded, stop=stop),
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


def _checked(decoded: Iterator[Decoded], *, stop: StopRequest) -> Iterator[Decoded]:
    for item in decoded:
        stop.check()
        yield item
