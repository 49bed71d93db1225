"""Latents of the fast path against the plain model's: equal to 1e-12 in float64, and to the bit in any company."""

import copy
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encodec_core import BatchEncoder, EncodecModel
from encodec_core.fast.lanes import LaneEncoder
from encodec_core.fast.layers import FoldedEncoder, elu, fold_encoder
from encodec_core.fast.tiles import initial_state, push
from encodec_core.spans import window_spans
from encodec_core.windows import loudness
from tests.encodec_core.models import CONFIGS, WINDOW_LENGTHS, fitted_model

every_config = pytest.mark.parametrize("name", CONFIGS)
without_windows = pytest.mark.parametrize("name", ["causal_mono", "causal_stereo", "musicgen"])

LENGTHS = (
    *(1, 2, 3, 7, 100, 319, 320, 321, 639, 640, 641, 700, 960, 1500, 1600, 1920, 1921, 2239, 2240, 2241),
    *(2559, 2560, 2561, 3000, 3200, 3201, 5000, 6399, 6400, 6401, 9999, 12_800, 16_000, 19_199, 19_999, 20_000),
)
"""In samples: one frame and less, around the 7 frames below which the last convolution reflects what is not there, odd
lengths."""
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
    config = model.config
    spans = window_spans(waveform.shape[-1], length=config.chunk_length, stride=config.chunk_stride)
    windows = [waveform[None, :, span] for span in spans]
    scaled = [window / loudness(window) if config.normalize else window for window in windows]
    return torch.cat([model.encoder(window)[0] for window in scaled], -1)


@cache
def expected_latents(name: str, num_samples: int) -> Tensor:
    return plain_latents(double_model(name), noise(name, num_samples))


def in_groups(encoder: LaneEncoder, audio: Sequence[Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for group in encoder.groups([waveform.shape[-1] for waveform in audio]):
        found |= dict(zip(group, encoder.encode([audio[index] for index in group], finish=list), strict=True))
    return [found[index] for index in range(len(audio))]


def largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    assert [latents.shape for latents in found] == [latents.shape for latents in expected]
    return max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))


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
        assert largest_difference(lanes.encode(audio, finish=list), expected) < EQUAL

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


def test_encoders_build_no_graph() -> None:
    audio = noise("causal_mono", 3_000).requires_grad_()
    encoder = LaneEncoder(folded("causal_mono"), convolution_dtype=torch.float64)
    with torch.enable_grad():
        (latents,) = encoder.encode([audio], finish=list)
    assert not latents.requires_grad
