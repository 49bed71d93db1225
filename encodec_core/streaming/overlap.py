"""Putting decoded windows together while they arrive."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.windows import triangle

__all__ = ["OverlapAdder"]


class OverlapAdder:
    """`windows.linear_overlap_add`, window by window, with its bits.

    Args:
        stride: samples from the start of a window to the start of the next.

        window 0   |-----------------|
        window 1                 |-----------------|
        window 2                               |-----------------|
        final      '--- push 0 --'--- push 1 --'--- push 2 --'fl.'
    """

    def __init__(self, *, stride: int) -> None:
        self._stride = stride
        self._weights: Tensor | None = None
        """Of a full window, as long as the recording's first; None before that."""
        self._total, self._total_weight = torch.zeros(0), torch.zeros(0)
        """What is not final yet."""
        self._has_ended = False
        """Whether the latest window left a gap before the start of another."""

    def push(self, window: Tensor) -> Tensor:
        """Take the next window `[..., T]`, and return the samples before the start of the one after it.

        Raises:
            ValueError: it is longer than the first, or comes after one that ended before the stride did.
        """
        length = window.shape[-1]
        if self._weights is None:
            self._weights = triangle(window)
            self._total, self._total_weight = window[..., :0], self._weights[:0]
        self._check(length)
        missing = max(0, length - self._total_weight.shape[0])
        self._total = functional.pad(self._total, (0, missing))
        self._total_weight = functional.pad(self._total_weight, (0, missing))
        weights = self._weights[:length]
        self._total[..., :length] += weights * window
        self._total_weight[:length] += weights
        self._has_ended = self._total_weight.shape[0] < self._stride
        return self._final(self._stride)

    def flush(self) -> Iterator[Tensor]:
        """Yield the rest `[..., T]`, if there were windows; the next one begins another recording."""
        if self._weights is not None:
            yield self._final(self._total_weight.shape[0])
        self._weights, self._has_ended = None, False

    def _final(self, num_samples: int) -> Tensor:
        final = self._total[..., :num_samples] / self._total_weight[:num_samples]
        self._total = self._total[..., num_samples:].clone()
        self._total_weight = self._total_weight[num_samples:].clone()
        return final

    def _check(self, length: int) -> None:
        if self._weights is not None and length > self._weights.shape[0]:
            raise ValueError(
                f"a window of {length} samples after a first one of {self._weights.shape[0]}; only the last windows of "
                "a recording may differ, and be shorter: call flush between recordings"
            )
        if self._has_ended:
            raise ValueError(
                f"a window after one that ended before the stride of {self._stride} samples; "
                "such a window is a recording's last: call flush between recordings"
            )
