"""Loudness of windows: one by one, with bits that do not depend on the number of threads, or a batch at once.

Letters in shapes: B batch, C audio channels, n samples.
"""

import torch
from torch import Tensor

__all__ = ["batch_loudness", "window_loudness"]

LOUDNESS_BLOCK = 16_384
"""Samples summed at once. torch splits sums of more than 32,768 numbers among its threads, and the bits follow their
number."""


def window_loudness(window: Tensor) -> Tensor:
    """Return the loudness of `[C, n]`, see `windows.loudness`, as a scalar; no number of threads changes its bits."""
    mono = window.sum(0) / window.shape[0]
    sums = [block.sum() for block in torch.split(mono.pow(2), LOUDNESS_BLOCK)]
    return (torch.stack(sums).sum() / mono.shape[0]).sqrt() + 1e-8


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
