"""Losses against their published formulas, computed here in numpy."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from encodec_core.training import (
    MultiScaleMelLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    relative_squared_error,
    si_snr,
    waveform_l1,
)
from encodec_core.training.losses import mel_filters
from tests.fitted_models import synthetic_waveform

Array = NDArray[np.float64]
LENGTHS = (1, 7, 8, 9, 767, 769, 3000)
"""Around a hop of the shortest window, and where the longest reflects as much as there is."""


def audio(num_samples: int, *, seed: int, num_channels: int = 1, batch_size: int = 2) -> Tensor:
    return torch.stack(
        [
            synthetic_waveform(num_samples, num_channels=num_channels, sampling_rate=24_000, seed=10 * seed + index)
            for index in range(batch_size)
        ]
    )


def reflected(signal: Array, edge: int) -> Array:
    """Reflect both edges; a signal too short for it gets zeros on the right first, which are cut off afterwards."""
    fill = max(0, edge - len(signal) + 1)
    padded = np.pad(np.pad(signal, (0, fill)), edge, mode="reflect")
    return padded[: len(padded) - fill]


def mel_power(signal: Array, *, window_length: int, num_mels: int, sample_rate: int) -> Array:
    hop = window_length // 4
    padded = reflected(signal, (window_length - hop) // 2)
    num_frames = math.ceil(len(signal) / hop)
    padded = np.pad(padded, (0, (num_frames - 1) * hop + window_length - len(padded)))
    window = np.hanning(window_length + 1)[:-1]
    frames = np.stack([padded[hop * frame : hop * frame + window_length] * window for frame in range(num_frames)])
    power = np.abs(np.fft.rfft(frames)) ** 2 / (window**2).sum()
    bank = mel_filter_bank(
        window_length // 2 + 1, num_mels, 64.0, sample_rate / 2, sample_rate, norm=None, mel_scale="htk"
    )
    return np.asarray(power @ bank, dtype=np.float64)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize("num_samples", LENGTHS)
@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_mel_loss_is_the_published_sum(num_samples: int, alpha: float) -> None:
    reference, estimate = (audio(num_samples, seed=seed, num_channels=2) for seed in (1, 2))
    expected = 0.0
    for exponent in range(5, 12):
        wanted, got = (
            np.stack(
                [
                    mel_power(signal, window_length=2**exponent, num_mels=64, sample_rate=24_000)
                    for signal in waveforms.double().flatten(0, 1).numpy()
                ]
            )
            for waveforms in (reference, estimate)
        )
        logarithms = np.log10(got + 1e-5) - np.log10(wanted + 1e-5)
        expected += np.abs(got - wanted).mean() + alpha * (logarithms**2).mean()
    loss = MultiScaleMelLoss(24_000, alpha=alpha)(reference, estimate)
    # float32 spectrograms; the logarithm of a band near the floor is worth five digits.
    assert loss.item() == pytest.approx(expected / 7 / (1 + alpha), rel=2e-5)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
@pytest.mark.parametrize("exponent", range(5, 12))
@pytest.mark.parametrize(("sample_rate", "lowest_hz"), [(24_000, 0.0), (24_000, 64.0), (48_000, 64.0), (32_000, 20.0)])
def test_mel_filters_are_those_of_transformers(exponent: int, sample_rate: int, lowest_hz: float) -> None:
    filters = mel_filters(64, num_frequencies=2**exponent // 2 + 1, sample_rate=sample_rate, lowest_hz=lowest_hz)
    expected = mel_filter_bank(
        2**exponent // 2 + 1, 64, lowest_hz, sample_rate / 2, sample_rate, norm=None, mel_scale="htk"
    )
    np.testing.assert_allclose(filters.numpy(), expected.T, rtol=0, atol=1e-9)


@pytest.mark.parametrize("lowest_hz", [-1.0, 12_000.0])
def test_a_lowest_band_outside_the_spectrum_is_refused(lowest_hz: float) -> None:
    with pytest.raises(ValueError, match=f"lowest_hz = {lowest_hz}"):
        mel_filters(64, num_frequencies=17, sample_rate=24_000, lowest_hz=lowest_hz)


def test_mel_loss_of_itself_is_zero_and_grows_with_noise() -> None:
    loss, reference = MultiScaleMelLoss(24_000), audio(4000, seed=1)
    noise = torch.randn(reference.shape, generator=torch.Generator().manual_seed(0))
    losses = [loss(reference, reference + gain * noise).item() for gain in (0.0, 0.001, 0.01, 0.1)]
    assert losses[0] == 0
    assert losses == sorted(set(losses))


def test_silence_has_finite_gradients() -> None:
    reference = torch.zeros(2, 1, 3000)
    estimate = torch.zeros(2, 1, 3000, requires_grad=True)
    losses = [
        MultiScaleMelLoss(24_000)(reference, estimate),
        waveform_l1(reference, estimate),
        relative_squared_error(reference, estimate, floor=0.01),
        si_snr(reference, estimate).sum(),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, [estimate])
        assert loss.item() == 0
        assert gradient.isfinite().all()


def test_waveform_losses_are_their_formulas() -> None:
    reference, estimate = (audio(500, seed=seed, num_channels=2, batch_size=3) for seed in (1, 2))
    x, y = reference.double().numpy(), estimate.double().numpy()
    assert waveform_l1(reference, estimate).item() == pytest.approx(np.abs(x - y).mean(), rel=1e-5)
    relative = ((x - y) ** 2).sum((1, 2)) / ((x**2).sum((1, 2)) + 0.5)
    assert relative_squared_error(reference, estimate, floor=0.5).item() == pytest.approx(relative.mean(), rel=1e-5)


def test_silence_as_estimate_has_a_relative_error_of_one_at_any_loudness() -> None:
    reference = audio(24_000, seed=1)
    for gain in (1.0, 0.1):
        error = relative_squared_error(gain * reference, torch.zeros_like(reference), floor=1e-6)
        assert error.item() == pytest.approx(1.0, abs=1e-5)


def test_si_snr_is_the_ratio_of_noise_at_right_angles() -> None:
    seconds = torch.arange(24_000, dtype=torch.float64) / 24_000
    tone, noise = torch.sin(2 * torch.pi * 440 * seconds), torch.cos(2 * torch.pi * 440 * seconds)
    reference = tone.expand(3, 1, -1)
    # Scale and offset count neither for the estimate nor for the reference.
    estimate = torch.stack([(5 * (tone + 10 ** (-ratio / 20) * noise) + 0.3)[None] for ratio in (0.0, 10.0, 30.0)])
    torch.testing.assert_close(
        si_snr(reference - 0.2, estimate), torch.tensor([0.0, 10.0, 30.0], dtype=torch.float64), rtol=0, atol=0.01
    )


def test_si_snr_averages_channels_and_not_items() -> None:
    reference, estimate = (audio(2000, seed=seed, num_channels=2, batch_size=3) for seed in (1, 2))
    each = [
        si_snr(reference[item : item + 1, channel : channel + 1], estimate[item : item + 1, channel : channel + 1])
        for item in range(3)
        for channel in range(2)
    ]
    torch.testing.assert_close(si_snr(reference, estimate), torch.cat(each).view(3, 2).mean(1))


def networks(*, seed: int, shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(shape, generator=generator) for shape in shapes]


def test_hinge_losses_are_their_formulas() -> None:
    shapes = ((2, 1, 5, 9), (2, 1, 10, 5), (2, 1, 3, 2))
    real, fake = (networks(seed=seed, shapes=shapes) for seed in (1, 2))
    x, y = [logits.double().numpy() for logits in real], [logits.double().numpy() for logits in fake]
    expected = np.mean([np.maximum(0, 1 - a).mean() + np.maximum(0, 1 + b).mean() for a, b in zip(x, y, strict=True)])
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-5)
    expected = np.mean([np.maximum(0, 1 - b).mean() for b in y])
    assert generator_loss(fake).item() == pytest.approx(expected, rel=1e-5)


def test_logits_beyond_the_margin_teach_nothing() -> None:
    real, fake = [torch.full((2, 3), 1.5)], [torch.full((2, 3), -1.5)]
    assert discriminator_loss(real, fake).item() == 0
    assert generator_loss(real).item() == 0
    assert discriminator_loss(fake, real).item() == pytest.approx(5.0)


def test_feature_matching_is_relative_to_the_real_features() -> None:
    shapes = ((2, 4, 5, 9), (2, 4, 5, 3))
    real = [networks(seed=seed, shapes=shapes) for seed in (1, 2, 3)]
    fake = [networks(seed=seed, shapes=shapes) for seed in (4, 5, 6)]
    terms = [
        np.abs(x.double().numpy() - y.double().numpy()).mean() / np.abs(x.double().numpy()).mean()
        for one, other in zip(real, fake, strict=True)
        for x, y in zip(one, other, strict=True)
    ]
    assert feature_matching_loss(real, fake).item() == pytest.approx(np.mean(terms), rel=1e-5)
    louder = [[10 * x for x in maps] for maps in real], [[10 * y for y in maps] for maps in fake]
    assert feature_matching_loss(*louder).item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_feature_matching_does_not_move_the_real_features() -> None:
    real = [[torch.ones(2, 3, requires_grad=True)]]
    fake = [[torch.zeros(2, 3, requires_grad=True)]]
    torch.autograd.backward(feature_matching_loss(real, fake))
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None


@pytest.mark.parametrize("shape", [(2, 1, 99), (1, 1, 100), (2, 100), (2, 1, 0)])
def test_waveforms_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    reference, estimate = torch.zeros(2, 1, 100), torch.zeros(shape)
    if 0 in shape:
        reference = torch.zeros(shape)
    for loss in (waveform_l1, relative_squared_error, si_snr, MultiScaleMelLoss(24_000)):
        with pytest.raises(ValueError, match=r"expected one shape \[B, C, T\] for both"):
            loss(reference, estimate)


def test_results_of_different_discriminators_are_refused() -> None:
    with pytest.raises(ValueError, match="1 real and 2 fake results"):
        discriminator_loss([torch.zeros(1)], [torch.zeros(1), torch.zeros(1)])
    with pytest.raises(ValueError, match="2 real and 1 fake results"):
        feature_matching_loss([[torch.zeros(1), torch.zeros(1)]], [[torch.zeros(1)]])
    with pytest.raises(ValueError, match="0 real and 0 fake results"):
        discriminator_loss([], [])
    with pytest.raises(ValueError, match="fake_logits is empty"):
        generator_loss([])
