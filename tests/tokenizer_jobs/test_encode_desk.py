import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.tokenizer_jobs.cluster_parts import HashCodec
from tests.tokenizer_jobs.factories import FACTS
from tokenizer_jobs.encoding import EncodeStream, LaneCodec, Waveform
from tokenizer_jobs.encoding.desk import TURN_SECONDS, EncodeDesk, open_desk
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.records import EncodedItem, EncodeFigures


class NotingCodec(HashCodec):
    """Notes how many items each call holds, and whether two calls ran at once."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self._busy = threading.Lock()

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        assert self._busy.acquire(blocking=False), "two calls at once"
        try:
            self.calls.append(len(waveforms))
            time.sleep(0.01)
            return super().encode(waveforms)
        finally:
            self._busy.release()


class StreamingNotes(NotingCodec):
    """Streams keep what is pushed, and encode it when they end."""

    def stream(self) -> "NotingStream":
        return NotingStream(self)


class NotingStream:
    def __init__(self, codec: StreamingNotes) -> None:
        self._codec = codec
        self._pushed: list[Waveform] = []

    def push(self, waveform: Waveform) -> None:
        assert self._codec._busy.acquire(blocking=False), "two calls at once"
        self._pushed.append(waveform)
        time.sleep(0.002)
        self._codec._busy.release()

    def finish(self) -> EncodedItem:
        assert max(piece.shape[1] for piece in self._pushed) <= TURN_SECONDS * FACTS.sample_rate
        return self._codec.encode([np.concatenate(self._pushed, axis=1)])[0]


class LaneNotes(StreamingNotes):
    """Notes how many streams each call holds."""

    max_lanes = 4

    def __init__(self) -> None:
        super().__init__()
        self.pushes: list[int] = []

    def push_together(self, pushes: Sequence[tuple[EncodeStream, Waveform]]) -> None:
        assert len({id(stream) for stream, _ in pushes}) == len(pushes)
        self.pushes.append(len(pushes))
        for stream, waveform in pushes:
            stream.push(waveform)


class BrokenLanes(LaneNotes):
    def push_together(self, pushes: Sequence[tuple[EncodeStream, Waveform]]) -> None:
        raise ValueError(f"{len(pushes)} streams")


class BrokenCodec(HashCodec):
    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        raise ValueError(f"{len(waveforms)} items")


def waveform(number: int, *, seconds: float = 0.1) -> Waveform:
    return np.random.default_rng(number).uniform(-1, 1, (1, round(seconds * FACTS.sample_rate))).astype(np.float32)


def encode_in_units(desk: EncodeDesk, units: Sequence[Sequence[Sequence[Waveform]]]) -> list[list[EncodedItem]]:
    """Each unit's batches in a thread of its own, all units open before the first call; items by unit."""
    opened = threading.Barrier(len(units))

    def run(batches: Sequence[Sequence[Waveform]]) -> list[EncodedItem]:
        with desk.unit():
            opened.wait()
            return [item for batch in batches for item in desk.encode(batch)[0]]

    with ThreadPoolExecutor(len(units)) as threads:
        return list(threads.map(run, units))


@pytest.mark.parametrize("merges", [False, True])
def test_every_unit_gets_the_codes_of_its_own_items(merges: bool) -> None:
    units = [[[waveform(100 * unit + item) for item in range(size)] for size in (1, 5, 2)] for unit in range(4)]
    expected = [HashCodec().encode([item for batch in batches for item in batch]) for batches in units]
    codec = NotingCodec()
    made = encode_in_units(EncodeDesk(codec, merges=merges), units)
    for items, alone in zip(made, expected, strict=True):
        assert all(np.array_equal(one.codes, other.codes) for one, other in zip(items, alone, strict=True))
    assert sum(codec.calls) == 4 * 8


def test_units_of_one_long_item_meet_in_a_call() -> None:
    codec = NotingCodec()
    encode_in_units(EncodeDesk(codec, merges=True), [[[waveform(unit, seconds=60.0)]] for unit in range(2)])
    assert codec.calls == [2]


def test_units_do_not_meet_where_company_may_change_codes() -> None:
    codec = NotingCodec()
    encode_in_units(EncodeDesk(codec, merges=False), [[[waveform(unit)]] for unit in range(3)])
    assert codec.calls == [1, 1, 1]


def test_a_unit_alone_waits_for_nobody() -> None:
    long = np.zeros((1, 1800 * FACTS.sample_rate), np.float32)
    desk = EncodeDesk(NotingCodec(), merges=True)
    start = time.monotonic()
    with desk.unit():
        desk.encode([long])
    assert time.monotonic() - start < 5.0, "0.004 s for each second would be 7.2 s"


