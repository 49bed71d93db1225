"""The norm in C has the bits of `torch.nn.GroupNorm` of one group.

Letters in shapes: C channels, T time steps, N blocks of 16 channels.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.fast.native.blocked import BlockedNorm
from tests.encodec_core.native_parts import (
    from_blocked,
    needs_kernels,
    needs_torch_on_avx512,
    normal,
    num_unequal_bits,
    to_blocked,
)

pytestmark = [needs_kernels, needs_torch_on_avx512]

NUM_STEPS = (*range(1, 34), 63, 64, 65, 75, 127, 128, 129, 150, 333, 1000, 1199, 1200)
"""Around vectors of 8 and chunks of 128 numbers: with 16 channels and more every number of chunks occurs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    raw: Tensor
    activated: Tensor


def group_norm(channels: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(1, channels).requires_grad_(False)
    norm.weight.copy_(normal(channels, seed=1))
    norm.bias.copy_(normal(channels, seed=2))
    return norm


def run(norm: nn.GroupNorm, x: Tensor, *, residual: Tensor | None = None) -> Outputs:
    channels = len(x)
    blocked = to_blocked(x)
    raw, activated = torch.empty_like(blocked), torch.empty_like(blocked)
    added = None if residual is None else to_blocked(residual)
    scratch = torch.empty(blocked.numel())
    BlockedNorm(norm).run(blocked, scratch=scratch, raw=raw, activated=activated, residual=added)
    return Outputs(raw=from_blocked(raw, channels), activated=from_blocked(activated, channels))


@pytest.mark.parametrize("channels", [16, 32, 48, 64, 256, 1024])
def test_any_channels_and_time_steps_have_the_bits_of_torch(channels: int) -> None:
    norm = group_norm(channels)
    for num_steps in NUM_STEPS:
        x = normal(channels, num_steps, seed=num_steps)
        assert num_unequal_bits(run(norm, x).raw, norm(x[None])[0]) == 0, f"{num_steps} time steps"


@pytest.mark.parametrize(("channels", "num_steps"), [(16, 48_000), (32, 24_000), (64, 12_001)])
def test_a_window_of_the_48_khz_codec_has_the_bits_of_torch(channels: int, num_steps: int) -> None:
    norm, x = group_norm(channels), normal(channels, num_steps, seed=0)
    assert num_unequal_bits(run(norm, x).raw, norm(x[None])[0]) == 0


@pytest.mark.parametrize(("scale", "shift"), [(1e-3, 5.0), (100.0, -30.0), (1e-15, 0.0), (0.0, 0.7), (0.0, 0.0)])
def test_numbers_far_from_zero_or_all_alike_have_the_bits_of_torch(scale: float, shift: float) -> None:
    norm, x = group_norm(32), scale * normal(32, 501, seed=3) + shift
    assert num_unequal_bits(run(norm, x).raw, norm(x[None])[0]) == 0


def test_activation_and_residual_follow_the_norm() -> None:
    norm, x, residual = group_norm(48), normal(48, 200, seed=4), normal(48, 200, seed=5)
    found, expected = run(norm, x, residual=residual), norm(x[None])[0] + residual
    assert num_unequal_bits(found.raw, expected) == 0
    assert num_unequal_bits(found.activated, functional.elu(expected)) == 0


def test_it_works_in_place_on_blocks_that_lie_apart() -> None:
    norm, x = group_norm(32), normal(32, 100, seed=6)
    room = torch.full((2, 130, 16), 7.0)
    part = room[:, 10:110]
    part.copy_(to_blocked(x))
    BlockedNorm(norm).run(part, scratch=torch.empty(x.numel()), raw=part)
    assert num_unequal_bits(from_blocked(part, 32), norm(x[None])[0]) == 0
    assert (room[:, :10] == 7.0).all()
    assert (room[:, 110:] == 7.0).all()
