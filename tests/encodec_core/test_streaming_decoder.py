"""Decoding in pieces equals decoding whole, and comes as early as it can."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encodec_core import BatchEncoder, Codes, EncodecModel, StreamingDecoder, StreamingEncoder
from encodec_core.spans import window_spans
from encodec_core.streaming.overlap import OverlapAdder
from encodec_core.windows import linear_overlap_add
from tests.encodec_core.models import CONFIGS, fitted_model, waveforms
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

HOP = 320


def decoder_of(name: str, **arguments: Any) -> StreamingDecoder:
    return StreamingDecoder(fitted_model(name), device="cpu", **arguments)


def some_codes(model: EncodecModel, num_frames: int, *, n_q: int = 8, seed: int = 0) -> Tensor:
    """Return codes int64 `[K, T]`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.codebook_size, (n_q, num_frames), generator=generator)


def streamed(decoder: StreamingDecoder, pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([*(decoder.push(piece) for piece in pieces), decoder.flush()], -1)


def whole(model: EncodecModel, codes: Tensor) -> Tensor:
    return model.decode_window(codes[None], None)[0]


def one_by_one(codes: Codes) -> list[Codes]:
    """Cut a record into one for each window."""
    assert codes.scales is not None
    assert codes.window_frames is not None
    windows = torch.split(codes.codes, codes.window_frames.tolist(), dim=-1)
    parts = zip(windows, torch.split(codes.scales, 1), torch.split(codes.window_frames, 1), strict=True)
    return [Codes(codes=window, scales=scale, window_frames=frames) for window, scale, frames in parts]


class TestProofInFloat64:
    @settings(max_examples=20, deadline=None)
    @given(
        name=st.sampled_from(CAUSAL),
        num_frames=st.integers(1, 30),
        n_q=st.integers(1, 32),
        places=st.lists(st.integers(0, 30), max_size=8),
    )
    def test_any_cuts_equal_the_whole(self, name: str, num_frames: int, n_q: int, places: list[int]) -> None:
        model = double_model(name)
        codes = some_codes(model, num_frames, n_q=n_q)
        found = streamed(StreamingDecoder(model, device="cpu"), cut(codes, places))
        expected = model.decode(codes[None, None], [None]).audio_values[0]
        assert largest_difference(found, expected) < EQUAL

    @pytest.mark.parametrize("name", VARIANTS)
    @settings(max_examples=8, deadline=None)
    @given(num_frames=st.integers(1, 20), places=st.lists(st.integers(0, 20), max_size=5))
    def test_codecs_that_nobody_published(self, name: str, num_frames: int, places: list[int]) -> None:
        model = double_model(name)
        codes = some_codes(model, num_frames, n_q=2)
        found = streamed(StreamingDecoder(model, device="cpu"), cut(codes, places))
        assert largest_difference(found, whole(model, codes)) < EQUAL

    @pytest.mark.parametrize("num_samples", [1, 47_521, 47_999, 48_000, 95_100])
    def test_windows_equal_the_whole(self, num_samples: int) -> None:
        model = double_model("windows_stereo")
        (codes,) = BatchEncoder(model, 6.0, "cpu").encode([audio(model, num_samples)])
        windows = [
            model.decode_window(window.codes.long()[None], scale)
            for window in one_by_one(codes)
            if (scale := window.scales) is not None
        ]
        expected = linear_overlap_add(windows, stride=47_520)[0]
        decoder = StreamingDecoder(model, device="cpu")
        for pieces in ([codes], one_by_one(codes)):
            pushed = [decoder.push_windows([piece]) for piece in pieces]
            assert largest_difference(torch.cat([*pushed, decoder.flush()], -1), expected) < EQUAL

    @settings(max_examples=100, deadline=None)
    @given(num_samples=st.integers(1, 500), length=st.integers(2, 50), data=st.data())
    def test_overlaps_are_added_to_the_bit(self, num_samples: int, length: int, data: st.DataObject) -> None:
        stride = data.draw(st.integers(1, length))
        recording = torch.sin(torch.arange(2 * num_samples, dtype=torch.float32)).view(2, -1)
        windows = [recording[:, span] for span in window_spans(num_samples, length=length, stride=stride)]
        adder = OverlapAdder(stride=stride)
        for _ in range(2):  # the second recording after a flush
            found = torch.cat([*(adder.push(window) for window in windows), *adder.flush()], -1)
            assert torch.equal(found, linear_overlap_add(windows, stride=stride))


class TestBits:
    """In float32 on a CPU the audio of a stream does not depend on where it was cut, nor on the other streams."""

    @pytest.mark.parametrize("name", CAUSAL)
    def test_blocks_of_any_size(self, name: str) -> None:
        codes, decoder = some_codes(fitted_model(name), 90), decoder_of(name)
        at_once = streamed(decoder, [codes])
        torch.testing.assert_close(at_once, whole(fitted_model(name), codes), rtol=0, atol=1e-6)
        for block in (1, 7, 75):
            assert torch.equal(streamed(decoder, torch.split(codes, block, -1)), at_once), block

    @pytest.mark.parametrize("num_streams", [2, 17])
    def test_lockstep_equals_single_streams(self, num_streams: int) -> None:
        model = fitted_model("causal_stereo")
        codes = torch.stack([some_codes(model, 23, seed=seed) for seed in range(num_streams)])
        together = streamed(decoder_of("causal_stereo", batch_size=num_streams), cut(codes, [0, 1, 9, 9, 20]))
        single = decoder_of("causal_stereo")
        assert torch.equal(together, torch.stack([streamed(single, [one]) for one in codes]))

    @pytest.mark.parametrize("name", WINDOWED)
    def test_windows_are_those_of_the_batch_encoder(self, name: str) -> None:
        encoder = BatchEncoder(fitted_model(name), 6.0, "cpu")
        (codes,) = encoder.encode([audio(fitted_model(name), 100_000)])
        decoder = decoder_of(name)
        pushed = [decoder.push_windows([piece]) for piece in one_by_one(codes)]
        assert [piece.shape[-1] for piece in pushed] == [47_520, 47_520, 5_120]
        assert torch.equal(torch.cat([*pushed, decoder.flush()], -1), encoder.decode([codes])[0])

    def test_windows_in_lockstep(self) -> None:
        model = fitted_model("windows_mono")
        streams = StreamingEncoder(model, 6.0, batch_size=2, device="cpu")
        pair = waveforms("windows_mono", 60_000, batch_size=2)
        records = [streams.push_windows(pair), streams.flush_windows()]
        decoder, single = decoder_of("windows_mono", batch_size=2), decoder_of("windows_mono")
        together = torch.cat([*(decoder.push_windows(record) for record in records), decoder.flush()], -1)
        for stream in range(2):
            pushed = [single.push_windows([record[stream]]) for record in records]
            torch.testing.assert_close(together[stream], torch.cat([*pushed, single.flush()], -1), rtol=0, atol=1e-6)


class TestLayout:
    def test_what_the_encoder_returns_is_what_the_decoder_takes(self) -> None:
        model = fitted_model("causal_mono")
        encoder, decoder = StreamingEncoder(model, device="cpu"), decoder_of("causal_mono")
        waveform = audio(model, 12_345)
        pushed = [decoder.push(encoder.push(block)) for block in torch.split(waveform, 480, -1)]
        found = torch.cat([*pushed, decoder.push(encoder.flush()), decoder.flush()], -1)
        (expected,) = BatchEncoder(model, 6.0, "cpu").decode(BatchEncoder(model, 6.0, "cpu").encode([waveform]))
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.uint16, torch.int16, torch.int32, torch.int64])
    def test_integers_of_any_kind(self, dtype: torch.dtype) -> None:
        codes, decoder = some_codes(fitted_model("causal_mono"), 9), decoder_of("causal_mono")
        assert torch.equal(streamed(decoder, [codes.to(dtype)]), streamed(decoder, [codes]))

    def test_flush_begins_a_new_stream(self) -> None:
        codes, decoder = some_codes(fitted_model("causal_mono"), 20), decoder_of("causal_mono")
        assert decoder.flush().shape == (1, 0)
        assert torch.equal(streamed(decoder, [codes]), streamed(decoder, [codes]))
        assert decoder.flush().shape == (1, 0)
        assert decoder_of("windows_stereo", batch_size=2).flush().shape == (2, 2, 0)

    def test_no_windows_yet(self) -> None:
        encoder, decoder = StreamingEncoder(fitted_model("windows_mono"), device="cpu"), decoder_of("windows_mono")
        assert decoder.push_windows(encoder.push_windows(torch.zeros(1, 100))).shape == (1, 0)


