"""The desk: one codec, or one device, that several units share."""

import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast
from weakref import WeakSet

from tokenizer_jobs.encoding.codec import Codec, EncodeStream, LaneCodec, PaddingCodec, StreamingCodec, Waveform
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import EncodedItem, EncodeFigures

__all__ = ["DeskStream", "EncodeDesk", "open_desk"]

FEW_ITEMS = 4
"""A call of fewer items waits for another unit's; 4 together take as long per item as 16, a lone one 15 % longer."""
PATIENCE = 0.004
"""Seconds it waits for each second of audio it holds: a tenth of what encoding takes on a core. A stream waits no
longer than the latest call of streams took, which is less on a GPU."""
TURN_SECONDS = 30
"""Audio of a stream that is encoded in one turn: a quarter of a batch, so that other units need not wait long."""

Result = TypeVar("Result")


def open_desk(codec: Codec, *, device: Literal["cpu", "cuda"]) -> "EncodeDesk":
    """Return the desk of a codec that several units share, where what may meet on its device meets.

    On x86 items and streams get the same bits in every company; on other CPUs nobody has looked. On a GPU the bits of
    items follow from the shape of their batch, which is the unit's own; those of streams that meet do not change it.
    """
    is_known = device == "cpu" and platform.machine() in ("x86_64", "AMD64")
    return EncodeDesk(codec, merges=is_known, merges_streams=is_known or device == "cuda")


class EncodeDesk:
    """One codec that several units share: one call at a time, in which units that bring few items meet.

        unit A ── batch of 1 item ──┐                       unit C ── 30 s of a stream ──┐
        unit B ── batch of 1 item ──┴──▶ one call           unit D ── 30 s of a stream ──┴──▶ one call

    A lone item takes longer than two together (1 x 20 s against 2 x 10 s on one core: 45 against 41 ms per second of
    audio), and so does a lone stream, so a call of few items, or of a stream, waits a moment for another unit's.

    Args:
        codec: The codec.
        merges: Whether batches of units may meet in a call: what becomes of an item must not depend on its company.
        merges_streams: Whether streams may, where the codec is a `LaneCodec`; None: as batches.
    """

    def __init__(self, codec: Codec, *, merges: bool, merges_streams: bool | None = None) -> None:
        self._codec = codec
        self._merges = merges
        merges_streams = merges if merges_streams is None else merges_streams
        self._max_lanes = max(1, codec.max_lanes) if merges_streams and isinstance(codec, LaneCodec) else 1
        self._sample_rate = codec.describe().sample_rate
        self._turn = threading.Condition()
        self._num_units = 0
        self._waiting: list[_Call] = []
        self._streams: WeakSet[DeskStream] = WeakSet()
        """That have not ended; those of items that became rejects are dropped by their units."""
        self._streams_seconds = float("inf")
        """That the latest call of streams took."""
        self._is_encoding = False
        self.busy_seconds = 0.0
        """In which the codec worked, so far."""

    @contextmanager
    def unit(self) -> Iterator[None]:
        """Be at work on a unit, for which others may wait."""
        with self._turn:
            self._num_units += 1
        try:
            yield
        finally:
            with self._turn:
                self._num_units -= 1
                self._turn.notify_all()

    def encode(self, waveforms: Sequence[Waveform]) -> tuple[list[EncodedItem], EncodeFigures]:
        """Encode waveforms [C, n] when it is their turn.

        Returns:
            The items, and what they took: where units met, in proportion to samples.
        """
        return self._settle(_Call(waveforms, sum(waveform.shape[1] for waveform in waveforms)))

    def stream(self) -> "DeskStream":
        """Begin a recording that comes in stretches; each push waits for its turn, and none is held in between.

        Raises:
            IntegrityError: the codec takes recordings whole.
        """
        codec = self._codec
        if not isinstance(codec, StreamingCodec) or not codec.describe().streamed:
            raise IntegrityError(
                f"codec {codec.describe().name} takes recordings whole, and one came in stretches; "
                "the facts that it was planned with say otherwise"
            )
        stream, figures = self.alone(codec.stream)
        begun = DeskStream(self, stream, figures=figures, turn_samples=TURN_SECONDS * self._sample_rate)
        with self._turn:
            self._streams.add(begun)
        return begun

    def push(self, stream: EncodeStream, waveform: Waveform) -> EncodeFigures:
        """Push samples [C, n] into a stream of the codec when it is its turn, and return what they took, as `encode`.

        Streams of other units that come meanwhile go with it, where they may meet.
        """
        if self._max_lanes == 1:
            return self.alone(lambda: stream.push(waveform), num_samples=waveform.shape[1])[1]
        return self._settle(_Call([waveform], waveform.shape[1], stream=stream))[1]

    def alone(self, work: "Callable[[], Result]", *, num_samples: int = 0) -> tuple[Result, EncodeFigures]:
        """Do something with the codec when it is its turn, in nobody's company.

        Args:
            work: What is to be done.
            num_samples: Per channel, that it encodes.

        Returns:
            Its result, and what it took.
        """
        result, figures = self._settle(_Call((), num_samples, work=work))
        return cast(Result, result), figures

    def end(self, stream: "DeskStream") -> None:
        """Take note that nothing more comes of a recording."""
        with self._turn:
            self._streams.discard(stream)
            self._turn.notify_all()

    def _settle(self, call: "_Call") -> tuple[Any, EncodeFigures]:
        """Wait until a call is done, by the one that was first of those in it; it is that one's turn to do it."""
        with self._turn:
            self._waiting.append(call)
            self._turn.notify_all()
            self._turn.wait_for(lambda: call.is_done or (not self._is_encoding and self._waiting[0] is call))
            if call.is_done:
                return call.outcome()
            self._is_encoding = True
            together = self._take_first()
        try:
            self._compute(together)
        except BaseException as error:
            for each in together:
                each.error = error
            raise
        finally:
            with self._turn:
                self._is_encoding = False
                for each in together:
                    each.is_done = True
                self._turn.notify_all()
        return call.outcome()

    def _take_first(self) -> "list[_Call]":
        first = self._waiting[0]
        if first.stream is not None:
            return self._take_streams(first)
        if first.work is not None or not self._merges or len(first.waveforms) >= FEW_ITEMS:
            return [self._waiting.pop(0)]
        patience = PATIENCE * first.num_samples / self._sample_rate
        self._turn.wait_for(lambda: len(self._waiting) > 1 or self._num_units < 2, timeout=patience)
        together: list[_Call] = []
        while self._waiting and self._waiting[0].is_batch and _num_items(together) < FEW_ITEMS:
            together.append(self._waiting.pop(0))
        return together

    def _take_streams(self, first: "_Call") -> "list[_Call]":
        """Take the streams that are there, also from behind other calls, which wait for some lanes more."""

        def pushes() -> list[_Call]:
            return [call for call in self._waiting if call.stream is not None][: self._max_lanes]

        patience = min(PATIENCE * first.num_samples / self._sample_rate, self._streams_seconds)
        self._turn.wait_for(lambda: len(pushes()) >= min(self._max_lanes, self._num_pushing()), timeout=patience)
        together = pushes()
        self._waiting = [call for call in self._waiting if call not in together]
        return together

    def _num_pushing(self) -> int:
        """Units that have a stream open; a unit's own streams are pushed one after the other."""
        return len({stream.thread for stream in self._streams})

    def _compute(self, together: "Sequence[_Call]") -> None:
        start, padded = time.monotonic(), self._num_padded()
        for call, result in zip(together, self._results(together), strict=True):
            call.result = result
        seconds, padded = time.monotonic() - start, self._num_padded() - padded
        self.busy_seconds += seconds
        if together[0].stream is not None:
            self._streams_seconds = seconds
        num_samples, peak_items = sum(call.num_samples for call in together), _num_items(together)
        for call in together:
            share = call.num_samples / num_samples if num_samples else 1.0
            call.figures = EncodeFigures(
                seconds=seconds * share,
                wait_seconds=start + seconds * (1 - share) - call.came,
                num_calls=bool(call.num_samples),
                peak_items=peak_items,
                num_samples=call.num_samples,
                num_padded_samples=round(padded * share),
            )

    def _results(self, together: "Sequence[_Call]") -> list[Any]:
        """Do what some calls of one kind ask for, and return what each gets."""
        first = together[0]
        if first.work is not None:
            return [first.work()]
        if first.stream is not None:
            assert isinstance(self._codec, LaneCodec)
            pushes = [(call.stream, call.waveforms[0]) for call in together if call.stream is not None]
            self._codec.push_together(pushes)
            return [None] * len(together)
        items = iter(self._codec.encode([waveform for call in together for waveform in call.waveforms]))
        return [[next(items) for _ in call.waveforms] for call in together]

    def _num_padded(self) -> int:
        return self._codec.num_padded_samples if isinstance(self._codec, PaddingCodec) else 0


