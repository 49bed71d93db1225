"""Decode items in a child process that may die: a record that kills its worker costs itself and nothing else.

The `inline` executor decodes so always, a cluster after it lost a worker. A child that dies, hangs or eats memory is
ended and replaced. Items that it had given whole stand. What is left of its run is tried again item by item; two
strikes on an item alone make it a reject.

    parent   wait ◀──       run r0 r1 ──▶    r0 ◀──        EOF: new child, r1 alone ──▶    EOF: strike 1, r1 again …
    child    start ──▶ ready       decode r0 ──▶ r1 ✗ dies               r1 ✗ dies

What an item gave before a death is not given again: decoding is deterministic, so the retry skips as much. A child that
dies before it is ready is no record's fault: that is raised.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import groupby
from types import TracebackType
from typing import Self

from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.errors import IntegrityError, Stage, TransientError
from tokenizer_jobs.isolation.child import Child, EndOfRun, Run
from tokenizer_jobs.isolation.limits import DecodeLimits
from tokenizer_jobs.isolation.process import ChildLostError, ChildProcess, Clock
from tokenizer_jobs.records import Decoded, DecodedItem, DecodedStretch, Item, RejectedItem, RowPlace
from tokenizer_jobs.source_config import SourceConfig

__all__ = ["IsolatedDecoder", "decode_isolated", "same_recording"]

MAX_STRIKES = 2
"""Losses of a child on one item alone after which it is blamed. One can be chance: an OOM-killer, a preemption."""


def decode_isolated(
    items: Sequence[tuple[int, Item]], *, source: SourceConfig, target: AudioTarget, limits: DecodeLimits
) -> Iterator[Decoded]:
    """Decode items in order in a child process of their own, as `IsolatedDecoder.decode`."""
    with IsolatedDecoder(source=source, target=target, limits=limits) as decoder:
        yield from decoder.decode(items)


def same_recording(item: Item) -> tuple[str, str | None, int | None]:
    """What neighbouring items share that are cuts of one recording: they are decoded in one pass."""
    return item.source_uri, item.source_member, item.source_row


_Signature = tuple[RowPlace, tuple[int, ...], bool]
"""Of what was given: the row that it belongs to, the waveform's shape, whether the row ended."""
_Given = list[_Signature]


class IsolatedDecoder:
    """Decodes in a child process, which is started when needed and replaced when lost; a context manager.

    Args:
        source: The source that opens the items; built anew in the child.
        target: What the waveforms should be.
        limits: What the child may take for one record.
    """

    def __init__(self, *, source: SourceConfig, target: AudioTarget, limits: DecodeLimits) -> None:
        self._child = ChildProcess(Child(source=source, target=target, limits=limits))
        self._limits = limits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._child.end(at_once=error is not None)

    def start(self) -> None:
        """Start the child without waiting until it is ready; it takes 0.4 s of a CPU."""
        self._child.start()

    def decode(self, items: Iterable[tuple[int, Item]]) -> Generator[Decoded, None, None]:
        """Decode items in order, neighbouring cuts of one recording in one pass; one call at a time.

        Args:
            items: Pairs of position and item.

        Raises:
            TransientError: the child could not start, or the storage failed.
            Exception: what making the source (of ours) or decoding (of any kind) raised in the child.
        """
        waiting: deque[Run] = deque(
            tuple(run) for _, run in groupby(items, key=lambda record: same_recording(record[1]))
        )
        done = False
        try:
            while waiting:
                yield from self._decode_first(waiting)
                waiting.popleft()
            done = True
        finally:
            if not done:  # the child may be in the middle of what nobody will take
                self._child.end(at_once=True)

    def _decode_first(self, waiting: deque[Run]) -> Iterator[Decoded]:
        """Give what the first run decodes to; the next ones are told to the child already."""
        run, given, done = waiting[0], _Given(), list[int]()
        try:
            yield from self._attempt(waiting, given, done)
            return
        except ChildLostError as lost:
            strike = lost if len(run) == 1 else None
        for record in run[len(done) :]:
            yield from self._decode_alone(record, given, strike)
            given = _Given()

    def _decode_alone(
        self, record: tuple[int, Item], given: _Given, strike: ChildLostError | None
    ) -> Iterator[Decoded]:
        """Decode one item by itself, or blame it.

        Args:
            record: Position and item.
            given: What the consumer has of it.
            strike: How a child was lost on this item alone; None: none was.
        """
        strikes = 0 if strike is None else 1
        while strikes < MAX_STRIKES:
            try:
                yield from self._attempt(deque([(record,)]), given, [])
                return
            except ChildLostError as lost:
                strike, strikes = lost, strikes + 1
        assert strike is not None
        yield RejectedItem(
            position=record[0],
            stage=Stage.DECODE,
            reason=strike.reason,
            message=f"{strike}, {strikes} times on this record alone",
            attempts=strikes,  # alone: what died elsewhere or in company differs between executors
        )

    def _attempt(self, waiting: deque[Run], given: _Given, done: list[int]) -> Iterator[Decoded]:
        """Decode the first of the runs that wait.

        Args:
            waiting: The run, and those that come after it.
            given: What the consumer has of the run's first item, which is skipped; kept up to date for the item in
                hand.
            done: Positions of items that were given whole; added to.

        Raises:
            ChildLostError: the child was lost; the next attempt starts another.
        """
        run, skipped = waiting[0], deque(given)
        self._child.await_ready()
        self._child.ask(waiting)
        for position, item in run:
            for decoded in self._receive_item(position, item):
                if isinstance(decoded, RejectedItem):
                    yield decoded
                elif skipped:
                    _check_equal(decoded, skipped.popleft())
                else:
                    given.append(_signature(decoded))
                    yield decoded
            given.clear()
            done.append(position)
        self._child.receive_end(Clock(self._limits.seconds_for(run[-1][1])))

    def _receive_item(self, position: int, item: Item) -> Iterator[Decoded]:
        """All that one item decodes to; its clock runs while the child is waited for."""
        clock, is_last = Clock(self._limits.seconds_for(item)), False
        while not is_last:
            decoded = self._child.receive(clock)
            if isinstance(decoded, EndOfRun) or decoded.position != position:
                raise IntegrityError(f"decoding gave {decoded} where the item at position {position} is due")
            is_last = decoded.is_last
            yield decoded


def _signature(decoded: DecodedItem | DecodedStretch) -> _Signature:
    return decoded.place, decoded.waveform.shape, decoded.facts is not None


def _check_equal(decoded: DecodedItem | DecodedStretch, given: _Signature) -> None:
    if _signature(decoded) != given:
        raise TransientError(f"decoded again after a crash, {decoded} came where {given} had been given")
