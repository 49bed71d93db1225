"""Streams that are pushed together have the codes that each has alone, whenever they begin, end and are cut."""

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encodec_core import BatchEncoder, EncodecConfig, EncodecModel, StreamingEncoder
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.lstm import MAX_LANES
from encodec_core.fast.streams import StreamPush
from encodec_core.streaming import StreamingLanes
from encodec_core.streaming.latents import LatentPiece, tile_samples
from encodec_core.streaming.network import StreamNetwork
from encodec_core.streaming.quantizer import DeviceStreamQuantizer
from tests.encodec_core.models import fitted_model
from tests.encodec_core.streams import CAUSAL, audio, cut, double_model

LONG = 105_001
"""`BatchEncoder` convolves shorter recordings of the reduced codecs in another way, which flips near ties."""
BLOCKS = st.sampled_from([0, 1, 319, 320, 321, 1_600, 2_240, 7_001, 24_001])


@cache
def lanes_of(name: str) -> StreamingLanes:
    return StreamingLanes(fitted_model(name), 12.0, device="cpu")


@cache
def encoder_of(name: str) -> StreamingEncoder:
    return StreamingEncoder(fitted_model(name), 12.0, device="cpu")


@cache
def recording(name: str, number: int) -> Tensor:
    return audio(fitted_model(name), 4 * 24_001, seed=number)


def together(lanes: StreamingLanes, streams: Sequence[Sequence[Tensor]], *, starts: Sequence[int]) -> list[Tensor]:
    """Push piece p of stream s in turn `starts[s] + p`, with whatever else is due then; codes by stream."""
    open_lanes = [lanes.start() for _ in streams]
    codes: list[list[Tensor]] = [[] for _ in streams]
    for turn in range(max(start + len(pieces) for start, pieces in zip(starts, streams, strict=True)) + 1):
        due = [number for number, start in enumerate(starts) if 0 <= turn - start < len(streams[number])]
        found = lanes.push([(open_lanes[number], streams[number][turn - starts[number]]) for number in due])
        ended = [number for number, start in enumerate(starts) if turn - start == len(streams[number])]
        left = lanes.flush([open_lanes[number] for number in ended])
        for number, piece in zip([*due, *ended], [*found, *left], strict=True):
            codes[number].append(piece)
    return [torch.cat(pieces, -1) for pieces in codes]


def assert_as_alone(name: str, pieces: Sequence[Sequence[Tensor]], *, starts: Sequence[int]) -> None:
    found = together(lanes_of(name), pieces, starts=starts)
    single = encoder_of(name)
    for own, codes in zip(pieces, found, strict=True):
        assert torch.equal(codes, torch.cat([*(single.push(piece) for piece in own), single.flush()], -1))


@pytest.mark.parametrize("name", CAUSAL)
@settings(max_examples=12, deadline=None)
@given(streams=st.lists(st.tuples(st.integers(0, 3), st.lists(BLOCKS, max_size=4)), min_size=1, max_size=4))
def test_a_stream_has_the_codes_that_it_has_alone(name: str, streams: list[tuple[int, list[int]]]) -> None:
    pieces = [
        list(torch.split(recording(name, number)[:, : sum(lengths)], lengths or [0], -1))
        for number, (_, lengths) in enumerate(streams)
    ]
    assert_as_alone(name, pieces, starts=[start for start, _ in streams])


def test_more_streams_than_go_through_the_lstm_at_once() -> None:
    lengths = [1 + 161 * number for number in range(MAX_LANES + 2)]
    pieces = [[recording("causal_mono", number)[:, :length]] for number, length in enumerate(lengths)]
    assert_as_alone("causal_mono", pieces, starts=[0] * len(lengths))


def test_long_streams_have_the_codes_of_whole_recordings() -> None:
    model = fitted_model("causal_mono")
    waveforms = [audio(model, LONG + 10_007 * number, seed=number) for number in range(3)]
    pieces = [list(torch.split(waveform, 30_000 + number, -1)) for number, waveform in enumerate(waveforms)]
    expected = BatchEncoder(model, 12.0, "cpu").encode(waveforms)
    for codes, whole in zip(together(lanes_of("causal_mono"), pieces, starts=[0, 2, 1]), expected, strict=True):
        assert torch.equal(codes, whole.codes)


class TestWithoutKernels:
    def test_streams_have_the_codes_of_whole_recordings(self) -> None:
        model = double_model("causal_mono")
        lanes = StreamingLanes(model, 6.0, device="cpu")
        waveforms = [audio(model, length, seed=length) for length in (5_000, 5_000, 2_241, 1)]
        pieces = [cut(waveform, [640, 960, 960]) for waveform in waveforms]
        found = together(lanes, pieces, starts=[0, 0, 1, 0])
        for codes, whole in zip(found, BatchEncoder(model, 6.0, "cpu").encode(waveforms), strict=True):
            assert torch.equal(codes, whole.codes)

    @torch.no_grad()
    def test_latents_in_single_precision_are_those_of_a_stream_alone(self) -> None:
        model = fitted_model("causal_mono")
        network = StreamNetwork(
            fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=torch.float32)
        )
        tiles = [
            torch.split(audio(model, 9_600, seed=seed), size, -1) for seed, size in enumerate((3_200, 3_200, 5_000))
        ]

        def pushed(*streams: int) -> list[Tensor]:
            states = [network.start(1) for _ in streams]
            found: list[list[Tensor]] = [[] for _ in streams]
            for turn in range(3):
                due = [place for place, stream in enumerate(streams) if turn < len(tiles[stream])]
                pushes = [
                    StreamPush(inputs=tiles[streams[place]][turn][None], state=states[place], is_last=False)
                    for place in due
                ]
                for place, latents in zip(due, network.push(pushes), strict=True):
                    found[place].append(latents)
            return [torch.cat(pieces, -1) for pieces in found]

        for stream, latents in enumerate(pushed(0, 1, 2)):
            assert torch.equal(latents, pushed(stream)[0])


