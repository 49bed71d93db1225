"""The order of an epoch: a pure function of the rows that there are, a seed and the epoch's number.

    row groups, permuted by seed and epoch     5 2 | 7 0 | 3 6 | 1 4
    dealt in stretches to strands                0     1     2     3
    each strand: windows of rows, permuted     ...
    samples of the epoch, one of each strand by turns: position 0 is strand 0's first row, position 1 strand 1's, ...

So the rows near one another come from as many row groups as there are strands, any position is found by arithmetic,
and a consumer that takes every C-th position, C a divisor of the number of strands, reads only its own row groups.
Nothing here uses a library's random numbers, whose streams may change with its version.

Letters in shapes: G row groups, S strands, n rows of a window.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EpochOrder", "Interleaving", "WindowRows", "hashes", "mix", "permutation"]

Integers = npt.NDArray[np.int64]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of SplitMix64 (Steele, Lea and Flood 2014)."""

_GROUPS, _ROWS = 1, 2


def mix(*words: int) -> int:
    """Hash integers to 64 bits."""
    state = 0
    for word in words:
        state = (state ^ (word & _MASK)) + _GOLDEN & _MASK
        state = (state ^ state >> 30) * _FIRST & _MASK
        state = (state ^ state >> 27) * _SECOND & _MASK
        state ^= state >> 31
    return state


def hashes(key: int, indices: Integers) -> npt.NDArray[np.uint64]:
    """Hash each index under a key to 64 bits; `hashes(key, [i])[0]` depends on nothing but the two."""
    state = (indices.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(key)
    state = (state ^ state >> np.uint64(30)) * np.uint64(_FIRST)
    state = (state ^ state >> np.uint64(27)) * np.uint64(_SECOND)
    return state ^ state >> np.uint64(31)


def permutation(key: int, count: int) -> Integers:
    """[count] a permutation of 0 … count - 1."""
    return np.argsort(hashes(key, np.arange(count)), kind="stable")


class Interleaving:
    """Takes one of each strand by turns, leaving out those that have ended.

    Args:
        lengths: [S] of the strands.
    """

    def __init__(self, lengths: Integers) -> None:
        ends = np.unique(lengths[lengths > 0])
        self._active = [np.flatnonzero(lengths >= end).tolist() for end in ends]
        self._first_steps = [0, *ends.tolist()]
        stretches = np.diff(self._first_steps) * [len(active) for active in self._active]
        self._first_positions: list[int] = [0, *np.cumsum(stretches).tolist()]

    @property
    def count(self) -> int:
        """Positions in all."""
        return self._first_positions[-1]

    def locate(self, position: int) -> tuple[int, int]:
        """The strand of a position, and its step there."""
        stretch = bisect_right(self._first_positions, position) - 1
        active = self._active[stretch]
        step, place = divmod(position - self._first_positions[stretch], len(active))
        return active[place], self._first_steps[stretch] + step


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRows:
    """The rows of one window, in order."""

    groups: Integers
    """[n] the row group of each."""
    places: Integers
    """[n] which of the row group's rows."""


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """The order of one epoch; `of` makes it."""

    groups: Integers
    """[G] row groups in the epoch's order."""
    starts: Integers
    """[G + 1] rows before each of them."""
    strand_starts: Integers
    """[S + 1] rows before each strand; a row group belongs to one strand whole."""
    window_rows: int
    """Rows that are permuted among themselves."""
    key: int | None
    """None: in the order of the snapshot."""

    @classmethod
    def of(
        cls, group_rows: Integers, *, seed: int, epoch: int, shuffle: bool, num_strands: int, buffer_rows: int
    ) -> "EpochOrder":
        """Order the rows of row groups.

        Args:
            group_rows: [G] rows of each row group, in the order of the snapshot; 0 where all are filtered out.
            seed: Any integer.
            epoch: Its number.
            shuffle: False: the order of the snapshot, which has one strand.
            num_strands: At most; there are never more than row groups.
            buffer_rows: Rows that the windows of all strands hold together.
        """
        groups = np.flatnonzero(group_rows)
        if shuffle:
            groups = groups[permutation(mix(seed, epoch, _GROUPS), groups.size)]
        starts = np.concatenate([[0], np.cumsum(group_rows[groups])])
        num_strands = max(1, min(num_strands, groups.size)) if shuffle else 1
        return cls(
            groups=groups,
            starts=starts,
            strand_starts=_strand_starts(starts, num_strands=num_strands),
            window_rows=max(1, -(-buffer_rows // num_strands)),
            key=mix(seed, epoch, _ROWS) if shuffle else None,
        )

    @cached_property
    def strand_rows(self) -> Integers:
        """[S] rows of each strand."""
        return np.diff(self.strand_starts)

    def window(self, strand: int, number: int) -> WindowRows:
        """The rows of a strand's window; its `i`-th is step `number × window_rows + i` of the strand."""
        first = int(self.strand_starts[strand]) + number * self.window_rows
        count = min(self.window_rows, int(self.strand_starts[strand + 1]) - first)
        rows = first + (np.arange(count) if self.key is None else permutation(mix(self.key, strand, number), count))
        slots = np.searchsorted(self.starts, rows, side="right") - 1
        return WindowRows(groups=self.groups[slots], places=rows - self.starts[slots])


def _strand_starts(starts: Integers, *, num_strands: int) -> Any:
    """[S + 1] rows before each strand: strands are as equal as whole row groups allow, and none is empty."""
    num_groups = starts.size - 1
    if num_groups == 0:
        return np.zeros(2, np.int64)
    wanted = np.arange(num_strands + 1) * starts[-1] // num_strands
    slots = np.searchsorted(starts, wanted)
    before = np.maximum(slots - 1, 0)
    slots = np.where(wanted - starts[before] < starts[slots] - wanted, before, slots)
    strands = np.arange(num_strands + 1)
    slots = np.maximum.accumulate(slots - strands) + strands  # at least one row group each
    slots = np.minimum(slots, num_groups - strands[::-1])
    return starts[slots]
