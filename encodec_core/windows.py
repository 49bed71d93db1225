"""Cutting a recording into windows, loudness of a window, and putting decoded windows together (paper section 3.4)."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["linear_overlap_add", "loudness", "triangle"]


def loudness(window: Tensor) -> Tensor:
    """Return the root mean square of the mono mix of `[B, C, T]`, plus 1e-8, as `[B, 1, 1]`."""
    mono = window.sum(1, keepdim=True) / window.shape[1]
    return mono.pow(2).mean(dim=-1, keepdim=True).sqrt() + 1e-8


def triangle(window: Tensor) -> Tensor:
    """Return the weights of a full window `[..., T]` as `[T]`: they rise from its ends to its middle, and none is 0."""
    ramp = torch.linspace(0, 1, window.shape[-1] + 2, device=window.device, dtype=window.dtype)[1:-1]
    return 0.5 - (ramp - 0.5).abs()


def linear_overlap_add(windows: Sequence[Tensor], *, stride: int) -> Tensor:
    """Put decoded windows together, fading linearly from each into the next where they overlap.

    Each window is weighted by a triangle that is highest at the middle of a full window, and the sum is divided by the
    sum of the weights: one window alone is unchanged, and over an overlap two triangles have the ratio of a linear
        fade.

    Args:
        windows: each `[..., T_i]`, one dtype and device; none longer than the first.
        stride: samples from the start of a window to the start of the next.

    Returns:
        `[..., samples up to the end of the window that reaches furthest]`: in most cases the last one.

    Raises:
        ValueError: no windows, or `stride` leaves gaps between them.
    """
    if not windows:
        raise ValueError("there are no windows to put together")
    first = windows[0]
    # Whole frames of a part-filled window can reach beyond the last one, which may be as short as a frame.
    num_samples = max(index * stride + window.shape[-1] for index, window in enumerate(windows))
    weights = triangle(first)
    total_weight = torch.zeros(num_samples, device=first.device, dtype=first.dtype)
    total = torch.zeros(*first.shape[:-1], num_samples, device=first.device, dtype=first.dtype)
    for index, window in enumerate(windows):
        length = window.shape[-1]
        span = slice(index * stride, index * stride + length)
        total[..., span] += weights[:length] * window
        total_weight[span] += weights[:length]
    if total_weight.min() == 0:
        raise ValueError(
            f"windows of {first.shape[-1]} samples leave gaps at a stride of {stride}; the stride must not be longer"
        )
    return total / total_weight
