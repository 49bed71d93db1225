"""The fast path against the plain model: equal to 1e-12 in float64, and in codes but for near ties."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encodec_core import BatchEncoder, Codes, EncodecModel, compare_codes
from encodec_core.fast.lanes import LaneEncoder
from encodec_core.fast.layers import FoldedEncoder, elu, fold_encoder
from encodec_core.fast.padded import PaddedEncoder, reflected_steps
from encodec_core.fast.precision import exact_float32
from encodec_core.fast.tiles import initial_state, push
from encodec_core.modules.conv import conv_padding, pad1d
from encodec_core.windows import linear_overlap_add, loudness, window_starts
from tests.encodec_core.models import CONFIGS, fitted_model, meta_model, waveforms

every_config = pytest.mark.parametrize("name", CONFIGS)
without_windows = pytest.mark.parametrize("name", ["causal_mono", "causal_stereo", "musicgen"])

LENGTHS = (
    *(1, 2, 3, 7, 100, 319, 320, 321, 639, 640, 641, 700, 960, 1500, 1600, 1920, 1921, 2239, 2240, 2241),
    *(2559, 2560, 2561, 3000, 3200, 3201, 5000, 6399, 6400, 6401, 9999, 12_800, 16_000, 19_199, 19_999, 20_000),
)
"""In samples: one frame and less, around the 7 frames below which the last convolution reflects what is not there, odd
lengths."""
WINDOW_LENGTHS = (1, 100, 319, 47_519, 47_520, 47_521, 47_840, 47_999, 48_000, 95_040, 95_100)
"""Around windows of 48,000 samples with a stride of 47,520; two of them are part-filled in 47,521 to 47,999 and
95,100."""
EQUAL = 1e-12
"""Of latents around 1 to 5 in float64; measured 1e-14."""


@cache
def double_model(name: str) -> EncodecModel:
    return copy.deepcopy(fitted_model(name)).double()


@cache
def folded(name: str, dtype: torch.dtype = torch.float64) -> FoldedEncoder:
    model = double_model(name) if dtype == torch.float64 else fitted_model(name)
    return fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=dtype)


def noise(name: str, num_samples: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return 0.3 * torch.randn(CONFIGS[name].audio_channels, num_samples, generator=generator, dtype=dtype)


def plain_latents(model: EncodecModel, waveform: Tensor) -> Tensor:
    length = model.config.chunk_length or waveform.shape[-1]
    starts = window_starts(waveform.shape[-1], stride=model.config.chunk_stride or length)
    windows = [waveform[None, :, start : start + length] for start in starts]
    scaled = [window / loudness(window) if model.config.normalize else window for window in windows]
    return torch.cat([model.encoder(window)[0] for window in scaled], -1)


@cache
def expected_latents(name: str, num_samples: int) -> Tensor:
    return plain_latents(double_model(name), noise(name, num_samples))


def in_groups(encoder: LaneEncoder | PaddedEncoder, audio: Sequence[Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for group in encoder.groups([waveform.shape[-1] for waveform in audio]):
        found |= dict(zip(group, encoder.encode([audio[index] for index in group], finish=list), strict=True))
    return [found[index] for index in range(len(audio))]


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    assert [latents.shape for latents in found] == [latents.shape for latents in expected]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def restore_num_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class TestProofInFloat64:
    @every_config
    def test_a_ragged_batch_equals_one_by_one(self, name: str) -> None:
        encoder = BatchEncoder(double_model(name), CONFIGS[name].target_bandwidths[-1], "cpu")
        found = encoder.latents([noise(name, num_samples) for num_samples in LENGTHS])
        assert largest_difference(found, [expected_latents(name, num_samples) for num_samples in LENGTHS]) < EQUAL

    @pytest.mark.parametrize("name", ["windows_stereo", "windows_mono"])
    def test_windows_equal_one_by_one(self, name: str) -> None:
        encoder = BatchEncoder(double_model(name), CONFIGS[name].target_bandwidths[-1], "cpu")
        found = encoder.latents([noise(name, num_samples) for num_samples in WINDOW_LENGTHS])
        assert (
            largest_difference(found, [expected_latents(name, num_samples) for num_samples in WINDOW_LENGTHS]) < EQUAL
        )

    @without_windows
    @pytest.mark.parametrize("tile_samples", [320, 1000, 6400])
    def test_tiles_equal_the_whole(self, name: str, tile_samples: int) -> None:
        encoder = LaneEncoder(folded(name), convolution_dtype=torch.float64, tile_samples=tile_samples)
        found = in_groups(encoder, [noise(name, num_samples) for num_samples in LENGTHS])
        assert largest_difference(found, [expected_latents(name, num_samples) for num_samples in LENGTHS]) < EQUAL

    @without_windows
    @pytest.mark.parametrize("filler", [0.37, 1e4])
    def test_no_latent_depends_on_padding(self, name: str, filler: float) -> None:
        encoder = PaddedEncoder(folded(name), convolution_dtype=torch.float64, filler=filler)
        audio = [noise(name, num_samples) for num_samples in LENGTHS]
        expected = [expected_latents(name, num_samples) for num_samples in LENGTHS]
        assert largest_difference(encoder.encode(audio, finish=list), expected) < EQUAL
        assert largest_difference(in_groups(encoder, audio), expected) < EQUAL

    def test_windows_are_padded_into_no_batch(self) -> None:
        encoder = PaddedEncoder(folded("windows_stereo"), convolution_dtype=torch.float64)
        assert sorted(encoder.groups([48_000, 20, 48_000, 21, 20])) == [[0, 2], [1, 4], [3]]

    @settings(max_examples=40, deadline=None)
    @given(
        name=st.sampled_from(["causal_mono", "musicgen"]),
        lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=5),
        tile_samples=st.integers(100, 3000),
    )
    def test_any_lengths(self, name: str, lengths: list[int], tile_samples: int) -> None:
        audio = [noise(name, num_samples) for num_samples in lengths]
        expected = [plain_latents(double_model(name), waveform) for waveform in audio]
        lanes = LaneEncoder(folded(name), convolution_dtype=torch.float64, tile_samples=tile_samples)
        padded = PaddedEncoder(folded(name), convolution_dtype=torch.float64, filler=0.37)
        assert largest_difference(lanes.encode(audio, finish=list), expected) < EQUAL
        assert largest_difference(padded.encode(audio, finish=list), expected) < EQUAL

    @settings(max_examples=40, deadline=None)
    @given(
        name=st.sampled_from(["causal_mono", "musicgen"]),
        num_samples=st.integers(1, 3000),
        cuts=st.lists(st.integers(0, 3000), max_size=8),
    )
    def test_convolutions_take_any_tiles(self, name: str, num_samples: int, cuts: list[int]) -> None:
        """Also of one sample, and of none, as streams bring them."""
        front, waveform = folded(name).front, noise(name, num_samples)[None]
        whole = push(waveform, front, initial_state(front), is_last=True)
        states, places = initial_state(front), sorted(min(cut, num_samples) for cut in cuts)
        tiles = waveform.tensor_split(places, dim=-1)
        pieces = [push(tile, front, states, is_last=index == len(places)) for index, tile in enumerate(tiles)]
        assert largest_difference([torch.cat(pieces, -1)], [whole]) < EQUAL

    @settings(deadline=None)
    @given(
        length=st.integers(1, 40),
        kernel_size=st.integers(1, 12),
        stride=st.integers(1, 6),
        causal=st.booleans(),
    )
    def test_reflection_in_a_batch_is_that_of_pad1d(
        self, length: int, kernel_size: int, stride: int, causal: bool
    ) -> None:
        kernel_size = max(kernel_size, stride)
        shape: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "dilation": 1, "causal": causal}
        left, right = conv_padding(0, **shape)
        steps, sources = reflected_steps(torch.tensor([length]), left=left, right=right, stride=stride)
        x = torch.arange(1.0, length + 1)
        padding = conv_padding(length, **shape)
        expected = pad1d(x[None], padding, mode="reflect")[0]
        found = torch.cat([torch.zeros(left), x, torch.zeros(right + stride - 1)])
        found[steps[0] + left] = torch.where(sources[0] < 0, 0.0, x[sources[0].clamp(min=0)])
        assert torch.equal(found[: len(expected)], expected)


class TestBits:
    """On one machine an item has the same bits in any company: an encoder actor and a laptop must agree."""

    lengths = (1, 319, 320, 700, 5000, 24_001, 48_123, 60_000, 100_000)

    @every_config
    def test_alone_and_in_a_batch(self, name: str) -> None:
        encoder = BatchEncoder(fitted_model(name), CONFIGS[name].target_bandwidths[-1], "cpu")
        audio = [noise(name, num_samples, dtype=torch.float32) for num_samples in self.lengths]
        together = encoder.latents(audio)
        assert all(
            torch.equal(encoder.latents([waveform])[0], one) for waveform, one in zip(audio, together, strict=True)
        )
        codes = encoder.encode(audio)
        for waveform, one in zip(audio, codes, strict=True):
            assert torch.equal(encoder.encode([waveform])[0].codes, one.codes)

    @pytest.mark.parametrize("name", ["causal_mono", "windows_stereo", "musicgen"])
    @pytest.mark.parametrize("num_threads", [2, 3])
    @pytest.mark.usefixtures("restore_num_threads")
    def test_any_number_of_threads(self, name: str, num_threads: int) -> None:
        """Few frames: threads that wait for each other in an LSTM on a busy machine take seconds for one of audio."""
        encoder = BatchEncoder(fitted_model(name), CONFIGS[name].target_bandwidths[-1], "cpu")
        audio = [noise(name, num_samples, dtype=torch.float32) for num_samples in (1, 320, 700, 24_001)]
        codes, latents = encoder.encode(audio), encoder.latents(audio)
        torch.set_num_threads(num_threads)
        assert all(torch.equal(a, b) for a, b in zip(latents, encoder.latents(audio), strict=True))
        for one, other in zip(codes, encoder.encode(audio), strict=True):
            assert torch.equal(one.codes, other.codes)
            assert (one.scales is None) == (other.scales is None)
            assert one.scales is None or other.scales is None or torch.equal(one.scales, other.scales)

    @pytest.mark.parametrize("num_threads", [2, 3, 8])
    @pytest.mark.usefixtures("restore_num_threads")
    def test_convolutions_on_any_number_of_threads(self, num_threads: int) -> None:
        front = folded("causal_mono", torch.float32).front
        audio = [noise("causal_mono", num_samples, dtype=torch.float32)[None] for num_samples in self.lengths]
        expected = [push(waveform, front, initial_state(front), is_last=True) for waveform in audio]
        torch.set_num_threads(num_threads)
        for waveform, features in zip(audio, expected, strict=True):
            assert torch.equal(push(waveform, front, initial_state(front), is_last=True), features)

    @without_windows
    def test_any_tiles(self, name: str) -> None:
        audio = [noise(name, num_samples, dtype=torch.float32) for num_samples in self.lengths]
        encoders = [
            LaneEncoder(folded(name, torch.float32), convolution_dtype=torch.float32, tile_samples=tile_samples)
            for tile_samples in (640, 4801, 24_000)
        ]
        first, *others = [in_groups(encoder, audio) for encoder in encoders]
        assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))

    @pytest.mark.usefixtures("restore_num_threads")
    @given(num_numbers=st.integers(1, 300_000), num_threads=st.integers(1, 4))
    @settings(max_examples=30, deadline=None)
    def test_elu_is_blind_to_place_and_threads(self, num_numbers: int, num_threads: int) -> None:
        x = torch.linspace(-4, 1, 300_032)
        torch.set_num_threads(1)
        expected = elu(x)
        torch.set_num_threads(num_threads)
        assert torch.equal(elu(x[:num_numbers]), expected[:num_numbers])


class TestCodes:
    @every_config
    def test_equal_the_plain_models_but_for_near_ties(self, name: str) -> None:
        """About 3,000 frames of each codec at n_q = 8 (4 at 48 kHz)."""
        model, bandwidth = fitted_model(name), 1.6 if name == "musicgen" else 6.0
        audio = list(waveforms(name, 333_333, batch_size=3))
        encoder = BatchEncoder(model, bandwidth, "cpu")
        found = [
            compare_codes(model, waveform, codes, bandwidth_kbps=bandwidth)
            for waveform, codes in zip(audio, encoder.encode(audio), strict=True)
        ]
        assert all(agreement.is_faithful for agreement in found)
        assert sum(agreement.num_near_tie_frames for agreement in found) <= 1

    @pytest.mark.parametrize("bandwidth", [1.5, 3.0, 6.0])
    def test_a_lower_bandwidth_is_a_prefix(self, bandwidth: float) -> None:
        audio = list(waveforms("causal_mono", 24_001))
        codes = BatchEncoder(fitted_model("causal_mono"), bandwidth, "cpu").encode(audio)[0].codes
        highest = BatchEncoder(fitted_model("causal_mono"), 24.0, "cpu").encode(audio)[0].codes
        assert torch.equal(codes, highest[: len(codes)])

    @pytest.mark.parametrize("name", ["windows_stereo", "windows_mono"])
    @pytest.mark.parametrize("num_samples", WINDOW_LENGTHS)
    def test_windows_are_those_of_meta(self, name: str, num_samples: int) -> None:
        audio, meta = waveforms(name, num_samples), meta_model(name)
        meta.set_target_bandwidth(6.0)
        frames = meta.encode(audio)
        encoder = BatchEncoder(fitted_model(name), 6.0, "cpu")
        codes = encoder.encode([audio[0]])[0]
        assert codes.window_frames is not None
        assert codes.scales is not None
        assert codes.window_frames.tolist() == [window.shape[-1] for window, _ in frames]
        assert torch.equal(codes.codes.long(), torch.cat([window[0] for window, _ in frames], -1))
        torch.testing.assert_close(codes.scales, torch.cat([scale[0] for _, scale in frames]), rtol=1e-6, atol=0)
        found = encoder.decode([codes])[0]
        assert found.shape[-1] >= num_samples
        if num_samples == 47_840:
            return  # Meta's decoder fails where the last window ends before the one before it
        decoded = meta.decode(frames)[0]
        torch.testing.assert_close(found[:, : decoded.shape[-1]], decoded, rtol=0, atol=1e-5)

    @every_config
    def test_no_items(self, name: str) -> None:
        encoder = BatchEncoder(fitted_model(name), CONFIGS[name].target_bandwidths[0], "cpu")
        assert encoder.encode([]) == []
        assert encoder.decode([]) == []

    @without_windows
    def test_decoding_is_the_models(self, name: str) -> None:
        model, bandwidth = fitted_model(name), CONFIGS[name].target_bandwidths[-1]
        audio = [waveforms(name, num_samples)[0] for num_samples in (1, 700, 24_001)]
        encoder = BatchEncoder(model, bandwidth, "cpu")
        for codes, decoded in zip(encoder.encode(audio), encoder.decode(encoder.encode(audio)), strict=True):
            expected = model.decode_window(codes.codes.long()[None], None)[0]
            assert decoded.shape[-1] == codes.num_frames * model.config.hop_length
            torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-6)

    def test_windows_decode_with_their_scales(self) -> None:
        model = fitted_model("windows_stereo")
        codes = BatchEncoder(model, 24.0, "cpu").encode([waveforms("windows_stereo", 95_100)[0]])[0]
        assert codes.window_frames is not None
        assert codes.scales is not None
        windows = torch.split(codes.codes.long()[None], codes.window_frames.tolist(), dim=-1)
        decoded = [model.decode_window(*window) for window in zip(windows, torch.split(codes.scales, 1), strict=True)]
        expected = linear_overlap_add(decoded, stride=47_520)[0]
        found = BatchEncoder(model, 3.0, "cpu").decode([codes])[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)

    def test_bf16_convolutions_are_close(self) -> None:
        model, audio = fitted_model("causal_mono"), list(waveforms("causal_mono", 24_001))
        exact = BatchEncoder(model, 6.0, "cpu").latents(audio)[0]
        rough = BatchEncoder(model, 6.0, "cpu", "bf16").latents(audio)[0]
        assert rough.dtype == torch.float32
        assert 0 < (rough - exact).norm() < 0.1 * exact.norm()

    def test_the_record_can_be_sent_and_printed(self) -> None:
        codes = BatchEncoder(fitted_model("windows_mono"), 6.0, "cpu").encode([waveforms("windows_mono", 50_000)[0]])[0]
        assert torch.equal(pickle.loads(pickle.dumps(codes)).codes, codes.codes)
        assert repr(codes) == "Codes(codes=uint16 [4, 158], scales=float32 [2], window_frames=int32 [2])"


class TestModel:
    def test_it_is_copied(self) -> None:
        model = copy.deepcopy(fitted_model("causal_mono"))
        before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        audio = list(waveforms("causal_mono", 5000))
        encoder = BatchEncoder(model, 6.0, "cpu")
        codes = encoder.encode(audio)[0]
        audible = encoder.decode([codes])[0]
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.zero_()
        assert torch.equal(encoder.encode(audio)[0].codes, codes.codes)
        assert torch.equal(encoder.decode([codes])[0], audible)

    def test_global_precision_settings_take_no_effect_and_come_back(self) -> None:
        encoder = BatchEncoder(fitted_model("causal_mono"), 24.0, "cpu")
        audio = list(waveforms("causal_mono", 24_001))
        latents = encoder.latents(audio)[0]
        matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
        before = matmul.fp32_precision
        matmul.fp32_precision = "bf16"
        try:
            assert torch.equal(encoder.latents(audio)[0], latents)
            assert matmul.fp32_precision == "bf16"
            with exact_float32():
                assert matmul.fp32_precision == "ieee"
        finally:
            matmul.fp32_precision = before

    def test_memory_does_not_grow_with_the_item(self) -> None:
        """Ten minutes: one layer's activations would take 230 MB, whole."""
        script = """
import resource, torch
from encodec_core import BatchEncoder, EncodecConfig, EncodecModel
torch.set_num_threads(1)
encoder = BatchEncoder(EncodecModel(EncodecConfig(num_filters=4, hidden_size=16)), 1.5, "cpu")
encoder.encode([torch.zeros(1, 24_000 * 8)])
audio = torch.zeros(1, 24_000 * 600)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
encoder.encode([audio])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
        assert int(result.stdout) < 100 * 1024


class TestRefusals:
    encoder_arguments: tuple[tuple[dict[str, Any], str], ...] = (
        ({"bandwidth_kbps": 5.0}, "choose one of 1.5, 3, 6, 12, 24"),
        ({"precision": "fp8"}, "choose one of fp32, tf32, bf16"),
        ({"precision": "tf32"}, "cannot take effect on cpu"),
    )

    @pytest.mark.parametrize(("arguments", "message"), encoder_arguments)
    def test_settings(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            BatchEncoder(fitted_model("causal_mono"), **({"device": "cpu"} | arguments))

    def test_half_precision_models(self) -> None:
        with pytest.raises(ValueError, match=r"call model\.float\(\)"):
            BatchEncoder(copy.deepcopy(fitted_model("causal_mono")).half(), 6.0, "cpu")

    @pytest.mark.parametrize(
        ("waveform", "message"),
        [
            (torch.zeros(2, 100), r"waveform 1 has the shape \[2, 100\]; expected \[1, samples > 0\]"),
            (torch.zeros(100), r"waveform 1 has the shape \[100\]"),
            (torch.zeros(1, 0), r"waveform 1 has the shape \[1, 0\]"),
            (torch.zeros(1, 100, dtype=torch.int16), r"waveform 1 is torch\.int16; expected torch\.float32"),
            (torch.zeros(1, 100, dtype=torch.float64), r"waveform 1 is torch\.float64; expected torch\.float32"),
        ],
    )
    def test_waveforms(self, waveform: Tensor, message: str) -> None:
        encoder = BatchEncoder(fitted_model("causal_mono"), 6.0, "cpu")
        with pytest.raises(ValueError, match=message):
            encoder.encode([torch.zeros(1, 10), waveform])

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"codes": torch.zeros(2, 3)}, "expected uint16"),
            ({"codes": torch.zeros(3, dtype=torch.uint16)}, "expected uint16"),
            ({"scales": torch.ones(1)}, "belong together"),
            ({"scales": torch.ones(2), "window_frames": torch.tensor([3])}, "expected"),
            ({"scales": torch.ones(1), "window_frames": torch.tensor([4])}, "4 frames together and codes has 3"),
        ],
    )
    def test_records(self, parts: dict[str, Tensor], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Codes(**({"codes": torch.zeros(2, 3, dtype=torch.uint16)} | parts))

    def test_codes_of_another_codec(self) -> None:
        codes = Codes(codes=torch.zeros(2, 3, dtype=torch.uint16))
        with pytest.raises(ValueError, match="were they made by another codec"):
            BatchEncoder(fitted_model("windows_mono"), 6.0, "cpu").decode([codes])
        too_many = Codes(codes=torch.zeros(33, 3, dtype=torch.uint16))
        with pytest.raises(ValueError, match="33 codebooks, the model 32"):
            BatchEncoder(fitted_model("causal_mono"), 6.0, "cpu").decode([too_many])


def test_scales_of_audio_on_a_device_come_back_as_codes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: tensors of the scales' shape are seen on their way to the CPU."""
    encoder = BatchEncoder(fitted_model("windows_stereo"), 6.0, "cpu")
    shapes = []
    to_cpu = Tensor.cpu

    def seen(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return to_cpu(tensor)

    monkeypatch.setattr(Tensor, "cpu", seen)
    (codes,) = encoder.encode([noise("windows_stereo", 50_000, dtype=torch.float32)])
    assert codes.scales is not None
    assert codes.scales.shape in shapes


@pytest.mark.parametrize("kind", [LaneEncoder, PaddedEncoder])
def test_encoders_build_no_graph(kind: Any) -> None:
    audio = noise("causal_mono", 3_000).requires_grad_()
    encoder = kind(folded("causal_mono"), convolution_dtype=torch.float64)
    with torch.enable_grad():
        (latents,) = encoder.encode([audio], finish=list)
    assert not latents.requires_grad