def test_audio_comes_with_the_last_frame_that_it_depends_on() -> None:
    """What it depends on is what has a gradient in the plain decoder."""
    model = double_model("causal_mono")
    codes = some_codes(model, 12)
    latents = model.quantizer.dequantize(codes[None]).requires_grad_()
    waveform = model.decoder(latents)[0, 0]
    needed = 0
    expected = []
    for block in waveform.view(12, HOP):
        (gradient,) = torch.autograd.grad(block.sum(), latents, retain_graph=True)
        needed = max(needed, int(gradient[0].abs().sum(0).nonzero().max()) + 1)
        expected.append(needed)
    assert expected == [7] * 7 + [8, 9, 10, 11, 12]
    decoder, num_samples = StreamingDecoder(model, device="cpu"), 0
    for frame in range(12):
        num_samples += decoder.push(codes[:, frame : frame + 1]).shape[-1]
        assert num_samples == HOP * sum(needed <= frame + 1 for needed in expected)


class TestRefusals:
    def test_settings(self) -> None:
        with pytest.raises(ValueError, match="32000 Hz codec cannot be streamed: its convolutions are not causal"):
            decoder_of("musicgen")
        with pytest.raises(ValueError, match="batch_size = -1; expected 1 or more"):
            decoder_of("causal_mono", batch_size=-1)
        with pytest.raises(ValueError, match=r"call model\.float\(\)"):
            StreamingDecoder(copy.deepcopy(fitted_model("causal_mono")).half(), device="cpu")

    @pytest.mark.parametrize(
        ("batch_size", "codes", "message"),
        [
            (1, torch.zeros(3, dtype=torch.int64), r"the shape \[3\]; batch_size = 1 takes \[codebooks, frames\]"),
            (1, torch.zeros(1, 8, 3, dtype=torch.int64), r"the shape \[1, 8, 3\]"),
            (2, torch.zeros(8, 3, dtype=torch.int64), r"batch_size = 2 takes \[2, codebooks, frames\]"),
            (2, torch.zeros(3, 8, 3, dtype=torch.int64), r"the shape \[3, 8, 3\]"),
            (1, torch.zeros(33, 3, dtype=torch.int64), "33 codebooks, the model 32"),
            (1, torch.zeros(0, 3, dtype=torch.int64), "0 codebooks"),
            (1, torch.zeros(8, 3), r"torch\.float32; expected integers"),
            (1, torch.zeros(8, 3, dtype=torch.bool), r"torch\.bool; expected integers"),
            (1, torch.full((8, 3), 1024), "from 1024 to 1024; expected 0 to 1023"),
            (1, torch.full((8, 3), -1), "from -1 to -1; expected 0 to 1023"),
        ],
    )
    def test_codes(self, batch_size: int, codes: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            decoder_of("causal_mono", batch_size=batch_size).push(codes)

    def test_a_refused_push_leaves_the_stream_as_it_was(self) -> None:
        decoder, codes = decoder_of("causal_mono"), some_codes(fitted_model("causal_mono"), 20)
        expected = streamed(decoder, [codes])
        first = decoder.push(codes[:, :9])
        with pytest.raises(ValueError, match="1024"):
            decoder.push(torch.full((8, 3), 1024))
        assert torch.equal(torch.cat([first, decoder.push(codes[:, 9:]), decoder.flush()], -1), expected)

    def test_windows_and_none(self) -> None:
        plain = Codes(codes=torch.zeros(4, 3, dtype=torch.uint16))
        with pytest.raises(ValueError, match="windows with their scales; give push_windows"):
            decoder_of("windows_mono").push(plain.codes)
        with pytest.raises(ValueError, match="has no windows; give push"):
            decoder_of("causal_mono").push_windows([plain])
        with pytest.raises(ValueError, match="has no windows, the codec has"):
            decoder_of("windows_mono").push_windows([plain])

    @pytest.mark.parametrize(
        ("frames", "message"),
        [
            ([[3], [2]], "streams in lockstep"),
            ([[1, 2], [2, 1]], "streams in lockstep"),
            ([[3]], "1 records of codes for batch_size = 2"),
            ([[2, 3], [2, 3]], "a window of 960 samples after a first one of 640"),
            ([[3, 3], [3, 3]], "ended before the stride of 47520 samples"),
        ],
    )
    def test_windows_that_do_not_fit(self, frames: list[list[int]], message: str) -> None:
        records = [
            Codes(
                codes=torch.zeros(4, sum(stream), dtype=torch.uint16),
                scales=torch.ones(len(stream)),
                window_frames=torch.tensor(stream, dtype=torch.int32),
            )
            for stream in frames
        ]
        with pytest.raises(ValueError, match=message):
            decoder_of("windows_mono", batch_size=2).push_windows(records)


def test_the_model_is_copied() -> None:
    for name in ("causal_mono", "windows_mono"):
        model = copy.deepcopy(fitted_model(name))
        decoder = StreamingDecoder(model, device="cpu")
        (codes,) = BatchEncoder(model, CONFIGS[name].target_bandwidths[0], "cpu").encode([audio(model, 5_000)])

        def decoded(decoder: StreamingDecoder = decoder, codes: Codes = codes) -> Tensor:
            pushed = decoder.push(codes.codes) if codes.scales is None else decoder.push_windows([codes])
            return torch.cat([pushed, decoder.flush()], -1)

        expected = decoded()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.zero_()
        assert torch.equal(decoded(), expected)
