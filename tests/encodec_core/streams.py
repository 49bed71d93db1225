"""What the tests of both directions of streaming share."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from encodec_core import EncodecConfig, EncodecModel
from tests.encodec_core.models import CONFIGS, fitted_model
from tests.fitted_models import synthetic_waveform

EQUAL = 1e-12
"""Of latents around 1 to 5, and of audio, in float64; measured 2e-14."""
CAUSAL = ("causal_mono", "causal_stereo")
WINDOWED = ("windows_mono", "windows_stereo")
VARIANTS: dict[str, dict[str, Any]] = {
    "zeros": {"pad_mode": "constant"},
    "replicas": {"pad_mode": "replicate"},
    "identity": {"use_conv_shortcut": False},
    "dilated": {"num_residual_layers": 2},
    "half_trimmed": {"trim_right_ratio": 0.5},
    "trimmed_left": {"trim_right_ratio": 0.0},
    "one_lstm": {"num_lstm_layers": 1, "upsampling_ratios": (4, 3, 2)},
}
"""Causal codecs that nobody published, by what is different."""


@cache
def double_model(name: str) -> EncodecModel:
    """Return a reduced codec of `CONFIGS` or of `VARIANTS` in float64. It is shared: do not change it."""
    if name in CONFIGS:
        return copy.deepcopy(fitted_model(name)).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = EncodecModel(EncodecConfig.encodec_24khz(num_filters=2, hidden_size=8, **VARIANTS[name]))
    return model.double().eval().requires_grad_(False)


def audio(model: EncodecModel, num_samples: int, *, seed: int = 0) -> Tensor:
    """Return audio `[C, num_samples]` in the model's dtype."""
    config = model.config
    return synthetic_waveform(
        num_samples, num_channels=config.audio_channels, sampling_rate=config.sampling_rate, seed=90_000 + seed
    ).to(model.dtype)


def cut(whole: Tensor, places: Sequence[int]) -> list[Tensor]:
    """Cut the last dimension at places of any order, also more than once at one of them."""
    return list(whole.tensor_split(sorted(min(place, whole.shape[-1]) for place in places), dim=-1))


def largest_difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max()) if found.numel() else 0.0
