"""How the arrays of a dump lie, settled leniently: what an audit doubts later must not stop it at the beginning.

Legend of shapes: K codebooks, T frames.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenizer_jobs.auditing.reading import Array
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.importing.layouts import Axes

__all__ = ["Settled", "readings", "settle_layout"]

MOST_CODEBOOKS = 64
MAJORITY = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """How arrays are read."""

    axes: Axes
    num_codebooks: int
    """Of most of them."""

    def matrix(self, array: Array) -> Array | None:
        """An array as [K, T] whatever its K, offsets and all; None where it has another number of axes."""
        if self.axes in ("KT", "TK"):
            if array.ndim != 2:
                return None
            return array if self.axes == "KT" else array.T
        if array.ndim != 1 or array.size % self.num_codebooks:
            return None
        if self.axes == "flat":
            return array.reshape(-1, self.num_codebooks).T
        return array.reshape(self.num_codebooks, -1)


def settle_layout(
    arrays: Sequence[Array],
    num_frames: Sequence[int | None],
    *,
    axes: Axes | None,
    num_codebooks: int | None,
    offered: Sequence[int],
) -> Settled:
    """The layout that most arrays have.

    Args:
        arrays: A sample.
        num_frames: That the audio of each should have; None: unknown.
        axes, num_codebooks: As said.
        offered: Numbers of codebooks that the codec can have.

    Raises:
        ConfigError: there is none.
    """
    ndim = Counter(array.ndim for array in arrays).most_common(1)[0][0]
    paired = [(array, n) for array, n in zip(arrays, num_frames, strict=True) if array.ndim == ndim and array.size]
    if ndim not in (1, 2) or not paired:
        shapes = [list(array.shape) for array in arrays[:3]]
        raise ConfigError(f"arrays of the dump have shapes such as {shapes}; expected [K, T], [T, K], or flattened")
    if ndim == 1:
        known = [max(1, round(array.size / n)) for array, n in paired if n]
        count = num_codebooks or (Counter(known).most_common(1)[0][0] if known else 1)
        chosen: Axes = "flat-by-codebook" if axes == "flat-by-codebook" else "flat"
        return Settled(axes=chosen, num_codebooks=count)
    if axes in ("KT", "TK"):
        place = 0 if axes == "KT" else 1
        return Settled(axes=axes, num_codebooks=_mode([array.shape[place] for array, _ in paired])[0])
    scores = {place: _score(paired, place, num_codebooks=num_codebooks, offered=offered) for place in (0, 1)}
    place = 0 if scores[0] >= scores[1] else 1
    return Settled(
        axes="KT" if place == 0 else "TK", num_codebooks=_mode([array.shape[place] for array, _ in paired])[0]
    )


def readings(array: Array, *, num_codebooks: int) -> list[tuple[str, Array]]:
    """All ways to read an array as [K, T], by name, whichever are possible."""
    found = list[tuple[str, Array]]()
    if array.ndim == 2:
        found += [("KT", array), ("TK", array.T)]
    flat = array.reshape(-1)
    if flat.size % num_codebooks == 0:
        found += [
            ("flat", flat.reshape(-1, num_codebooks).T),
            ("flat-by-codebook", flat.reshape(num_codebooks, -1)),
        ]
        if array.ndim == 2:
            turned = array.T.reshape(-1)
            found += [
                ("turned flat", turned.reshape(-1, num_codebooks).T),
                ("turned flat-by-codebook", turned.reshape(num_codebooks, -1)),
            ]
    return [(name, matrix) for name, matrix in found if matrix.shape[0] <= MOST_CODEBOOKS]


def _score(
    paired: Sequence[tuple[Array, int | None]], place: int, *, num_codebooks: int | None, offered: Sequence[int]
) -> float:
    """How much speaks for codebooks being on an axis."""
    number, share = _mode([array.shape[place] for array, _ in paired])
    if number > MOST_CODEBOOKS:
        return -10.0
    lengths = [abs(array.shape[1 - place] - n) <= 2 + 0.02 * n for array, n in paired if n]
    return (
        4.0 * (number == num_codebooks)
        + 2.0 * (share >= MAJORITY)
        + 3.0 * (float(np.mean(lengths)) if lengths else 0.0)
        + 1.0 * (number in offered)
    )


def _mode(numbers: Sequence[int]) -> tuple[int, float]:
    number, count = Counter(numbers).most_common(1)[0]
    return number, count / len(numbers)
