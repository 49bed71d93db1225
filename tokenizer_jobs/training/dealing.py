"""What every dataset here is to torch: one sequence of samples an epoch, dealt to workers, resumed anywhere."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.positions import Consumer, Left, Remainder, find_states, merged_left, num_steps

__all__ = ["DealtDataset", "Sample"]

Sample = dict[str, Any]
"""One sample, by name: tensors, and text and metadata as Python's own."""

_KIND = "tokenizer_jobs.training"
_LAYOUT = ("rank", "world_size", "worker", "num_workers")
_PLACE = ("begun", "epoch", "count", "until", "left")
"""Of a state: the epoch that its pass began with, the one it is in, the steps taken there, the one it ends before, and
what was left of epochs when it began."""


class DealtDataset(IterableDataset[Sample]):
    """One global sequence of samples for each epoch, of which each worker of each rank takes its turns.

    Args:
        seed: Of everything that is drawn.
        rank: Of this process; None: torch.distributed's, else 0. Read when the dataset is made.
        world_size: Ranks in all; None: torch.distributed's, else 1.
        epochs: How many one pass goes through; None: it never ends.
        remainder: What becomes of the samples of an epoch that do not go round all ranks and workers. `pad`: the first
            ones of the epoch fill up; `drop`: they are left out; `keep`: each sample once, some take one step more.
    """

    def __init__(
        self, *, seed: int, rank: int | None, world_size: int | None, epochs: int | None, remainder: Remainder
    ) -> None:
        super().__init__()
        self.seed = seed
        self._rank, self._world_size = _place(rank=rank, world_size=world_size)
        if epochs is not None and epochs < 1:
            raise ConfigError(f"epochs = {epochs} must be 1 or above, or None for a pass without end")
        if remainder not in ("pad", "drop", "keep"):
            raise ConfigError(f"remainder = {remainder!r} is not understood; choose one of pad, drop, keep")
        self._epochs = epochs
        self._remainder: Remainder = remainder
        # Shared, so that `set_epoch` reaches workers that live on between passes.
        self._first_epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._loaded: Mapping[str, Any] | None = None
        self._current: dict[str, Any] | None = None
        self._is_through = False
        """Whether the pass of `_current` has given its last sample."""

    @abstractmethod
    def num_samples(self, epoch: int) -> int:
        """Samples of an epoch, over all ranks and workers."""

    @abstractmethod
    def open_epoch(self, epoch: int) -> Callable[[int], Sample]:
        """A function of a position of the epoch to its sample; it keeps what it has read."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the global sequence, as JSON types: states are exchanged only where it is equal."""

    @property
    def epoch(self) -> int:
        """The epoch that the next pass begins with."""
        return int(self._first_epoch)

    def set_epoch(self, epoch: int) -> None:
        """Let the next pass begin with another epoch; it also reaches persistent workers of a DataLoader.

        A position that was loaded within this very epoch stays.
        """
        if self._loaded is not None and self._loaded["epoch"] != epoch:
            self._loaded = None
        if self._current is not None and self._is_through and self._current["epoch"] != epoch:
            self._current = None  # the next pass is what a state is of now
        self._first_epoch.fill_(epoch)

    def __iter__(self) -> Iterator[Sample]:
        consumer = self._consumer()
        state: Mapping[str, Any] | None = self._loaded
        self._loaded = None
        state = self._unbegun() if state is None else self._relaid(state, consumer=consumer)
        self._current = {
            "kind": _KIND,
            "identity": self.identity(),
            **{name: state[name] for name in _PLACE},
            **asdict(consumer),
        }
        self._is_through = False
        return self._pass(self._current, consumer=consumer)

    def state_dict(self) -> dict[str, Any]:
        """Where this consumer is: in the pass that goes on here, else where the next one begins. It is JSON."""
        if self._loaded is not None:
            return {"kind": _KIND, "identity": self.identity(), **self._loaded}
        if self._current is None:
            return {"kind": _KIND, "identity": self.identity(), **self._unbegun(), **asdict(self._consumer())}
        return dict(self._current)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next pass go on where a state was taken.

        The state of one rank does for as many ranks and workers as there were, and for other numbers of ranks where a
        rank was one consumer: all then have taken as many steps. Else take `merge_states` of them all.

        Raises:
            ConfigError: it is the state of another sequence.
        """
        self._checked([state])
        self._loaded = {name: value for name, value in state.items() if name not in ("kind", "identity")}
        if get_worker_info() is None:
            self._first_epoch.fill_(state["epoch"])

    def merge_states(self, states: Sequence[Any]) -> dict[str, Any]:
        """Join the states of all consumers into one, for any other number of ranks and workers.

        Args:
            states: What `state_dict` gave, of this dataset or of torchdata's StatefulDataLoader: of every rank, or of
                one, where all have taken as many steps.

        Raises:
            ConfigError: there is none, some are missing, or they are of another sequence.
        """
        found = self._checked([state for content in states for state in find_states(content, kind=_KIND)])
        merged = [state for state in found if "rank" not in state]
        if not merged:
            return self._merged(_by_consumer(self._of_all_ranks(found)))
        if any(state != merged[0] for state in found):  # equal: of ranks that have loaded it and not gone on
            raise ConfigError(f"{len(found)} states are given, one of which is merged already; give that one alone")
        return dict(merged[0])

    def _merged(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        first = min(state["epoch"] for state in states)
        # Epochs that consumers before these had gone into ahead of others, these may not have come to yet.
        begun = {*range(first, max(state["epoch"] for state in states) + 1), *map(int, states[0]["left"])}
        left = dict[str, Any]()
        for epoch in sorted(epoch for epoch in begun if epoch >= first):
            num_samples = self.num_samples(epoch)
            before = _left_of(states[0], epoch)
            num_left = before.num_of(num_samples)
            steps = [self._steps_taken(state, epoch=epoch, num_left=num_left) for state in states]
            after = merged_left(before, num_samples=num_samples, steps=steps)
            left[str(epoch)] = [after.position, list(after.taken)]
        place = {"begun": first, "epoch": first, "count": 0, "until": states[0]["until"], "left": left}
        return {"kind": _KIND, "identity": self.identity(), **place}

    def _steps_taken(self, state: Mapping[str, Any], *, epoch: int, num_left: int) -> int:
        if state["epoch"] > epoch:
            return num_steps(num_left, consumer=_consumer_of(state), remainder=self._remainder)
        return int(state["count"]) if state["epoch"] == epoch else 0

    def _relaid(self, state: Mapping[str, Any], *, consumer: Consumer) -> Mapping[str, Any]:
        """A state for the consumer that goes on from it, as if all had taken as many steps where it is that of one."""
        if state["epoch"] == state["begun"] and not state["count"]:
            return state
        saved = _consumer_of(state)
        if replace(saved, rank=consumer.rank) == consumer:
            return self._of_rank(state, consumer.rank)
        if saved.num_workers > 1:
            raise ConfigError(
                f"the state is that of worker {saved.worker} of {saved.num_workers}, which says nothing of the "
                "others; give `merge_states` those of all workers, or what StatefulDataLoader.state_dict() returned"
            )
        return self._merged(self._of_all_ranks([state]))

    def _of_all_ranks(self, states: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The states themselves, or where they are of one rank those of all ranks that have taken as many steps."""
        if len({state["rank"] for state in states}) > 1:
            return states
        return [self._of_rank(state, rank) for state in states for rank in range(state["world_size"])]

    def _of_rank(self, state: Mapping[str, Any], rank: int) -> Mapping[str, Any]:
        """The state of the same worker of a rank that has taken as many steps.

        Where remainders are kept, ranks take unequal steps in an epoch: one may be an epoch ahead.
        """
        consumer = _consumer_of(state)
        if self._remainder != "keep" or rank == consumer.rank:
            return {**state, "rank": rank}
        steps = state["count"] + sum(
            self._steps_in(state, epoch, consumer=consumer) for epoch in range(state["begun"], state["epoch"])
        )
        epoch, other = state["begun"], replace(consumer, rank=rank)
        while steps > (most := self._steps_in(state, epoch, consumer=other)) and epoch + 1 != state["until"]:
            steps, epoch = steps - most, epoch + 1
        return {**state, "rank": rank, "epoch": epoch, "count": min(steps, most)}

    def _steps_in(self, state: Mapping[str, Any], epoch: int, *, consumer: Consumer) -> int:
        """The steps of a consumer in an epoch of a pass.

        Raises:
            ConfigError: it has none where it must.
        """
        num_samples = self.num_samples(epoch)
        num_left = _left_of(state, epoch).num_of(num_samples)
        steps = num_steps(num_left, consumer=consumer, remainder=self._remainder)
        is_spared = self._remainder == "keep" and num_samples > 0 and state["until"] is not None
        if steps == 0 and num_left == num_samples and not is_spared:
            raise ConfigError(
                f"an epoch of {num_samples} samples leaves none for each of {consumer.count} workers "
                f"({consumer.world_size} ranks × {consumer.num_workers}); choose remainder='pad', or fewer workers"
            )
        return steps

    def _unbegun(self) -> dict[str, Any]:
        until = None if self._epochs is None else self.epoch + self._epochs
        return {"begun": self.epoch, "epoch": self.epoch, "count": 0, "until": until, "left": {}}

    def _checked(self, states: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        if not states:
            raise ConfigError("no state of a dataset is given; expected what state_dict() returned")
        identity = self.identity()
        for state in states:
            if state.get("kind") != _KIND:
                raise ConfigError(
                    f"this is no state of a dataset (it holds {', '.join(map(str, state)) or 'nothing'}); expected "
                    "what state_dict() of a dataset returned, or merge_states() of what loaders returned"
                )
            differing = [
                f"{name}: {_shown(state['identity'], name)} saved, {_shown(identity, name)} here"
                for name in {**state["identity"], **identity}
                if state["identity"].get(name) != identity.get(name)
            ]
            if differing:
                raise ConfigError(
                    f"the state is that of another sequence ({'; '.join(differing)}); open the dataset as it was, "
                    "an output that has grown by snapshot=…"
                )
        return states

    def _consumer(self) -> Consumer:
        worker = get_worker_info()
        if worker is None:
            return Consumer(rank=self._rank, world_size=self._world_size)
        return Consumer(rank=self._rank, world_size=self._world_size, worker=worker.id, num_workers=worker.num_workers)

    def _pass(self, state: dict[str, Any], *, consumer: Consumer) -> Iterator[Sample]:
        while state["until"] is None or state["epoch"] < state["until"]:
            epoch = state["epoch"]
            steps = self._steps_in(state, epoch, consumer=consumer)
            num_samples, left = self.num_samples(epoch), _left_of(state, epoch)
            sample_at = self.open_epoch(epoch)
            while state["count"] < steps:
                index = consumer.number + state["count"] * consumer.count
                sample = sample_at(left.at(index, num_samples=num_samples))
                state["count"] += 1
                yield sample
            if state["until"] is not None and epoch + 1 == state["until"]:
                break  # the state says that this epoch is through
            state["epoch"], state["count"] = epoch + 1, 0
        self._is_through = self._is_through or state is self._current


def _left_of(state: Mapping[str, Any], epoch: int) -> Left:
    position, taken = state["left"].get(str(epoch), (0, ()))
    return Left(position=position, taken=tuple(taken))


def _consumer_of(state: Mapping[str, Any]) -> Consumer:
    return Consumer(**{name: state[name] for name in _LAYOUT})


def _by_consumer(states: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """One state for each consumer, by its number."""
    world_size, num_workers = states[0]["world_size"], states[0]["num_workers"]
    known = {(state["rank"], state["worker"]): state for state in states}
    ranks = sorted({rank for rank, _ in known})
    consumers = [(rank, worker) for worker in range(num_workers) for rank in range(world_size)]
    passes = {
        (state["world_size"], state["num_workers"], state["until"], json.dumps(state["left"], sort_keys=True))
        for state in states
    }
    missing = [consumer for consumer in consumers if consumer not in known]
    if missing or len(passes) > 1:
        raise ConfigError(
            f"states of {len(known)} workers of ranks {ranks} are given, expected those of one pass of {world_size} "
            f"ranks × {num_workers} workers; give those of every rank, or of one"
        )
    return [known[consumer] for consumer in consumers]


def _place(*, rank: int | None, world_size: int | None) -> tuple[int, int]:
    if (rank is None) != (world_size is None):
        raise ConfigError(f"rank = {rank} and world_size = {world_size}: give both, or neither")
    if rank is None or world_size is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if distributed else (0, 1)
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank = {rank} of world_size = {world_size}; expected a rank from 0 to {world_size - 1}")
    return rank, world_size


def _shown(content: Mapping[str, Any], name: str) -> str:
    return repr(content[name]) if name in content else "nothing"