class DeskStream:
    """One recording that is encoded in stretches, in turns of the desk.

    Args:
        desk: The desk.
        stream: Of its codec.
        figures: What it took so far.
        turn_samples: Samples that are encoded in one turn, at most.
    """

    def __init__(self, desk: EncodeDesk, stream: EncodeStream, *, figures: EncodeFigures, turn_samples: int) -> None:
        self._desk = desk
        self._stream = stream
        self._turn_samples = turn_samples
        self._figures = figures
        self.thread = threading.get_ident()
        """Of its unit."""

    def push(self, waveform: Waveform) -> EncodeFigures:
        """Encode the next samples [C, n], n >= 0, and return what they took."""
        for start in range(0, waveform.shape[1], self._turn_samples):
            self._figures += self._desk.push(self._stream, waveform[:, start : start + self._turn_samples])
        return self._taken()

    def finish(self) -> tuple[EncodedItem, EncodeFigures]:
        """End the recording and return its codes, and what it took as `push` does."""
        self._desk.end(self)
        encoded, figures = self._desk.alone(self._stream.finish)
        self._figures += figures
        return encoded, self._taken()

    def _taken(self) -> EncodeFigures:
        figures, self._figures = self._figures, EncodeFigures()
        return figures


@dataclass(slots=True, eq=False)
class _Call:
    """What one unit asks of the desk: a batch, the next samples of a stream, or work that nobody joins."""

    waveforms: Sequence[Waveform]
    """Of a batch, or the one of a stream."""
    num_samples: int
    """Per channel, that it encodes."""
    stream: EncodeStream | None = None
    work: Callable[[], Any] | None = None
    came: float = field(default_factory=time.monotonic)
    """When, on the monotonic clock."""
    result: Any = None
    """The items of a batch; what the work returned."""
    figures: EncodeFigures = field(default_factory=EncodeFigures)
    error: BaseException | None = None
    is_done: bool = False

    @property
    def is_batch(self) -> bool:
        return self.stream is None and self.work is None

    @property
    def num_items(self) -> int:
        return len(self.waveforms) if self.work is None else int(self.num_samples > 0)

    def outcome(self) -> tuple[Any, EncodeFigures]:
        if self.error is not None:
            raise self.error
        return self.result, self.figures


def _num_items(calls: Sequence[_Call]) -> int:
    return sum(call.num_items for call in calls)
