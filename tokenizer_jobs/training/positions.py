"""Which positions of an epoch are left, how they are dealt to consumers, and what has been taken when these stop.

A consumer is one worker of one rank. Of the positions that are left, in order, consumer c of C takes the c-th, the
(c + C)-th, and so on. When all stop, what has been taken is a prefix of the epoch, and a few positions more where some
were ahead of others.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from tokenizer_jobs.errors import ConfigError

__all__ = ["Consumer", "Left", "Remainder", "merged_left", "num_steps"]

Remainder = Literal["pad", "drop", "keep"]
"""What becomes of positions that do not go round all consumers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """One worker of one rank."""

    rank: int = 0
    world_size: int = 1
    worker: int = 0
    num_workers: int = 1

    @property
    def number(self) -> int:
        """Its turn."""
        return self.worker * self.world_size + self.rank

    @property
    def count(self) -> int:
        """How many take turns."""
        return self.world_size * self.num_workers


@dataclass(frozen=True, kw_only=True)
class Left:
    """The positions of an epoch that nobody has taken."""

    position: int = 0
    """All before it are taken."""
    taken: tuple[int, ...] = ()
    """Taken positions from there on, in order."""

    @cached_property
    def _free_before(self) -> list[int]:
        return [taken - self.position - index for index, taken in enumerate(self.taken)]

    def num_of(self, num_samples: int) -> int:
        """How many of an epoch of `num_samples` are left."""
        return max(0, num_samples - self.position - bisect_left(self.taken, num_samples))

    def at(self, index: int, *, num_samples: int) -> int:
        """The position of one that is left; beyond the last, the epoch is gone through again from its first."""
        num_left = self.num_of(num_samples)
        if index >= num_left:
            return (index - num_left) % num_samples
        if not self.taken:
            return self.position + index
        # The taken ones with at most `index` free positions before them are before the one that is looked for.
        low, high = 0, len(self.taken)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._free_before[middle] <= index else (low, middle)
        return self.position + index + low


def num_steps(num_left: int, *, consumer: Consumer, remainder: Remainder) -> int:
    """How many positions a consumer takes of those left: the same number for all, unless they are kept."""
    if remainder == "drop":
        return num_left // consumer.count
    if remainder == "pad":
        return -(-num_left // consumer.count)
    return max(0, -(-(num_left - consumer.number) // consumer.count))


def merged_left(left: Left, *, num_samples: int, steps: Sequence[int]) -> Left:
    """What is left after each consumer, by its number, has taken so many steps."""
    count = len(steps)
    num_left = left.num_of(num_samples)
    rounds = min(steps)
    ahead = [
        number + step * count
        for number, taken in enumerate(steps)
        for step in range(rounds, taken)
        if number + step * count < num_left
    ]
    if rounds * count >= num_left:
        return Left(position=num_samples)
    position = left.at(rounds * count, num_samples=num_samples)
    taken = {left.at(index, num_samples=num_samples) for index in ahead}
    return Left(position=position, taken=tuple(sorted(taken.union(at for at in left.taken if at > position))))


def find_states(content: Any, *, kind: str) -> Iterable[Mapping[str, Any]]:
    """Yield every state of a dataset inside what a loader saved, wherever it is."""
    if isinstance(content, Mapping):
        if content.get("kind") == kind:
            yield content
            return
        behind = content.get("_steps_since_snapshot", 0)
        if behind:
            raise ConfigError(
                f"a loader's state is {behind} steps behind what it gave out; save with snapshot_every_n_steps=1, "
                "or load it into a loader with as many workers"
            )
        content = list(content.values())
    if isinstance(content, (list, tuple)):
        for part in content:
            yield from find_states(part, kind=kind)
