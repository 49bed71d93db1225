"""Cutting a recording into windows, loudness of a window, and putting decoded windows together (paper section 3.4)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = [
    "each_window_span",
    "linear_overlap_add",
    "loudness",
    "triangle",
    "window_length",
    "window_spans",
    "window_stride",
]


def window_length(seconds: float | None, *, sampling_rate: int) -> int | None:
    """Return the samples of a window; None: a recording is encoded whole."""
    return None if seconds is None else int(seconds * sampling_rate)


def window_stride(length: int | None, *, overlap: float | None) -> int | None:
    """Return the samples from the start of a window to the start of the next; None: no windows, or no overlap is set.

    Args:
        length: samples of a window.
        overlap: share of a window that the next one repeats.
    """
    if length is None or overlap is None:
        return None
    # Rounded down as in both references: 47,520 for windows of 48,000 that repeat 0.01.
    return max(1, int((1.0 - overlap) * length))


def window_spans(num_samples: int, *, length: int | None, stride: int | None) -> list[slice]:
    """Return where each window of a recording lies: one starts at every multiple of `stride` below `num_samples`.

    At 48 kHz (stride 47,520, window 48,000) a recording whose length mod 47,520 is 1 to 479 ends in two part-filled
    windows:

        0           47520      95040   95140 = end
        |--- 48000 ---|
                    |--- 47620 ---|
                               |- 100 -|

    Args:
        num_samples: of the recording.
        length: samples of a window; None: the recording is one.
        stride: None: windows do not overlap.
    """
    return list(each_window_span(num_samples, length=length, stride=stride))


def each_window_span(num_samples: int, *, length: int | None, stride: int | None) -> Iterator[slice]:
    """Yield what `window_spans` returns, one by one: a file's header may claim any number of samples."""
    if length is None:
        yield slice(0, num_samples)
        return
    for start in range(0, num_samples, stride or length):
        yield slice(start, min(start + length, num_samples))


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
