"""Packing: the tokens of documents laid end to end and cut into sequences of one length.

    documents   aaaaaaa bbb cccccccccc dd
    sequences   aaaaaa | abbbcc | cccccc | ccdd

Every token is in one sequence, and only the last sequence is shorter.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.training.order import EpochOrder

__all__ = ["Fragment", "StrandPacking"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """What a sequence has of one document."""

    window: int
    """Of the strand."""
    place: int
    """The document's row in the window."""
    start: int
    """Its first token."""
    end: int
    """Behind its last token."""


class StrandPacking:
    """The sequences of one strand of an epoch.

    Args:
        order: Of the epoch.
        strand: Which one.
        row_tokens: Tokens of each of its rows, before windows permute them.
        sequence_tokens: Of a sequence.
    """

    def __init__(
        self, order: EpochOrder, *, strand: int, row_tokens: npt.NDArray[np.int64], sequence_tokens: int
    ) -> None:
        ends = np.concatenate([[0], np.cumsum(row_tokens)])
        # A window's total does not depend on the order of its rows.
        bounds = np.minimum(np.arange(0, row_tokens.size + order.window_rows, order.window_rows), row_tokens.size)
        self._window_starts: list[int] = ends[bounds].tolist()
        self._sequence_tokens = sequence_tokens
        self.strand = strand

    @property
    def num_sequences(self) -> int:
        """The last may be shorter than the others."""
        return -(-self._window_starts[-1] // self._sequence_tokens)

    def fragments(self, sequence: int, *, tokens_of: Callable[[int], npt.NDArray[np.int64]]) -> Iterator[Fragment]:
        """Yield what a sequence is made of.

        Args:
            sequence: Its number in the strand.
            tokens_of: The number of a window → tokens of each of its rows, in order.
        """
        first = sequence * self._sequence_tokens
        last = min(first + self._sequence_tokens, self._window_starts[-1])
        window = bisect_right(self._window_starts, first) - 1
        while window < len(self._window_starts) - 1 and self._window_starts[window] < last:
            ends = self._window_starts[window] + np.cumsum(tokens_of(window))
            starts = ends - tokens_of(window)
            for place in range(int(np.searchsorted(ends, first, side="right")), ends.size):
                start, end = int(starts[place]), int(ends[place])
                if start >= last:
                    break
                if end > start:
                    yield Fragment(
                        window=window, place=place, start=max(first, start) - start, end=min(last, end) - start
                    )
            window += 1
