"""`MixedTokenDataset`: several outputs in one sequence, by weight.

The sequence is a grid: position t is in column t mod C, each column chooses among the datasets by itself, and what a
column takes of a dataset are the positions p of the dataset with p mod C the same. So every position of every dataset
is taken once an epoch of its own, any place is found by arithmetic, and row groups stay with their consumers.

    position    0 1 2 3 | 4 5 6 7 | 8 9 ...           C = 4
    dataset     a b a a | b a a b | a a ...
    its own     0 1 2 3 | 0 5 6 3 | 4 9 ...
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.collation import Collation
from tokenizer_jobs.training.dataset import NUM_STRANDS, TokenDataset
from tokenizer_jobs.training.dealing import DealtDataset, Sample
from tokenizer_jobs.training.order import mix, permutation
from tokenizer_jobs.training.positions import Remainder

__all__ = ["MixedTokenDataset"]

ROUND = 1024
"""Choices of a column in which the weights hold exactly; they are rounded to this fraction."""
_COLUMNS_APART = 64
"""Samples of one dataset that a column may be behind another: four standard deviations of a fair round of `ROUND`."""
_COMPARED = ("weights_sha256", "sample_rate", "frame_rate", "codebook_size")


class MixedTokenDataset(DealtDataset):
    """A weighted mixture: each dataset is gone through epoch after epoch, as often as its weight asks.

    Samples are those of the datasets, with `source`, the number of the dataset. In every 1,024 rounds of the columns
    the weights hold exactly.

    Args:
        parts: Datasets and their weights, which need not sum to 1. Ranks and epochs of the datasets are not looked at.
        num_samples: Of an epoch of the mixture; None: as many as the datasets have rows together.
        seed: Of the choices.
        allow_unequal: Mix codes of unlike codecs or numbers of codebooks, or samples of unlike patterns, lengths or
            columns, which mean different things and may not make a batch.
        rank: As `DealtDataset`, like the three below.
        world_size: Ranks in all.
        epochs: Of one pass.
        remainder: `pad`, `drop` or `keep`.

    Raises:
        ConfigError: a weight is not positive or too small, or recipes differ.
    """

    def __init__(
        self,
        parts: Sequence[tuple[TokenDataset, float]],
        *,
        num_samples: int | None = None,
        seed: int = 0,
        allow_unequal: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        epochs: int | None = 1,
        remainder: Remainder = "pad",
    ) -> None:
        super().__init__(seed=seed, rank=rank, world_size=world_size, epochs=epochs, remainder=remainder)
        self._datasets = tuple(dataset for dataset, _ in parts)
        self._quotas = _quotas([weight for _, weight in parts])
        if not allow_unequal:
            _refuse_unequal(self._datasets)
        if num_samples is not None and num_samples < 1:
            raise ConfigError(f"num_samples = {num_samples} must be 1 or above")
        self._num_samples = num_samples or sum(dataset.num_samples(0) for dataset in self._datasets)
        self._first_positions = [[0] for _ in parts]

    @property
    def collate(self) -> Collation:
        """Joins samples to a batch: the `collate_fn` of a DataLoader."""
        return self._datasets[0].collate

    def num_samples(self, epoch: int) -> int:  # noqa: ARG002 - of every epoch
        """See `DealtDataset.num_samples`."""
        return self._num_samples

    def open_epoch(self, epoch: int) -> Callable[[int], Sample]:
        """See `DealtDataset.open_epoch`; the datasets go on where the mixture's epoch before left them."""
        readers = dict[tuple[int, int], Callable[[int], Sample]]()
        columns = dict[int, tuple[int, Any, Any]]()

        def sample_at(position: int) -> Sample:
            row, column = divmod(epoch * self._num_samples + position, NUM_STRANDS)
            number, place = divmod(row, ROUND)
            if columns.get(column, (None,))[0] != number:
                columns[column] = (number, *self._choices(number, column))
            _, choices, ranks = columns[column]
            source = int(choices[place])
            taken = number * self._quotas[source] + int(ranks[place])
            own_epoch, own = self._locate(source, taken * NUM_STRANDS + column)
            key = (source, own_epoch)
            if key not in readers:
                reach = 1 + NUM_STRANDS * _COLUMNS_APART // self._datasets[source].num_samples(own_epoch)
                for old in [other for other in readers if other[0] == source and other[1] < own_epoch - reach]:
                    del readers[old]
                readers[key] = self._datasets[source].open_epoch(own_epoch)
            return {**readers[key](own), "source": source}

        return sample_at

    def identity(self) -> dict[str, Any]:
        """See `DealtDataset.identity`."""
        return {
            "seed": self.seed,
            "num_samples": self._num_samples,
            "quotas": self._quotas,
            "parts": [dataset.identity() for dataset in self._datasets],
        }

    def _choices(self, number: int, column: int) -> tuple[Any, Any]:
        """[ROUND] which dataset a column takes in one of its rounds, and how many of that one it took before."""
        drawn = permutation(mix(self.seed, number, column), ROUND)
        choices = np.repeat(np.arange(len(self._quotas)), self._quotas)[drawn]
        ranks = np.empty_like(choices)
        for source, quota in enumerate(self._quotas):
            ranks[choices == source] = np.arange(quota)
        return choices, ranks

    def _locate(self, source: int, index: int) -> tuple[int, int]:
        """Epoch and position of a dataset's sample that is the so-maniest of all its epochs."""
        firsts, dataset = self._first_positions[source], self._datasets[source]
        while firsts[-1] <= index:
            firsts.append(firsts[-1] + dataset.num_samples(len(firsts) - 1))
        epoch = int(np.searchsorted(firsts, index, side="right")) - 1
        return epoch, index - firsts[epoch]


def _quotas(weights: Sequence[float]) -> list[int]:
    """Of `ROUND` choices, how many each dataset has: the nearest to the weights that sum up."""
    if not weights or not all(np.isfinite(weight) and weight > 0 for weight in weights):
        raise ConfigError(f"weights = {list(weights)}; expected one or more, each above 0")
    exact = np.array(weights, np.float64) / sum(weights) * ROUND
    quotas = np.floor(exact).astype(np.int64)
    largest = np.argsort(quotas - exact, kind="stable")
    quotas[largest[: ROUND - int(quotas.sum())]] += 1
    if (quotas == 0).any():
        raise ConfigError(
            f"weights = {list(weights)}: the smallest is below one in {ROUND}; raise it, or leave its dataset out"
        )
    return [int(quota) for quota in quotas]


def _refuse_unequal(datasets: Sequence[TokenDataset]) -> None:
    facts = [
        {name: dataset.recorded.get(name) for name in _COMPARED}
        | {"num_codebooks": dataset.num_codebooks, **dataset.layout}
        for dataset in datasets
    ]
    for number, other in enumerate(facts):
        differing = [f"{name}: {facts[0][name]} and {other[name]}" for name in other if other[name] != facts[0][name]]
        if differing:
            raise ConfigError(
                f"datasets 0 and {number} are of unlike recipes or layouts ({'; '.join(differing)}), so that one "
                "token means two things; open them alike (num_codebooks, pattern, pack_tokens, columns), or say "
                "allow_unequal=True"
            )
