"""Which items go through a GPU together: a pure function of their lengths.

items, longest first     | a b c d e f g h i j | k l m n ...
convolutions             | a b c | d e f g | h | ...            alike in length, under a budget of samples
LSTM, last layers, RVQ   |  all of them once   | ...            alike within a factor, under a budget of frames
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Budget", "FrameBatch", "plan_batches"]

MAX_BATCH_ITEMS = 256
"""Items that go through the LSTM together. Its time is that of its steps, one after the other, up to about here."""
ENOUGH_ITEMS = 64
"""With fewer the LSTM's steps take longer than the convolutions: 150 steps for a second of audio at some 7 microseconds
each, against 80 microseconds times the number of items (an estimate for 40 TFLOP/s)."""
MAX_RATIO = 2
"""Longest to shortest item in a batch of `ENOUGH_ITEMS`; fewer go together whatever their lengths."""
MAX_WASTE = 0.1
"""Share of a convolution batch that may be padding."""
SMALL_SAMPLES = 262_144
"""Samples, padding and all, below which a convolution batch takes the time of its launches, whatever is in it: about
100 launches of 7 microseconds (an estimate; not measured)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What is on the device at once, padding counted. An item alone may exceed it."""

    samples: int
    """In the convolutions."""
    frames: int
    """In the LSTM and what follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameBatch:
    """Items whose frames go through the LSTM together."""

    groups: tuple[tuple[int, ...], ...]
    """The items of each convolution batch, longest first."""

    @property
    def items(self) -> tuple[int, ...]:
        """All of them, longest first."""
        return tuple(index for group in self.groups for index in group)


def plan_batches(
    lengths: Sequence[int], *, hop_length: int, budget: Budget, can_share_batches: bool
) -> list[FrameBatch]:
    """Group items into batches, each item once.

    Args:
        lengths: samples of each item, each > 0.
        hop_length: samples per frame.
        budget: what may be on the device at once.
        can_share_batches: whether items of different lengths can go through the convolutions together.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [
        FrameBatch(groups=tuple(_groups(items, lengths, budget=budget, can_share_batches=can_share_batches)))
        for items in _frame_batches(order, lengths, hop_length=hop_length, budget=budget)
    ]


def _frame_batches(
    order: Sequence[int], lengths: Sequence[int], *, hop_length: int, budget: Budget
) -> Iterator[list[int]]:
    items: list[int] = []
    for index in order:
        if items:
            longest = lengths[items[0]]
            is_full = len(items) == MAX_BATCH_ITEMS
            is_over = (len(items) + 1) * -(-longest // hop_length) > budget.frames
            is_other = len(items) >= ENOUGH_ITEMS and MAX_RATIO * lengths[index] < longest
            if is_full or is_over or is_other:
                yield items
                items = []
        items.append(index)
    if items:
        yield items


def _groups(
    items: Sequence[int], lengths: Sequence[int], *, budget: Budget, can_share_batches: bool
) -> Iterator[tuple[int, ...]]:
    group: list[int] = []
    num_audible = 0
    for index in items:
        if group:
            padded = (len(group) + 1) * lengths[group[0]]
            is_wasteful = padded > SMALL_SAMPLES and num_audible + lengths[index] < (1 - MAX_WASTE) * padded
            is_unequal = not can_share_batches and lengths[index] != lengths[group[0]]
            if padded > budget.samples or is_wasteful or is_unequal:
                yield tuple(group)
                group, num_audible = [], 0
        group.append(index)
        num_audible += lengths[index]
    if group:
        yield tuple(group)
