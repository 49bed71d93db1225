"""Same weights, same audio: the windows, codes, scales and audio of Meta's encodec package."""

import importlib.util
from typing import Any

import pytest
import torch
import transformers.utils
from torch import Tensor

from encodec_core import EncodecModel
from tests.encodec_core.models import CONFIGS, LENGTHS, fitted_model, meta_model, meta_package, waveforms

every_config = pytest.mark.parametrize("name", CONFIGS)


def encoded_by_meta(model: Any, audio: Tensor, bandwidth: float) -> list[tuple[Tensor, Tensor | None]]:
    model.set_target_bandwidth(bandwidth)
    frames: list[tuple[Tensor, Tensor | None]] = model.encode(audio)
    return frames


def assert_same_windows(ours: EncodecModel, theirs: Any, audio: Tensor, bandwidth: float) -> None:
    codes, scales, pad_length = ours.encode(audio, bandwidth=bandwidth, return_dict=False)
    frames = encoded_by_meta(theirs, audio, bandwidth)
    # transformers, which `encode` follows, fills the last window; Meta keeps its length.
    windows = [*codes[:-1], codes[-1][..., : codes.shape[-1] - pad_length]]
    assert len(windows) == len(frames)
    for window, scale, (their_codes, their_scale) in zip(windows, scales, frames, strict=True):
        assert torch.equal(window, their_codes)
        assert (scale is None) == (their_scale is None)
        if scale is not None and their_scale is not None:
            torch.testing.assert_close(scale, their_scale, rtol=1e-6, atol=0)
    decoded = ours.decode(codes, scales, audio, last_frame_pad_length=pad_length)[0]
    torch.testing.assert_close(decoded, theirs.decode(frames)[..., : audio.shape[-1]], rtol=0, atol=1e-5)


@every_config
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_every_length(name: str, num_samples: int) -> None:
    ours, theirs = fitted_model(name), meta_model(name)
    assert_same_windows(ours, theirs, waveforms(name, num_samples), ours.config.target_bandwidths[-1])


@every_config
def test_every_bandwidth_in_a_batch(name: str) -> None:
    ours, theirs = fitted_model(name), meta_model(name)
    audio = waveforms(name, 24_321, batch_size=2)
    for bandwidth in ours.config.target_bandwidths:
        assert_same_windows(ours, theirs, audio, bandwidth)


@every_config
@pytest.mark.parametrize("num_samples", [1, 321, 700, 24_001])
def test_latents(name: str, num_samples: int) -> None:
    audio = waveforms(name, num_samples)
    latents = fitted_model(name).encoder(audio)
    torch.testing.assert_close(latents, meta_model(name).encoder(audio), rtol=0, atol=1e-5)


def test_the_stand_in_for_torchaudio_does_not_outlive_the_import() -> None:
    with meta_package():
        assert importlib.util.find_spec("torchaudio") is not None
    assert importlib.util.find_spec("torchaudio") is None
    assert not transformers.utils.is_torchaudio_available()
