"""Loudness of windows: one by one, with bits that do not depend on the number of threads, or a batch at once.

Letters in shapes: B batch, C audio channels, n samples.
"""

import torch
from torch import Tensor

__all__ = ["batch_loudness", "window_loudness"]


def window_loudness(window: Tensor) -> Tensor:
    """Return the loudness of `[C, n]` as a scalar, with the bits that `windows.loudness` has on one thread.

    torch splits a lone sum of more than 32,768 numbers among its threads, and the bits follow their number; of two sums
    each is one thread's.
    """
    mono = window.sum(0) / window.shape[0]
    squares = mono.pow(2)
    return (torch.stack([squares, squares]).sum(1)[0] / mono.shape[0]).sqrt() + 1e-8


def batch_loudness(windows: Tensor, lengths: Tensor) -> Tensor:
    """Return the loudness of each window of a padded batch, see `windows.loudness`.

    Args:
        windows: `[B, C, n]`, n the longest's samples.
        lengths: int64 `[B]`: samples of each, on the same device. What lies further right does not matter.

    Returns:
        `[B]`.
    """
    is_audio = torch.arange(windows.shape[-1], device=windows.device) < lengths[:, None]
    squares = (windows.sum(1) / windows.shape[1]).pow(2).where(is_audio, windows.new_zeros(()))
    return (squares.sum(-1) / lengths).sqrt() + 1e-8
