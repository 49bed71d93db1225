"""Encoding in pieces equals encoding whole, comes as early as it can, and needs no more memory with time."""

import copy
import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encodec_core import BatchEncoder, Codes, EncodecConfig, EncodecModel, StreamingEncoder, compare_codes
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.lstm import LaneLstm, can_sort_weights
from encodec_core.fast.native import kernels
from encodec_core.fast.quantizer import FrameQuantizer
from encodec_core.modules.lstm import LstmState
from encodec_core.spans import window_spans
from encodec_core.streaming.latents import latents_of
from encodec_core.windows import loudness
from tests.encodec_core.models import CONFIGS, fitted_model
from tests.encodec_core.streams import (
    CAUSAL,
    EQUAL,
    VARIANTS,
    WINDOWED,
    audio,
    cut,
    double_model,
    largest_difference,
)

FIRST_SAMPLES = 2240
"""Seven frames: the last convolution of the encoder reflects six of them at the start."""
SHORT = (1, 2, 7, 319, 320, 321, 639, 1920, 2239, 2240, 2241, 2559, 2561)
LONG = 105_001
"""In the reduced codecs torch convolves the whole of a shorter recording as a matrix product somewhere, and so does
`BatchEncoder`; a stream cannot know."""
WINDOW_LENGTHS = (0, 1, 319, 47_519, 47_520, 47_521, 47_999, 48_000, 48_001, 95_040, 95_100)


def encoder_of(name: str, bandwidth_kbps: float = 6.0, **arguments: Any) -> StreamingEncoder:
    return StreamingEncoder(fitted_model(name), bandwidth_kbps, device="cpu", **arguments)


@torch.no_grad()
def streamed_latents(model: EncodecModel, pieces: Sequence[Tensor]) -> Tensor:
    encoder = fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=model.dtype)
    source = latents_of(model.config, encoder, model.quantizer.codebooks, num_streams=1)
    found = [piece.latents[0] for pushed in pieces for piece in source.push(pushed[None])]
    return torch.cat([*found, *(piece.latents[0] for piece in source.flush())], -1)


def whole_latents(model: EncodecModel, waveform: Tensor) -> Tensor:
    config = model.config
    spans = window_spans(waveform.shape[-1], length=config.chunk_length, stride=config.chunk_stride)
    windows = [waveform[None, :, span] for span in spans]
    return torch.cat(
        [model.encoder(window / loudness(window) if config.normalize else window)[0] for window in windows], -1
    )