def test_a_lane_begins_anew_after_its_end_and_a_refused_push_changes_nothing() -> None:
    lanes, model = lanes_of("causal_mono"), fitted_model("causal_mono")
    one, other = lanes.start(), lanes.start()
    waveform = audio(model, 3_000)
    (first,) = lanes.push([(one, waveform)])
    for refused in (
        [(one, waveform), (other, waveform.double())],
        [(one, waveform), (other, waveform[0])],
        [(one, waveform), (one, waveform)],
    ):
        with pytest.raises(ValueError, match=r"expected torch\.float32|the shape|one of them twice"):
            lanes.push(refused)
    (last,) = lanes.flush([one])
    again = [*lanes.push([(one, waveform)]), *lanes.flush([one])]
    assert torch.equal(torch.cat([first, last], -1), torch.cat(again, -1))
    assert lanes.flush([other])[0].shape == (16, 0)
    assert lanes.push([]) == []


def test_threads_push_different_lanes_at_once() -> None:
    lanes, model = StreamingLanes(fitted_model("causal_mono"), 12.0, device="cpu"), fitted_model("causal_mono")
    waveforms = [audio(model, 30_000, seed=seed) for seed in range(3)]
    ready = threading.Barrier(3)

    def run(waveform: Tensor) -> Tensor:
        lane, codes = lanes.start(), []
        ready.wait()
        for piece in torch.split(waveform, 2_000, -1):
            codes += lanes.push([(lane, piece)])
        return torch.cat([*codes, *lanes.flush([lane])], -1)

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(run, waveforms))
    for codes, waveform in zip(found, waveforms, strict=True):
        assert torch.equal(codes, together(lanes, [[waveform]], starts=[0])[0])


def test_the_model_is_copied_once_for_all_streams() -> None:
    model = copy.deepcopy(fitted_model("causal_mono"))
    lanes, waveform = StreamingLanes(model, 12.0, device="cpu"), audio(model, 5_000)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    (codes,) = together(lanes, [[waveform]], starts=[0])
    assert torch.equal(codes, together(lanes_of("causal_mono"), [[waveform]], starts=[0])[0])


def test_codecs_with_windows_and_those_that_look_ahead_are_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        windowed = EncodecModel(EncodecConfig.encodec_48khz(num_filters=2, hidden_size=8))
        looks_ahead = EncodecModel(EncodecConfig.encodec_24khz(num_filters=2, hidden_size=8, use_causal_conv=False))
    with pytest.raises(ValueError, match="windows, which do not depend on one another; use BatchEncoder"):
        StreamingLanes(windowed, 6.0, device="cpu")
    with pytest.raises(ValueError, match="cannot be streamed"):
        StreamingLanes(looks_ahead, 6.0, device="cpu")


class TestOnDevices:
    """What only runs on a GPU, on the CPU."""

    def test_the_lstm_has_one_shape_for_a_push_whatever_its_company(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Streams of other lengths are in calls of their own."""
        model = fitted_model("causal_mono")
        network = StreamNetwork(
            fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=torch.float32)
        )
        shapes: list[tuple[int, ...]] = []
        run = network._lstm.run

        def noting(lanes: Sequence[Tensor], states: Sequence[object]) -> object:
            shapes.append(tuple(lane.shape[-1] for lane in lanes))
            return run(lanes, states)  # type: ignore[arg-type]

        monkeypatch.setattr(network._lstm, "run", noting)
        with torch.no_grad():
            network.push(
                [
                    StreamPush(inputs=audio(model, length)[None], state=network.start(1), is_last=False)
                    for length in (6_400, 3_200, 6_400, 100)
                ]
            )
        assert shapes == [(10,), (20, 20)]

    def test_steps_are_large(self) -> None:
        assert tile_samples(1, device=torch.device("cuda")) >= 30 * 24_000
        assert 4 * tile_samples(4, device=torch.device("cuda")) == tile_samples(1, device=torch.device("cuda"))

    def test_codes_of_a_devices_quantizer(self) -> None:
        model = fitted_model("causal_mono")
        waveforms = [audio(model, length, seed=length) for length in (48_000, 9_600)]
        batch_encoder = BatchEncoder(model, 12.0, "cpu")
        device = torch.device("cpu")
        quantizer = DeviceStreamQuantizer(
            DeviceQuantizer(model.quantizer.codebooks[:16], device=device, dtype=torch.float32)
        )
        latents = batch_encoder.latents(waveforms)
        pieces = [LatentPiece(latents=one[None], scales=None) for one in latents]
        found = quantizer.encode(pieces)
        for piece, codes, whole in zip(pieces, found, batch_encoder.encode(waveforms), strict=True):
            assert torch.equal(codes, quantizer.encode([piece])[0])
            assert codes.shape == (1, *whole.codes.shape)
            assert float((codes[0] == whole.codes.int()).float().mean()) > 1 - 1e-3
