"""The desk: one codec, or one device, that several units share."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from tokenizer_jobs.encoding.codec import Codec, EncodeStream, StreamingCodec, Waveform
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import EncodedItem

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

    def encode(self, waveforms: Sequence[Waveform]) -> tuple[list[EncodedItem], float]:
        """Encode waveforms [C, n] when it is their turn.

        Returns:
            The items, and the seconds that they took of the codec's time: where units met, in proportion to samples.
        """
        call = _Call(waveforms)
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
        stream, seconds = self.alone(codec.stream)
        return DeskStream(self, stream, seconds=seconds, turn_samples=TURN_SECONDS * self._sample_rate)

    def alone(self, work: "Callable[[], Result]") -> tuple[Result, float]:
        """Do something with the codec when it is its turn, in nobody's company.

        Returns:
            Its result, and the seconds that it took.
        """
        call = _Call((), is_alone=True)
        with self._turn:
            self._waiting.append(call)
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._is_encoding and self._waiting[0] is call)
            self._waiting.pop(0)
            self._is_encoding = True
        start = time.monotonic()
        try:
            return work(), time.monotonic() - start
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
        start = time.monotonic()
        items = iter(self._codec.encode([waveform for call in together for waveform in call.waveforms]))
        seconds = time.monotonic() - start
        num_samples = sum(call.num_samples for call in together)
        for call in together:
            call.encoded = [next(items) for _ in call.waveforms]
            call.seconds = seconds * call.num_samples / num_samples


class DeskStream:
    """One recording that is encoded in stretches, in turns of the desk.

    Args:
        desk: The desk.
        stream: Of its codec.
        seconds: What it took of the codec's time so far.
        turn_samples: Samples that are encoded in one turn, at most.
    """

    def __init__(self, desk: EncodeDesk, stream: EncodeStream, *, seconds: float, turn_samples: int) -> None:
        self._desk = desk
        self._stream = stream
        self._turn_samples = turn_samples
        self._seconds = seconds

    def push(self, waveform: Waveform) -> float:
        """Encode the next samples [C, n], n >= 0, and return the seconds that they took of the codec's time."""
        for start in range(0, waveform.shape[1], self._turn_samples):
            block = waveform[:, start : start + self._turn_samples]
            _, seconds = self._desk.alone(lambda block=block: self._stream.push(block))  # type: ignore[misc]
            self._seconds += seconds
        return self._taken()

    def finish(self) -> tuple[EncodedItem, float]:
        """End the recording and return its codes, and the seconds as `push` does."""
        encoded, seconds = self._desk.alone(self._stream.finish)
        self._seconds += seconds
        return encoded, self._taken()

    def _taken(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(slots=True, eq=False)
class _Call:
    """What one unit asks of the desk."""

    waveforms: Sequence[Waveform]
    is_alone: bool = False
    """Whether no other unit may join it."""
    encoded: list[EncodedItem] | None = None
    seconds: float = 0.0
    error: BaseException | None = None
    is_done: bool = False

    @property
    def num_samples(self) -> int:
        return sum(waveform.shape[1] for waveform in self.waveforms)

    def outcome(self) -> tuple[list[EncodedItem], float]:
        if self.encoded is None:
            assert self.error is not None
            raise self.error
        return self.encoded, self.seconds


def _num_items(calls: Sequence[_Call]) -> int:
    return sum(len(call.waveforms) for call in calls)
