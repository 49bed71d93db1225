"""The multi-scale STFT discriminator: Meta's weights give Meta's logits and feature maps."""

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from encodec_core.training import MultiScaleSTFTDiscriminator
from tests.encodec_core.models import meta_package
from tests.fitted_models import synthetic_waveform

SCALES: dict[str, Any] = {"n_ffts": (256, 64), "hop_lengths": (64, 16), "win_lengths": (256, 64)}
UNEVEN: dict[str, Any] = {"n_ffts": (256, 128), "hop_lengths": (50, 32), "win_lengths": (200, 128)}


def in_meta(filters: int, **arguments: Any) -> Any:
    """Make Meta's discriminator; the torchaudio it takes its spectrograms from is the tests' stand-in."""
    with meta_package(), torch.random.fork_rng(devices=[]):
        from encodec.msstftd import MultiScaleSTFTDiscriminator as MetaDiscriminator

        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it uses the older of torch's two weight norms
            return MetaDiscriminator(filters=filters, **arguments)


def ours_with_weights(theirs: Any, filters: int, **arguments: Any) -> MultiScaleSTFTDiscriminator:
    with torch.random.fork_rng(devices=[]):
        ours = MultiScaleSTFTDiscriminator(filters, **arguments)
    ours.load_state_dict(theirs.state_dict())
    return ours


def audio(num_samples: int, *, num_channels: int = 1, batch_size: int = 2) -> Tensor:
    return torch.stack(
        [
            synthetic_waveform(num_samples, num_channels=num_channels, sampling_rate=24_000, seed=seed)
            for seed in range(batch_size)
        ]
    )


def flatten(logits: Sequence[Tensor], features: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [*logits, *(feature for maps in features for feature in maps)]


@pytest.mark.parametrize("scales", [SCALES, UNEVEN], ids=["whole_windows", "windows_within_the_fft"])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("num_samples", [256, 257, 1000, 4001])
def test_logits_and_features_are_those_of_meta(scales: dict[str, Any], num_channels: int, num_samples: int) -> None:
    channels = {"in_channels": num_channels, "out_channels": num_channels}
    theirs = in_meta(4, **channels, **scales)
    ours = ours_with_weights(theirs, 4, **channels, **scales)
    waveforms = audio(num_samples, num_channels=num_channels)
    results, expected = flatten(*ours(waveforms)), flatten(*theirs(waveforms))
    assert len(results) == len(expected) == 2 * 6
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=0, atol=1e-5)


def test_gradients_to_the_audio_and_the_weights_are_those_of_meta() -> None:
    theirs = in_meta(4, **SCALES)
    ours = ours_with_weights(theirs, 4, **SCALES)
    gradients = []
    networks: tuple[Any, Any] = (ours, theirs)
    for discriminator in networks:
        waveforms = audio(1000).requires_grad_()
        sum(logits.square().mean() for logits in discriminator(waveforms)[0]).backward()
        gradients.append([waveforms.grad, discriminator.discriminators[0].conv_post.conv.bias.grad])
    for result, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(result, wanted, rtol=1e-4, atol=1e-6)


def test_defaults_are_the_five_windows_of_the_paper() -> None:
    with torch.random.fork_rng(devices=[]):
        discriminator = MultiScaleSTFTDiscriminator(2)
    logits, features = discriminator(audio(4096, batch_size=1))
    # Whole windows only, a quarter apart; three strides of 2 over W / 2 + 1 frequencies.
    frames = [(4096 - window) // (window // 4) + 1 for window in (2048, 1024, 512, 256, 128)]
    assert [tuple(x.shape) for x in logits] == [
        (1, 1, count, 2 ** (7 - scale) + 1) for scale, count in enumerate(frames)
    ]
    assert [len(maps) for maps in features] == [5] * 5


def test_a_state_dict_of_ours_loads() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = (MultiScaleSTFTDiscriminator(2, **SCALES) for _ in range(2))
    waveforms = audio(600)
    assert not torch.equal(first(waveforms)[0][0], second(waveforms)[0][0])
    second.load_state_dict(first.state_dict())
    for one, other in zip(flatten(*first(waveforms)), flatten(*second(waveforms)), strict=True):
        assert torch.equal(one, other)


def test_audio_shorter_than_a_window_is_refused() -> None:
    with torch.random.fork_rng(devices=[]):
        discriminator = MultiScaleSTFTDiscriminator(2, **SCALES)
    with pytest.raises(ValueError, match="255 samples of audio; expected at least 256"):
        discriminator(audio(255))


def test_scales_of_different_number_are_refused() -> None:
    with pytest.raises(ValueError, match="1 n_ffts, 2 hop_lengths and 1 win_lengths"):
        MultiScaleSTFTDiscriminator(2, n_ffts=(64,), hop_lengths=(16, 8), win_lengths=(64,))
