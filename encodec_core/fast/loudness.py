"""Loudness of a window whose bits do not depend on the number of threads."""

import torch
from torch import Tensor

__all__ = ["window_loudness"]

LOUDNESS_BLOCK = 16_384
"""Samples summed at once. torch splits sums of more than 32,768 numbers among its threads, and the bits follow their
number."""


def window_loudness(window: Tensor) -> Tensor:
    """Return the loudness of `[C, n]`, see `windows.loudness`, as a scalar; no number of threads changes its bits."""
    mono = window.sum(0) / window.shape[0]
    sums = [block.sum() for block in torch.split(mono.pow(2), LOUDNESS_BLOCK)]
    return (torch.stack(sums).sum() / mono.shape[0]).sqrt() + 1e-8
