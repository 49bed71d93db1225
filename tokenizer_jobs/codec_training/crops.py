"""Crops to train on: crop number n of a seed is always the same audio, so that a run resumes by a number alone.

Each crop draws a source by weight, a recording by length, a place and a gain; some are sums of several such crops
(the data mix of the EnCodec paper's section 4.1). Crops that clip, or hold next to nothing, are drawn again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenizer_jobs.codec_training.waveforms import Recording, Waveforms
from tokenizer_jobs.errors import ConfigError

__all__ = ["CropRules", "Crops"]

MAX_DRAWS = 100
"""Draws for one crop before the rules are taken to be impossible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRules:
    """What a crop may be."""

    num_samples: int
    gain_db: tuple[float, float]
    """Bounds of a uniform draw."""
    min_rms_db: float
    """Crops below, relative to full scale and after the gain, are drawn again."""
    mix_probabilities: tuple[float, ...]
    """Chances of one crop alone, the sum of two, of three …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The recordings of one source, to draw from."""

    waveforms: Waveforms
    recordings: Sequence[Recording]
    cumulated: npt.NDArray[np.float64]
    """Share of samples in all recordings up to each."""


class Crops:
    """All crops of a seed.

    Args:
        sources: decoded audio and the recordings that may be used, by name.
        weights: chance of each source, by name; they need not sum to 1.
        rules: what a crop may be.
        seed: of every draw.
    """

    def __init__(
        self,
        sources: Mapping[str, tuple[Waveforms, Sequence[Recording]]],
        *,
        weights: Mapping[str, float],
        rules: CropRules,
        seed: int,
    ) -> None:
        self._rules, self._seed = rules, seed
        self._choices = [_choice(waveforms, recordings) for waveforms, recordings in sources.values()]
        shares = np.array([weights[name] for name in sources])
        self._shares = shares / shares.sum()

    def batch(self, update: int, *, size: int, rank: int = 0, num_ranks: int = 1) -> Tensor:
        """Return the float32 `[size, C, T]` that a rank sees in an update.

        Args:
            update: counted from 0.
            size: crops for each rank.
            rank, num_ranks: which share of the update's crops.
        """
        first = (update * num_ranks + rank) * size
        return torch.from_numpy(np.stack([self.crop(number) for number in range(first, first + size)]))

    def crop(self, number: int) -> npt.NDArray[np.float32]:
        """Return crop `number`, float32 [C, T] in [-1, 1].

        Raises:
            ConfigError: next to no audio keeps the rules.
        """
        random = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, number]))
        lowest_rms = 10 ** (self._rules.min_rms_db / 20)
        for _ in range(MAX_DRAWS):
            num_parts = 1 + random.choice(len(self._rules.mix_probabilities), p=self._rules.mix_probabilities)
            crop = sum((self._part(random) for _ in range(num_parts)), start=np.float32(0))
            assert isinstance(crop, np.ndarray)
            if np.abs(crop).max() <= 1 and np.sqrt(np.mean(crop**2)) >= lowest_rms:
                return crop
        raise ConfigError(
            f"{MAX_DRAWS} crops in a row were silent or clipped; lower audio.min_rms_db "
            f"({self._rules.min_rms_db}) or audio.gain_db {self._rules.gain_db}, or look at the audio"
        )

    def _part(self, random: np.random.Generator) -> npt.NDArray[np.float32]:
        choice = self._choices[random.choice(len(self._choices), p=self._shares)]
        recording = choice.recordings[int(np.searchsorted(choice.cumulated, random.random(), side="right"))]
        room = max(0, recording.num_samples - self._rules.num_samples)
        gain = np.float32(10 ** (random.uniform(*self._rules.gain_db) / 20))
        start = int(random.integers(room + 1))
        return gain * choice.waveforms.crop(recording, start=start, num_samples=self._rules.num_samples)


def _choice(waveforms: Waveforms, recordings: Sequence[Recording]) -> _Choice:
    lengths = np.array([recording.num_samples for recording in recordings], dtype=np.float64)
    cumulated = np.cumsum(lengths) / lengths.sum()
    cumulated[-1] = 1.0
    return _Choice(waveforms=waveforms, recordings=recordings, cumulated=cumulated)