def test_a_unit_whose_company_never_comes_goes_on_alone() -> None:
    desk = EncodeDesk(HashCodec(), merges=True)
    with desk.unit(), desk.unit():
        assert len(desk.encode([waveform(0, seconds=1.0)])[0]) == 1


def test_seconds_are_shared_out_by_samples() -> None:
    desk = EncodeDesk(NotingCodec(), merges=True)
    opened = threading.Barrier(2)

    def run(audio: Waveform) -> float:
        with desk.unit():
            opened.wait()
            return desk.encode([audio])[1].seconds

    with ThreadPoolExecutor(2) as threads:
        short, long = threads.map(run, [waveform(0, seconds=60.0), waveform(0, seconds=180.0)])
    assert long == pytest.approx(3 * short)


class PaddingNotes(NotingCodec):
    """Fills every item up to the longest of its call."""

    num_padded_samples = 0

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        lengths = [waveform.shape[1] for waveform in waveforms]
        self.num_padded_samples += len(lengths) * max(lengths) - sum(lengths)
        return super().encode(waveforms)


def test_figures_of_units_add_up_to_what_the_codec_did() -> None:
    codec = PaddingNotes()
    desk = EncodeDesk(codec, merges=False)
    batches = [[waveform(0, seconds=3.0), waveform(1, seconds=1.0)], [waveform(2, seconds=2.0)]]
    start = time.monotonic()
    with ThreadPoolExecutor(2) as threads:
        each = list(threads.map(lambda batch: desk.encode(batch)[1], batches))
    elapsed = time.monotonic() - start
    figures = each[0] + each[1]
    assert (figures.num_calls, figures.peak_items) == (2, 2)
    assert figures.num_samples == sum(item.shape[1] for batch in batches for item in batch)
    assert figures.num_padded_samples == codec.num_padded_samples == 2 * FACTS.sample_rate
    assert figures.seconds == pytest.approx(desk.busy_seconds)
    for one in each:
        assert one.wait_seconds >= 0
        assert one.seconds + one.wait_seconds <= elapsed


def test_a_failing_call_fails_every_unit_in_it_and_the_desk_goes_on() -> None:
    desk = EncodeDesk(BrokenCodec(), merges=True)
    with desk.unit():
        for _ in range(2):
            with pytest.raises(ValueError, match="1 items"):
                desk.encode([waveform(0)])
    with pytest.raises(ValueError, match="2 items"):
        encode_in_units(desk, [[[waveform(unit, seconds=60.0)]] for unit in range(2)])


def test_streams_take_turns_with_calls() -> None:
    desk = EncodeDesk(StreamingNotes(), merges=True)
    long = waveform(0, seconds=100.0)

    def run_stream() -> tuple[EncodedItem, float]:
        with desk.unit():
            stream = desk.stream()
            figures = [stream.push(piece) for piece in np.array_split(long, 3, axis=1)]
            item, last = stream.finish()
            taken = sum([*figures, last], EncodeFigures())
            assert taken.num_samples == long.shape[1]
            return item, taken.seconds

    def run_calls() -> list[EncodedItem]:
        with desk.unit():
            return [item for number in range(5) for item in desk.encode([waveform(number)])[0]]

    with ThreadPoolExecutor(3) as threads:
        streams = [threads.submit(run_stream) for _ in range(2)]
        calls = threads.submit(run_calls).result()
    (expected,) = HashCodec().encode([long])
    for found, seconds in (stream.result() for stream in streams):
        np.testing.assert_array_equal(found.codes, expected.codes)
        assert seconds >= 0.01 + 6 * 0.002, "two turns for each of three pieces of 33 s"
    for number, item in enumerate(calls):
        np.testing.assert_array_equal(item.codes, HashCodec().encode([waveform(number)])[0].codes)


def test_a_turn_that_fails_frees_the_desk() -> None:
    def fail() -> None:
        raise ValueError("out of order")

    desk = EncodeDesk(HashCodec(), merges=True)
    with desk.unit():
        with pytest.raises(ValueError, match="out of order"):
            desk.alone(fail)
        assert len(desk.encode([waveform(0)])[0]) == 1


def test_a_codec_without_streams_is_named() -> None:
    with pytest.raises(IntegrityError, match="codec demo takes recordings whole"):
        EncodeDesk(HashCodec(), merges=True).stream()


