"""Items of different lengths in one padded batch, by the route of GPUs, run here on a CPU in float64."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.fast.gpu.encoder import GpuEncoder
from encodec_core.fast.gpu.plan import Budget
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.loudness import batch_loudness, window_loudness
from encodec_core.fast.padded import can_share_batches, reflected_steps
from encodec_core.modules.conv import conv_padding, pad1d
from encodec_core.windows import loudness
from tests.encodec_core.models import CONFIGS, fitted_model

every_config = pytest.mark.parametrize("name", CONFIGS)
LENGTHS = (1, 7, 100, 319, 320, 321, 641, 1500, 1921, 2239, 2240, 2241, 3200, 6399, 9999, 16_000, 19_999)
"""In samples: one frame and less, around the 7 frames below which the last convolution reflects what is not there."""
SMALL = Budget(samples=30_000, frames=150)
"""Several batches, and several groups in each, of `LENGTHS`."""
LARGE = Budget(samples=10**9, frames=10**9)
EQUAL = 1e-12
"""Of latents around 1 to 5 in float64; measured 1e-14."""


@cache
def double_model(name: str) -> EncodecModel:
    return copy.deepcopy(fitted_model(name)).double()


def gpu_encoder(name: str, *, budget: Budget, filler: float = 0.0) -> GpuEncoder:
    model = double_model(name)
    where: dict[str, Any] = {"device": torch.device("cpu")}
    return GpuEncoder(
        fold_encoder(model.encoder, **where, convolution_dtype=torch.float64),
        DeviceQuantizer(model.quantizer.codebooks[:8], **where, dtype=torch.float64),
        convolution_dtype=torch.float64,
        normalize=model.config.normalize,
        budget=budget,
        filler=filler,
    )


def noise(name: str, num_samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(num_samples)
    return 0.3 * torch.randn(CONFIGS[name].audio_channels, num_samples, generator=generator, dtype=torch.float64)


def alone(name: str, waveform: Tensor) -> Tensor:
    model = double_model(name)
    window = waveform[None]
    latents: Tensor = model.encoder(window / loudness(window) if model.config.normalize else window)[0]
    return latents


@cache
def expected(name: str) -> list[Tensor]:
    return [alone(name, noise(name, num_samples)) for num_samples in LENGTHS]


def largest_difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    assert [latents.shape for latents in found] == [latents.shape for latents in wanted]
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


@every_config
@pytest.mark.parametrize("budget", [SMALL, LARGE])
@pytest.mark.parametrize("filler", [0.37, 1e4])
def test_no_latent_depends_on_company_or_padding(name: str, budget: Budget, filler: float) -> None:
    encoder = gpu_encoder(name, budget=budget, filler=filler)
    found = encoder.latents([noise(name, num_samples) for num_samples in LENGTHS])
    assert largest_difference(found, expected(name)) < EQUAL


@every_config
def test_padding_that_is_no_number_reaches_no_latent(name: str) -> None:
    encoder = gpu_encoder(name, budget=LARGE, filler=float("nan"))
    found = encoder.latents([noise(name, num_samples) for num_samples in LENGTHS])
    assert largest_difference(found, expected(name)) < EQUAL


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["causal_mono", "musicgen", "windows_stereo"]),
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=6),
    samples=st.integers(1, 10_000),
    frames=st.integers(1, 40),
)
def test_any_lengths_and_budgets(name: str, lengths: list[int], samples: int, frames: int) -> None:
    """Also items over the budget, which go through the convolutions in tiles."""
    audio = [noise(name, num_samples) for num_samples in lengths]
    encoder = gpu_encoder(name, budget=Budget(samples=samples, frames=frames), filler=0.37)
    assert largest_difference(encoder.latents(audio), [alone(name, waveform) for waveform in audio]) < EQUAL


@settings(deadline=None)
@given(
    length=st.integers(1, 40),
    kernel_size=st.integers(1, 12),
    stride=st.integers(1, 6),
    causal=st.booleans(),
)
def test_reflection_in_a_batch_is_that_of_pad1d(length: int, kernel_size: int, stride: int, causal: bool) -> None:
    kernel_size = max(kernel_size, stride)
    shape: dict[str, Any] = {"kernel_size": kernel_size, "stride": stride, "dilation": 1, "causal": causal}
    left, right = conv_padding(0, **shape)
    steps, sources = reflected_steps(torch.tensor([length]), left=left, right=right, stride=stride)
    x = torch.arange(1.0, length + 1)
    padding = conv_padding(length, **shape)
    wanted = pad1d(x[None], padding, mode="reflect")[0]
    found = torch.cat([torch.zeros(left), x, torch.zeros(right + stride - 1)])
    found[steps[0] + left] = torch.where(sources[0] < 0, 0.0, x[sources[0].clamp(min=0)])
    assert torch.equal(found[: len(wanted)], wanted)


def test_other_paddings_than_reflection_share_no_batch_of_different_lengths() -> None:
    config = EncodecConfig.encodec_24khz(num_filters=4, hidden_size=16, pad_mode="replicate")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(config).double().requires_grad_(False)
    encoder = fold_encoder(model.encoder, device=torch.device("cpu"), convolution_dtype=torch.float64)
    assert not can_share_batches(encoder)
    gpu = GpuEncoder(
        encoder,
        DeviceQuantizer(model.quantizer.codebooks[:2], device=torch.device("cpu"), dtype=torch.float64),
        convolution_dtype=torch.float64,
        normalize=False,
        budget=LARGE,
    )
    audio = [noise("causal_mono", num_samples) for num_samples in (3000, 700, 3000, 2999)]
    assert largest_difference(gpu.latents(audio), [model.encoder(one[None])[0] for one in audio]) < EQUAL


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), min_size=1, max_size=4), channels=st.integers(1, 2))
def test_loudness_of_a_batch_is_that_of_each_window(lengths: list[int], channels: int) -> None:
    windows = torch.full((len(lengths), channels, max(lengths)), 7.0, dtype=torch.float64)
    for row, length in zip(windows, lengths, strict=True):
        row[:, :length] = torch.linspace(-1, 0.5, length * channels, dtype=torch.float64).view(channels, length)
    wanted = [loudness(row[None, :, :length]).item() for row, length in zip(windows, lengths, strict=True)]
    found = batch_loudness(windows, torch.tensor(lengths))
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("num_threads", [1, 2, 7])
@pytest.mark.usefixtures("restore_num_threads")
def test_loudness_of_a_window_has_the_bits_of_one_thread(num_threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    windows = [torch.randn(2, n, generator=generator) for n in [1, 100, 16_385, *[32_769, 48_000] * 8]]
    torch.set_num_threads(1)
    wanted = [loudness(window[None]).item() for window in windows]
    torch.set_num_threads(num_threads)
    assert [window_loudness(window).item() for window in windows] == wanted
