"""Reduced codecs of every published shape, with codebooks in use, and the same weights in the references."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.weights import neutral_names
from tests.fitted_models import make_fitted_model, synthetic_waveform

STAND_INS = Path(__file__).parent.parent / "stand_ins"

SMALL: dict[str, Any] = {"num_filters": 4, "hidden_size": 16}
CONFIGS = {
    "causal_mono": EncodecConfig.encodec_24khz(**SMALL),
    "causal_stereo": EncodecConfig.encodec_24khz(**SMALL, audio_channels=2),
    "windows_stereo": EncodecConfig.encodec_48khz(**SMALL),
    "windows_mono": EncodecConfig.encodec_48khz(**SMALL, audio_channels=1),
    "musicgen": EncodecConfig.musicgen_32khz(**SMALL, codebook_size=256, target_bandwidths=(0.4, 0.8, 1.6)),
}
LENGTHS = (1, 7, 100, 319, 320, 321, 700, 1921, 2240, 24000, 24001, 47520, 47521, 48000, 95520, 100000)
"""In samples: around one frame, 7 frames (where the last convolution reflects), windows and their strides."""
WINDOW_LENGTHS = (1, 100, 319, 47_519, 47_520, 47_521, 47_840, 47_999, 48_000, 95_040, 95_100)
"""Around windows of 48,000 samples with a stride of 47,520; two of them are part-filled in 47,521 to 47,999 and
95,100."""


@cache
def fitted_model(name: str) -> EncodecModel:
    """Return the reduced codec of `CONFIGS[name]`. It is shared: do not change it."""
    return make_fitted_model(CONFIGS[name], seed=0).requires_grad_(False)


@cache
def transformers_model(name: str) -> Any:
    """Return transformers' `EncodecModel` with the weights of `fitted_model(name)`."""
    return in_transformers(fitted_model(name))


@cache
def meta_model(name: str) -> Any:
    """Return the model of Meta's encodec package with the weights of `fitted_model(name)`."""
    return in_meta(fitted_model(name))


def in_transformers(model: EncodecModel) -> Any:
    with torch.random.fork_rng(devices=[]):
        theirs = transformers.EncodecModel(transformers.EncodecConfig(**model.config.to_dict()))
    theirs.load_state_dict(model.state_dict())
    return theirs.eval().requires_grad_(False)


def transformers_from_pretrained(folder: Path, **arguments: Any) -> Any:
    """Load a folder with transformers, which draws random weights before it reads any."""
    with torch.random.fork_rng(devices=[]):
        return transformers.EncodecModel.from_pretrained(folder, **arguments)


def in_meta(model: EncodecModel) -> Any:
    config = model.config
    shape: dict[str, Any] = {
        "channels": config.audio_channels,
        "dimension": config.hidden_size,
        "n_filters": config.num_filters,
        "n_residual_layers": config.num_residual_layers,
        "ratios": list(config.upsampling_ratios),
        "norm": config.norm_type,
        "kernel_size": config.kernel_size,
        "last_kernel_size": config.last_kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "dilation_base": config.dilation_growth_rate,
        "causal": config.use_causal_conv,
        "pad_mode": config.pad_mode,
        "true_skip": not config.use_conv_shortcut,
        "compress": config.compress,
        "lstm": config.num_lstm_layers,
    }
    with torch.random.fork_rng(devices=[]), meta_package() as encodec, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it uses the older of torch's two weight norms
        theirs = encodec.EncodecModel(
            encodec.modules.SEANetEncoder(**shape),
            encodec.modules.SEANetDecoder(**shape),
            encodec.quantization.ResidualVectorQuantizer(
                dimension=config.hidden_size, n_q=config.num_quantizers, bins=config.codebook_size
            ),
            target_bandwidths=list(config.target_bandwidths),
            sample_rate=config.sampling_rate,
            channels=config.audio_channels,
            normalize=config.normalize,
            segment=config.chunk_length_s,
            overlap=config.overlap or 0.0,
        )
    state = model.state_dict()
    theirs.load_state_dict({neutral: state[own] for own, neutral in neutral_names(model).items()})
    return theirs.eval().requires_grad_(False)


@contextmanager
def meta_package() -> Iterator[Any]:
    """Import Meta's package beside a stand-in for torchaudio, gone afterwards: transformers looks for the real one."""
    sys.path.insert(0, str(STAND_INS))
    try:
        yield pytest.importorskip("encodec", reason="Meta's package is missing: pip install --no-deps encodec==0.1.1")
    finally:
        sys.path.remove(str(STAND_INS))
        for module in [module for module in sys.modules if module.split(".")[0] == "torchaudio"]:
            del sys.modules[module]


def waveforms(name: str, num_samples: int, *, batch_size: int = 1) -> Tensor:
    """Return audio `[batch_size, C, num_samples]` that no codebook was fitted to."""
    config = CONFIGS[name]
    return torch.stack(
        [
            synthetic_waveform(
                num_samples,
                num_channels=config.audio_channels,
                sampling_rate=config.sampling_rate,
                seed=50_000 + num_samples + index,
            )
            for index in range(batch_size)
        ]
    )