class TestLanes:
    """Streams of several units that meet in one call."""

    def stream_in_units(
        self, desk: EncodeDesk, recordings: Sequence[Sequence[Waveform]]
    ) -> list[tuple[EncodedItem, EncodeFigures]]:
        """Each recording's stretches in a thread of its own, all of them begun before the first push."""
        begun = threading.Barrier(len(recordings))

        def run(stretches: Sequence[Waveform]) -> tuple[EncodedItem, EncodeFigures]:
            with desk.unit():
                stream = desk.stream()
                begun.wait()
                figures = [stream.push(stretch) for stretch in stretches]
                item, last = stream.finish()
                return item, sum([*figures, last], EncodeFigures())

        with ThreadPoolExecutor(len(recordings)) as threads:
            return list(threads.map(run, recordings))

    def recordings(self, *num_stretches: int) -> list[list[Waveform]]:
        return [
            [waveform(100 * unit + number, seconds=TURN_SECONDS) for number in range(count)]
            for unit, count in enumerate(num_stretches)
        ]

    def test_streams_meet_and_each_gets_its_own_codes(self) -> None:
        codec = LaneNotes()
        assert isinstance(codec, LaneCodec)
        recordings = self.recordings(4, 4, 4)
        desk = EncodeDesk(codec, merges=True)
        made = self.stream_in_units(desk, recordings)
        for (item, _), stretches in zip(made, recordings, strict=True):
            (expected,) = HashCodec().encode([np.concatenate(stretches, axis=1)])
            np.testing.assert_array_equal(item.codes, expected.codes)
        assert sum(codec.pushes) == 12
        assert max(codec.pushes) == 3
        figures = sum((figures for _, figures in made), EncodeFigures())
        assert figures.num_samples == 12 * TURN_SECONDS * FACTS.sample_rate
        assert figures.seconds == pytest.approx(desk.busy_seconds)
        assert (figures.num_calls, figures.peak_items) == (12, 3)

    def test_no_more_streams_meet_than_are_worth_it(self) -> None:
        codec = LaneNotes()
        self.stream_in_units(EncodeDesk(codec, merges=True), self.recordings(*[2] * 7))
        assert max(codec.pushes) <= LaneNotes.max_lanes
        assert sum(codec.pushes) == 14

    @pytest.mark.parametrize("merges_streams", [None, False])
    def test_streams_do_not_meet_where_company_may_change_codes(self, merges_streams: bool | None) -> None:
        codec = LaneNotes()
        desk = EncodeDesk(codec, merges=merges_streams is False, merges_streams=merges_streams)
        made = self.stream_in_units(desk, self.recordings(3, 3))
        assert codec.pushes == []
        assert {figures.peak_items for _, figures in made} == {1}

    def test_a_codec_that_names_no_lane_takes_one_stream_after_the_other(self) -> None:
        codec = LaneNotes()
        codec.max_lanes = 0
        desk = EncodeDesk(codec, merges=True)
        desk.stream().push(waveform(0))
        assert (codec.pushes, desk._waiting) == ([], [])

    def test_a_stream_waits_for_units_with_streams_alone(self) -> None:
        desk = EncodeDesk(LaneNotes(), merges=True)
        stretches = [np.zeros((1, TURN_SECONDS * FACTS.sample_rate), np.float32)] * 20
        with desk.unit(), desk.unit():
            own, dropped = desk.stream(), desk.stream()
            for stream in (own, dropped):  # of one unit: two channels, one after the other
                stream.push(stretches[0])
            start = time.monotonic()
            for stretch in stretches:
                own.push(stretch)
        assert time.monotonic() - start < 1.5, "0.12 s for each would be 2.4 s"

    def test_a_stream_that_its_unit_dropped_is_not_waited_for(self) -> None:
        desk = EncodeDesk(LaneNotes(), merges=True)
        with ThreadPoolExecutor(1) as thread:
            dropped = thread.submit(desk.stream).result()
        assert desk._num_pushing() == 1
        own = desk.stream()
        assert desk._num_pushing() == 2
        del dropped
        assert desk._num_pushing() == 1
        own.push(waveform(0))
        own.finish()
        assert desk._num_pushing() == 0

    def test_a_failing_call_fails_every_stream_in_it_and_the_desk_goes_on(self) -> None:
        desk = EncodeDesk(BrokenLanes(), merges=True)
        with pytest.raises(ValueError, match="2 streams"):
            self.stream_in_units(desk, self.recordings(1, 1))
        assert len(desk.encode([waveform(0)])[0]) == 1

    def test_on_a_gpu_streams_meet_and_batches_do_not(self) -> None:
        codec = LaneNotes()
        desk = open_desk(codec, device="cuda")
        self.stream_in_units(desk, self.recordings(2, 2))
        assert max(codec.pushes) == 2
        codec.calls.clear()
        encode_in_units(desk, [[[waveform(unit)]] for unit in range(3)])
        assert codec.calls == [1, 1, 1]
