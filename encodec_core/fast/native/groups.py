"""Items in groups of a few lanes, shared out to threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor

from encodec_core.fast.native.chain import Workspace
from encodec_core.fast.native.inlet import Arena
from encodec_core.fast.native.lstm import MAX_LANES

__all__ = ["ROUND_TILES", "TILE_SAMPLES", "GroupMemory", "GroupRunner"]

TILE_SAMPLES = 24_000
"""Samples per tile, which bounds the memory."""
ROUND_TILES = 4
"""Tiles of each lane per round."""


@dataclass(frozen=True, slots=True)
class GroupMemory:
    """Memory that one group after the other uses."""

    workspace: Workspace = field(default_factory=Workspace)
    features: Arena = field(default_factory=Arena)


class GroupRunner:
    """Cuts items into groups and runs each in the memory of its thread.

    Args:
        one_frame: the length up to which an item is one frame. Such have an order of addition of their own, and groups
            of their own.
    """

    def __init__(self, *, one_frame: int) -> None:
        self._one_frame = one_frame
        self._free_memory: list[GroupMemory] = []

    def run(
        self, lengths: Sequence[int], run_group: Callable[[Sequence[int], GroupMemory], list[Tensor]]
    ) -> list[Tensor]:
        """Run all items, on as many threads as torch has.

        Args:
            lengths: of the items.
            run_group: takes the indices of some, the longest first, and returns what each becomes.
        """
        num_threads = max(1, min(torch.get_num_threads(), len(lengths)))
        groups = self._groups(lengths, num_threads=num_threads)
        results: dict[int, Tensor] = {}

        def run_share(first: int) -> None:
            memory = self._take_memory()
            for group in groups[first::num_threads]:
                results.update(zip(group, run_group(group, memory), strict=True))
            self._free_memory.append(memory)

        if num_threads == 1:
            run_share(0)
        else:
            with ThreadPoolExecutor(num_threads) as threads:
                list(threads.map(run_share, range(num_threads)))
        return [results[index] for index in range(len(lengths))]

    def _take_memory(self) -> GroupMemory:
        try:
            return self._free_memory.pop()
        except IndexError:  # others have it all; to look first would leave them time to take the last
            return GroupMemory()

    def _groups(self, lengths: Sequence[int], *, num_threads: int) -> list[list[int]]:
        """Cut the items into groups of some lanes, the longest first: a round waits for its longest lane."""
        by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        most = min(MAX_LANES, -(-len(lengths) // num_threads))
        groups: list[list[int]] = []
        for index in by_length:
            is_alike = bool(groups) and (lengths[groups[-1][0]] > self._one_frame) == (lengths[index] > self._one_frame)
            if not is_alike or len(groups[-1]) == most:
                groups.append([])
            groups[-1].append(index)
        return groups
