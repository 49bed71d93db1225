"""The desk: one codec, or one device, that several units share."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tokenizer_jobs.encoding.codec import Codec, EncodeStream, PaddingCodec, StreamingCodec, Waveform
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import EncodedItem, EncodeFigures

__all__ = ["DeskStream", "EncodeDesk"]

FEW_ITEMS = 4
"""A call of fewer items waits for another unit's; 4 together take as long per item as 16, a lone one 15 % longer."""
PATIENCE = 0.004
"""Seconds it waits for each second of audio it holds: a tenth of what encoding takes on a core."""
TURN_SECONDS = 30
"""Audio of a stream that is encoded in one turn: a quarter of a batch, so that other units need not wait long."""

Result = TypeVar("Result")


class EncodeDesk:
    """One codec that several units share: one call at a time, in which units that bring few items meet.

        unit A ── batch of 1 item ──┐
        unit B ── batch of 1 item ──┴──▶ one call of 2 items

    A lone item takes longer than two together (1 x 20 s against 2 x 10 s on one core: 45 against 41 ms per second of
    audio), so a call of few items waits a moment for another unit's.

    Args:
        codec: The codec.
        merges: Whether units may meet in a call: what becomes of an item must not depend on its company.
    """

    def __init__(self, codec: Codec, *, merges: bool) -> None:
        self._codec = codec
        self._merges = merges
        self._sample_rate = codec.describe().sample_rate
        self._turn = threading.Condition()
        self._num_units = 0
        self._waiting: list[_Call] = []
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
        call = _Call(waveforms, came=time.monotonic())
        with self._turn:
            self._waiting.append(call)
            self._turn.notify_all()
            self._turn.wait_for(lambda: call.is_done or (not self._is_encoding and self._waiting[0] is call))
            if call.is_done:
                return call.outcome()
            self._is_encoding = True
            together = self._take_first()
        try:
            self._encode(together)
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
        return DeskStream(self, stream, figures=figures, turn_samples=TURN_SECONDS * self._sample_rate)

    def alone(self, work: "Callable[[], Result]", *, num_samples: int = 0) -> tuple[Result, EncodeFigures]:
        """Do something with the codec when it is its turn, in nobody's company.

        Args:
            work: What is to be done.
            num_samples: Per channel, that it encodes.

        Returns:
            Its result, and what it took.
        """
        call = _Call((), came=time.monotonic(), is_alone=True)
        with self._turn:
            self._waiting.append(call)
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._is_encoding and self._waiting[0] is call)
            self._waiting.pop(0)
            self._is_encoding = True
        start, padded = time.monotonic(), self._num_padded()
        try:
            result = work()
            seconds = time.monotonic() - start
            self.busy_seconds += seconds
            return result, EncodeFigures(
                seconds=seconds,
                wait_seconds=start - call.came,
                num_calls=bool(num_samples),
                peak_items=bool(num_samples),
                num_samples=num_samples,
                num_padded_samples=self._num_padded() - padded,
            )
        finally:
            with self._turn:
                self._is_encoding = False
                self._turn.notify_all()

    def _take_first(self) -> "list[_Call]":
        if not self._merges or len(self._waiting[0].waveforms) >= FEW_ITEMS:
            return [self._waiting.pop(0)]
        patience = PATIENCE * self._waiting[0].num_samples / self._sample_rate
        self._turn.wait_for(lambda: len(self._waiting) > 1 or self._num_units < 2, timeout=patience)
        together: list[_Call] = []
        while self._waiting and not self._waiting[0].is_alone and _num_items(together) < FEW_ITEMS:
            together.append(self._waiting.pop(0))
        return together

    def _encode(self, together: "Sequence[_Call]") -> None:
        start, padded = time.monotonic(), self._num_padded()
        items = iter(self._codec.encode([waveform for call in together for waveform in call.waveforms]))
        seconds, padded = time.monotonic() - start, self._num_padded() - padded
        self.busy_seconds += seconds
        num_samples, peak_items = sum(call.num_samples for call in together), _num_items(together)
        for call in together:
            call.encoded = [next(items) for _ in call.waveforms]
            share = call.num_samples / num_samples
            call.figures = EncodeFigures(
                seconds=seconds * share,
                wait_seconds=start + seconds * (1 - share) - call.came,
                num_calls=1,
                peak_items=peak_items,
                num_samples=call.num_samples,
                num_padded_samples=round(padded * share),
            )

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

    def push(self, waveform: Waveform) -> EncodeFigures:
        """Encode the next samples [C, n], n >= 0, and return what they took."""
        for start in range(0, waveform.shape[1], self._turn_samples):
            block = waveform[:, start : start + self._turn_samples]
            _, figures = self._desk.alone(
                lambda block=block: self._stream.push(block),  # type: ignore[misc]
                num_samples=block.shape[1],
            )
            self._figures += figures
        return self._taken()

    def finish(self) -> tuple[EncodedItem, EncodeFigures]:
        """End the recording and return its codes, and what it took as `push` does."""
        encoded, figures = self._desk.alone(self._stream.finish)
        self._figures += figures
        return encoded, self._taken()

    def _taken(self) -> EncodeFigures:
        figures, self._figures = self._figures, EncodeFigures()
        return figures


@dataclass(slots=True, eq=False)
class _Call:
    """What one unit asks of the desk."""

    waveforms: Sequence[Waveform]
    came: float
    """When, on the monotonic clock."""
    is_alone: bool = False
    """Whether no other unit may join it."""
    encoded: list[EncodedItem] | None = None
    figures: EncodeFigures = field(default_factory=EncodeFigures)
    error: BaseException | None = None
    is_done: bool = False

    @property
    def num_samples(self) -> int:
        return sum(waveform.shape[1] for waveform in self.waveforms)

    def outcome(self) -> tuple[list[EncodedItem], EncodeFigures]:
        if self.encoded is None:
            assert self.error is not None
            raise self.error
        return self.encoded, self.figures


def _num_items(calls: Sequence[_Call]) -> int:
    return sum(len(call.waveforms) for call in calls)
