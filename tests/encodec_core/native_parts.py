"""What the tests of the kernels share: blocked tensors, folded convolutions, and where bits can be compared.

Letters in shapes: C channels, T time steps, N blocks of 16 channels.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.fast.layers import FoldedConv
from encodec_core.fast.native import kernels, why_absent

__all__ = [
    "folded_conv",
    "from_blocked",
    "needs_kernels",
    "needs_mkl_on_amd",
    "needs_torch_on_avx512",
    "normal",
    "num_unequal_bits",
    "to_blocked",
]

BLOCK = 16


def _is_amd() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and "AuthenticAMD" in cpuinfo.read_text(encoding="utf-8")


needs_kernels = pytest.mark.skipif(kernels() is None, reason=f"no kernels: {why_absent()}")
needs_torch_on_avx512 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512",
    reason="torch's own operators are not those for AVX-512 here",
)
needs_mkl_on_amd = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512" or not _is_amd(),
    reason="the order in which MKL adds was found on AMD; on this CPU it may have another",
)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def to_blocked(x: Tensor) -> Tensor:
    """`[C, T]` -> `[N, T, 16]`, filled up with zeros."""
    channels, num_steps = x.shape
    filled = functional.pad(x, (0, 0, 0, -channels % BLOCK))
    return filled.reshape(-1, BLOCK, num_steps).transpose(1, 2).contiguous()


def from_blocked(x: Tensor, channels: int) -> Tensor:
    """`[N, T, 16]` -> `[C, T]`."""
    return x.transpose(1, 2).flatten(0, 1)[:channels]


def num_unequal_bits(found: Tensor, expected: Tensor) -> int:
    """Return how many numbers have other bits; the two zeros differ, and so do the kinds of NaN."""
    assert found.shape == expected.shape
    return int((found.contiguous().view(torch.int32) != expected.contiguous().view(torch.int32)).sum())


def folded_conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    causal: bool = True,
    pad_mode: str = "reflect",
    norm: nn.GroupNorm | None = None,
    elu_before: bool = False,
) -> FoldedConv:
    """Return a convolution of the codec with random weights, padded as in the codec."""
    shape = (out_channels, in_channels, kernel_size)
    total = (kernel_size - 1) * dilation + 1 - stride
    right = 0 if causal else total // 2
    return FoldedConv(
        weight=normal(*shape, seed=kernel_size) / (in_channels * kernel_size) ** 0.5,
        bias=0.1 * normal(out_channels, seed=out_channels),
        stride=stride,
        dilation=dilation,
        left=total - right,
        right=right,
        pad_mode=pad_mode,
        norm=norm,
        elu_before=elu_before,
    )
