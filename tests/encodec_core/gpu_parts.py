"""The route of GPUs on a CPU: small encoders and audio for it."""

from typing import Any

import torch
from torch import Tensor

from encodec_core.fast.gpu.encoder import GpuEncoder
from encodec_core.fast.gpu.plan import Budget
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.layers import FoldedEncoder, fold_encoder
from tests.encodec_core.models import CONFIGS, fitted_model, waveforms

__all__ = ["CPU", "LENGTHS", "audio_of", "folded", "gpu_encoder", "quantizer"]

LENGTHS = (9000, 3000, 8999, 3001, 1, 700, 5000, 9000)
"""In samples: alike and not, down to one."""
CPU = torch.device("cpu")


def folded(name: str, device: torch.device = CPU) -> FoldedEncoder:
    return fold_encoder(fitted_model(name).encoder, device=device, convolution_dtype=torch.float32)


def quantizer(name: str, device: torch.device = CPU) -> DeviceQuantizer:
    return DeviceQuantizer(fitted_model(name).quantizer.codebooks[:4], device=device, dtype=torch.float32)


def gpu_encoder(name: str, **settings: Any) -> GpuEncoder:
    settings = {"budget": Budget(samples=10**6, frames=10**6)} | settings
    return GpuEncoder(
        folded(name),
        quantizer(name),
        convolution_dtype=torch.float32,
        normalize=CONFIGS[name].normalize,
        **settings,
    )


def audio_of(name: str, *lengths: int) -> list[Tensor]:
    return [waveforms(name, num_samples)[0] for num_samples in lengths]
