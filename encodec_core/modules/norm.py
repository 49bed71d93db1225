"""The two normalisations that EnCodec knows: weight norm (24 and 32 kHz) and group norm over time (48 kHz)."""

from typing import TypeVar, cast

from torch import nn
from torch.nn.utils import parametrizations

__all__ = ["time_group_norm", "weight_norm"]

Convolution = TypeVar("Convolution", nn.Conv1d, nn.ConvTranspose1d)


def weight_norm(conv: Convolution) -> Convolution:
    """Split the weight of `conv` into length and direction per first dimension (arXiv 1602.07868), in place.

    The state dict then holds `parametrizations.weight.original0` (the length, elsewhere called `weight_g`) and
    `.original1` (the direction, `weight_v`); `conv.weight` is computed from them whenever it is read.
    """
    return cast(Convolution, parametrizations.weight_norm(conv))


def time_group_norm(num_channels: int) -> nn.GroupNorm:
    """Return a norm over all channels and time steps of an item: one group, affine, epsilon 1e-5."""
    return nn.GroupNorm(1, num_channels)
