"""Crops of codes to train on: crop number n of a seed is always the same, so that a run resumes by a number alone.

Letters in shapes: B batch, K codebooks, T frames.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encodec_core.training import NO_CODE

__all__ = ["CodeCrops"]


class CodeCrops:
    """All crops of a seed.

    A crop comes from a sequence by its length, from anywhere in it; shorter sequences are taken whole.

    Args:
        sequences: integers `[K, n]` each, n > 0; a model begins each afresh.
        num_frames: of a crop, T; less where no sequence is as long.
        seed: of every draw.
    """

    def __init__(self, sequences: Sequence[npt.NDArray[np.integer]], *, num_frames: int, seed: int) -> None:
        lengths = np.array([codes.shape[1] for codes in sequences])
        self._sequences = sequences
        self._num_frames = min(num_frames, int(lengths.max()))
        self._seed = seed
        self._cumulated = np.cumsum(lengths)

    def batch(self, update: int, *, size: int) -> Tensor:
        """Return the crops of an update, counted from 0, as `LanguageModelTrainer.step` takes them: `[B, K, T + 1]`."""
        numbers = range(update * size, (update + 1) * size)
        return torch.from_numpy(np.stack([self.crop(number) for number in numbers]))

    def crop(self, number: int) -> npt.NDArray[np.int64]:
        """Return crop `number`, `[K, T + 1]`: the frame before it, its frames, and -1 where there is none."""
        random = np.random.Generator(np.random.Philox(key=self._seed, counter=[0, 0, 0, number]))
        place = random.integers(self._cumulated[-1])
        codes = self._sequences[int(np.searchsorted(self._cumulated, place, side="right"))]
        num_codebooks, length = codes.shape
        # Were starts drawn from 0 to `last` alone, the frames near either end would hardly ever be in a crop.
        last, beyond = max(0, length - self._num_frames), self._num_frames // 2
        start = int(np.clip(random.integers(-beyond, last + beyond + 1), 0, last))
        crop = np.full((num_codebooks, self._num_frames + 1), NO_CODE, dtype=np.int64)
        found = codes[:, max(0, start - 1) : start + self._num_frames]
        first = 0 if start else 1
        crop[:, first : first + found.shape[1]] = found
        return crop