def streamed_codes(encoder: StreamingEncoder, pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([*(encoder.push(piece) for piece in pieces), encoder.flush()], -1)


def streamed_windows(encoder: StreamingEncoder, pieces: Sequence[Tensor]) -> list[Codes]:
    """Return what came of the stream, for N streams N records."""
    records = [*(encoder.push_windows(piece) for piece in pieces), encoder.flush_windows()]
    return [joined(stream) for stream in zip(*records, strict=True)]


def joined(records: Sequence[Codes]) -> Codes:
    return Codes(
        codes=torch.cat([record.codes for record in records], -1),
        scales=torch.cat([record.scales for record in records if record.scales is not None]),
        window_frames=torch.cat([record.window_frames for record in records if record.window_frames is not None]),
    )


def is_equal(found: Codes, expected: Codes) -> bool:
    assert found.scales is not None
    assert expected.scales is not None
    assert found.window_frames is not None
    assert expected.window_frames is not None
    return (
        torch.equal(found.codes, expected.codes)
        and torch.equal(found.scales, expected.scales)
        and torch.equal(found.window_frames, expected.window_frames)
    )


class TestProofInFloat64:
    @settings(max_examples=20, deadline=None)
    @given(
        name=st.sampled_from(CAUSAL),
        num_samples=st.integers(1, 6000),
        places=st.lists(st.integers(0, 6000), max_size=8),
    )
    def test_any_cuts_equal_the_whole(self, name: str, num_samples: int, places: list[int]) -> None:
        model, waveform = double_model(name), audio(double_model(name), num_samples)
        expected = whole_latents(model, waveform)
        assert largest_difference(streamed_latents(model, cut(waveform, places)), expected) < EQUAL
        codes = streamed_codes(StreamingEncoder(model, 6.0, device="cpu"), cut(waveform, places))
        assert torch.equal(codes.long(), model.quantizer.quantize(expected[None], n_q=8)[0])

    @pytest.mark.parametrize("num_samples", [1, 320, 2241])
    def test_sample_by_sample(self, num_samples: int) -> None:
        model = double_model("causal_mono")
        waveform = audio(model, num_samples)
        found = streamed_latents(model, waveform.split(1, -1))  # type: ignore[no-untyped-call]
        assert largest_difference(found, whole_latents(model, waveform)) < EQUAL

    @pytest.mark.parametrize("name", VARIANTS)
    @settings(max_examples=8, deadline=None)
    @given(num_samples=st.integers(1, 4000), places=st.lists(st.integers(0, 4000), max_size=5))
    def test_codecs_that_nobody_published(self, name: str, num_samples: int, places: list[int]) -> None:
        model, waveform = double_model(name), audio(double_model(name), num_samples)
        found = streamed_latents(model, cut(waveform, places))
        assert largest_difference(found, whole_latents(model, waveform)) < EQUAL

    @pytest.mark.parametrize("name", WINDOWED)
    @settings(max_examples=4, deadline=None)
    @given(num_samples=st.sampled_from(WINDOW_LENGTHS[1:]), places=st.lists(st.integers(0, 96_000), max_size=5))
    def test_windows_equal_those_of_the_whole(self, name: str, num_samples: int, places: list[int]) -> None:
        model, waveform = double_model(name), audio(double_model(name), num_samples)
        found = streamed_latents(model, cut(waveform, places))
        assert largest_difference(found, whole_latents(model, waveform)) < EQUAL


class TestBits:
    """In float32 on a CPU a stream has the bits of `BatchEncoder`, so the codes are equal, near ties included."""

    @pytest.mark.parametrize("name", CAUSAL)
    @pytest.mark.parametrize("block", [480, 24_000, 100_000])
    def test_blocks_of_any_size(self, name: str, block: int) -> None:
        model = fitted_model(name)
        waveform, batch_encoder = audio(model, LONG), BatchEncoder(model, 12.0, "cpu")
        (expected,), (latents,) = batch_encoder.encode([waveform]), batch_encoder.latents([waveform])
        pieces = torch.split(waveform, block, -1)
        assert torch.equal(streamed_codes(encoder_of(name, 12.0), pieces), expected.codes)
        assert torch.equal(streamed_latents(model, pieces), latents)

    @pytest.mark.parametrize("num_samples", SHORT)
    def test_short_streams(self, num_samples: int) -> None:
        model, waveform = fitted_model("causal_mono"), audio(fitted_model("causal_mono"), num_samples)
        found = streamed_codes(encoder_of("causal_mono", 24.0), [waveform])
        if kernels() is None:
            (expected,) = BatchEncoder(model, 24.0, "cpu").encode([waveform])
            assert torch.equal(found, expected.codes)
        agreement = compare_codes(model, waveform, Codes(codes=found), bandwidth_kbps=24.0)
        assert (agreement.num_wrong_frames, agreement.mismatch) == (0, None)

    @pytest.mark.parametrize("num_streams", [2, 3, 17])
    def test_lockstep_equals_single_streams(self, num_streams: int) -> None:
        waveforms = torch.stack([audio(fitted_model("causal_stereo"), 9_001, seed=seed) for seed in range(num_streams)])
        places = [0, 5, 480, 480, 960, 5_000]
        together = streamed_codes(encoder_of("causal_stereo", batch_size=num_streams), cut(waveforms, places))
        single = encoder_of("causal_stereo")
        alone = [streamed_codes(single, cut(waveform, places)) for waveform in waveforms]
        assert together.shape == (num_streams, 8, 29)
        assert torch.equal(together, torch.stack(alone))

    @pytest.mark.parametrize("name", WINDOWED)
    def test_windows_and_their_scales(self, name: str) -> None:
        encoder = encoder_of(name)
        for num_samples in WINDOW_LENGTHS[1:]:
            waveform = audio(fitted_model(name), num_samples)
            (expected,) = BatchEncoder(fitted_model(name), 6.0, "cpu").encode([waveform])
            (found,) = streamed_windows(encoder, torch.split(waveform, 17_777, -1))
            assert is_equal(found, expected), num_samples
            assert torch.equal(streamed_codes(encoder, [waveform]), expected.codes)

    def test_windows_in_lockstep(self) -> None:
        waveforms = torch.stack([audio(fitted_model("windows_mono"), 95_100, seed=seed) for seed in range(3)])
        found = streamed_windows(encoder_of("windows_mono", batch_size=3), torch.split(waveforms, 50_000, -1))
        expected = BatchEncoder(fitted_model("windows_mono"), 6.0, "cpu").encode(list(waveforms))
        assert all(is_equal(one, other) for one, other in zip(found, expected, strict=True))

    @pytest.mark.usefixtures("restore_num_threads")
    def test_any_number_of_threads(self) -> None:
        model = fitted_model("causal_mono")
        waveform, encoder = audio(model, LONG), encoder_of("causal_mono", 24.0)
        (expected,) = BatchEncoder(model, 24.0, "cpu").encode([waveform])
        for num_threads in (2, 3):
            torch.set_num_threads(num_threads)
            assert torch.equal(streamed_codes(encoder, torch.split(waveform, 4_800, -1)), expected.codes)

    @pytest.mark.skipif(
        not can_sort_weights(torch.nn.LSTM(2, 2)), reason="torch has no oneDNN here to sort the weights of"
    )
    @pytest.mark.parametrize("num_layers", [1, 2])
    def test_weights_that_are_sorted_once(self, num_layers: int) -> None:
        with torch.random.fork_rng(devices=[]):
            lstm = torch.nn.LSTM(64, 64, num_layers).requires_grad_(False)
            lanes = [[torch.randn(1, 64, length) for length in (5, 1, 2)] for _ in range(3)]
        plain, sorted_once = LaneLstm(lstm), LaneLstm(lstm, sorted_once=True)
        assert sorted_once.has_sorted_weights
        states: list[LstmState | None] = [None] * 3
        other_states: list[LstmState | None] = [None] * 3
        for lane in zip(*lanes, strict=True):
            outputs, after = plain.run(lane, states)
            others, other_after = sorted_once.run(lane, other_states)
            assert all(torch.equal(one, other) for one, other in zip(outputs, others, strict=True))
            for (h, c), (other_h, other_c) in zip(after, other_after, strict=True):
                assert torch.equal(h, other_h)
                assert torch.equal(c, other_c)
            states, other_states = [*after], [*other_after]

    def test_small_blocks_of_the_quantizer(self) -> None:
        model = fitted_model("causal_mono")
        frames = whole_latents(model, audio(model, 96_000)).t()
        sizes: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
        whole = FrameQuantizer(model.quantizer.codebooks, **sizes)
        small = FrameQuantizer(model.quantizer.codebooks, **sizes, small_blocks=True)
        for num_frames in (0, 1, 2, 7, 8, 9, 33, 127, 128, 129, 300):
            assert torch.equal(small.encode(frames[:num_frames]), whole.encode(frames[:num_frames]))


class TestCodes:
    @pytest.mark.parametrize("name", CAUSAL)
    def test_equal_the_plain_models_but_for_near_ties(self, name: str) -> None:
        model = fitted_model(name)
        waveform = audio(model, 333_333)
        codes = streamed_codes(encoder_of(name), torch.split(waveform, 24_000, -1))
        agreement = compare_codes(model, waveform, Codes(codes=codes), bandwidth_kbps=6.0)
        assert agreement.is_faithful
        assert agreement.num_near_tie_frames <= 1

    @pytest.mark.parametrize("bandwidth", [1.5, 3.0, 6.0, 12.0])
    def test_a_lower_bandwidth_is_a_prefix(self, bandwidth: float) -> None:
        waveform = audio(fitted_model("causal_mono"), 5_000)
        codes = streamed_codes(encoder_of("causal_mono", bandwidth), [waveform])
        highest = streamed_codes(encoder_of("causal_mono", 24.0), [waveform])
        assert len(codes) == CONFIGS["causal_mono"].n_q_for(bandwidth)
        assert torch.equal(codes, highest[: len(codes)])

    def test_layout(self) -> None:
        encoder, pair = encoder_of("causal_mono"), encoder_of("causal_mono", batch_size=2)
        for codes in (encoder.push(torch.zeros(1, 0)), encoder.push(torch.zeros(1, 2300)), encoder.flush()):
            assert (codes.dtype, codes.dim(), len(codes)) == (torch.uint16, 2, 8)
        assert pair.push(torch.zeros(2, 1, 2300)).shape == (2, 8, 7)
        assert pair.flush().shape == (2, 8, 1)

    def test_flush_begins_a_new_stream(self) -> None:
        encoder = encoder_of("causal_mono")
        first, second = (audio(fitted_model("causal_mono"), num_samples) for num_samples in (3_000, 2_500))
        alone = [streamed_codes(encoder_of("causal_mono"), [waveform]) for waveform in (first, second)]
        assert encoder.flush().shape == (8, 0)
        assert torch.equal(streamed_codes(encoder, [first]), alone[0])
        assert torch.equal(streamed_codes(encoder, [second]), alone[1])
        assert encoder.flush().shape == (8, 0)


class TestPromptness:
    def test_a_frame_comes_with_the_last_sample_that_it_depends_on(self) -> None:
        """What it depends on is what has a gradient in the plain encoder."""
        model = double_model("causal_mono")
        waveform = audio(model, 3_520)[None].requires_grad_()
        latents = model.encoder(waveform)[0]
        needed = 0
        expected = []
        for frame in range(latents.shape[-1]):
            (gradient,) = torch.autograd.grad(latents[:, frame].sum(), waveform, retain_graph=True)
            needed = max(needed, int(gradient[0, 0].nonzero().max()) + 1)
            expected.append(needed)
        assert expected == [FIRST_SAMPLES] * 7 + [320 * frame for frame in range(8, 12)]
        encoder, num_frames = StreamingEncoder(model, device="cpu"), 0
        places = sorted({place for needed in expected for place in (needed - 1, needed)})
        for start, end in zip([0, *places], places, strict=False):
            num_frames += encoder.push(waveform[0, :, start:end].detach()).shape[-1]
            assert num_frames == sum(needed <= end for needed in expected)

    def test_a_window_comes_with_its_last_sample(self) -> None:
        encoder = encoder_of("windows_mono")
        waveform = audio(fitted_model("windows_mono"), 96_000)
        num_frames = [encoder.push(piece).shape[-1] for piece in cut(waveform, [47_999, 48_000, 95_519, 95_520])]
        assert num_frames == [0, 150, 0, 150, 0]
        assert encoder.flush().shape == (4, 3)


def test_nothing_grows_with_time() -> None:
    def num_bytes() -> int:
        gc.collect()
        tensors = [thing for thing in gc.get_objects() if type(thing) is Tensor and thing.layout is torch.strided]
        return sum(storage.nbytes() for storage in {t.data_ptr(): t.untyped_storage() for t in tensors}.values())

    encoder, windows = encoder_of("causal_mono"), encoder_of("windows_mono")
    block, window = audio(fitted_model("causal_mono"), 480), audio(fitted_model("windows_mono"), 5_280)
    for _ in range(18):
        encoder.push(block)
        windows.push(window)
    before = num_bytes()
    for _ in range(9 * 8):
        encoder.push(block)
        windows.push(window)
    assert num_bytes() == before


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (CONFIGS["musicgen"], "this 32000 Hz codec cannot be streamed: its convolutions are not causal"),
            (EncodecConfig(num_filters=2, norm_type="time_group_norm"), "normalises over the whole recording"),
            (EncodecConfig(num_filters=2, normalize=True), "divides a recording by its loudness"),
            (EncodecConfig(num_filters=2, pad_mode="circular"), "pads a recording with its other end"),
        ],
    )
    def test_codecs_that_need_the_whole_recording(self, config: EncodecConfig, reason: str) -> None:
        with torch.random.fork_rng(devices=[]):
            model = EncodecModel(config)
        with pytest.raises(ValueError, match=f"{reason}.*use BatchEncoder"):
            StreamingEncoder(model, config.target_bandwidths[0], device="cpu")

    def test_settings(self) -> None:
        with pytest.raises(ValueError, match=r"choose one of 1\.5, 3, 6, 12, 24"):
            encoder_of("causal_mono", 5.0)
        with pytest.raises(ValueError, match="batch_size = 0; expected 1 or more"):
            encoder_of("causal_mono", batch_size=0)
        with pytest.raises(ValueError, match=r"call model\.float\(\)"):
            StreamingEncoder(copy.deepcopy(fitted_model("causal_mono")).half(), device="cpu")

    @pytest.mark.parametrize(
        ("batch_size", "waveform", "message"),
        [
            (1, torch.zeros(2, 100), r"the shape \[2, 100\]; batch_size = 1 takes \[1, samples\]"),
            (1, torch.zeros(100), r"the shape \[100\]"),
            (1, torch.zeros(1, 1, 100), "leave out the dimension of streams"),
            (2, torch.zeros(1, 100), r"batch_size = 2 takes \[2, 1, samples\]"),
            (2, torch.zeros(3, 1, 100), "push as much of every stream"),
            (1, torch.zeros(1, 100, dtype=torch.int16), r"torch\.int16; expected torch\.float32"),
            (1, torch.zeros(1, 100, dtype=torch.float64), r"torch\.float64; expected torch\.float32"),
        ],
    )
    def test_waveforms(self, batch_size: int, waveform: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            encoder_of("causal_mono", batch_size=batch_size).push(waveform)

    def test_windows_of_a_codec_without(self) -> None:
        encoder = encoder_of("causal_mono")
        with pytest.raises(ValueError, match="no windows; use push and flush"):
            encoder.push_windows(torch.zeros(1, 100))
        with pytest.raises(ValueError, match="no windows"):
            encoder.flush_windows()

    def test_a_refused_push_leaves_the_stream_as_it_was(self) -> None:
        encoder, waveform = encoder_of("causal_mono"), audio(fitted_model("causal_mono"), 5_000)
        expected = streamed_codes(encoder, [waveform])
        first = encoder.push(waveform[:, :3_000])
        with pytest.raises(ValueError, match="shape"):
            encoder.push(torch.zeros(3, 10))
        rest = [encoder.push(waveform[:, 3_000:]), encoder.flush()]
        assert torch.equal(torch.cat([first, *rest], -1), expected)


def test_the_model_is_copied() -> None:
    model = copy.deepcopy(fitted_model("causal_mono"))
    encoder, waveform = StreamingEncoder(model, device="cpu"), audio(model, 5_000)
    expected = streamed_codes(encoder, [waveform])
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert torch.equal(streamed_codes(encoder, [waveform]), expected)
