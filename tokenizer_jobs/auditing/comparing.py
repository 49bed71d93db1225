"""Two arrays of codes side by side: how many agree, and whether what differs comes back at a period.

Legend of shapes: K codebooks, T frames.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.auditing.reading import Array

__all__ = ["Likeness", "best_lag", "compare", "seam_candidates"]

LEAST_FRAMES = 4
"""Fewer say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How codes compare with those of a reference over the frames that both have."""

    first: float
    """Share of frames whose first codebook agrees: hardly moved by resamplers, at chance for other audio."""
    codes: float
    """Share of codes that agree."""
    early: float
    """Share of codes of the first four codebooks that agree."""
    differs: npt.NDArray[np.bool_]
    """[T] of which frames differ anywhere."""

    @property
    def is_equal(self) -> bool:
        """Whether all agree."""
        return self.differs.size > 0 and not self.differs.any()


def compare(codes: Array, reference: Array, *, modulo: int | None = None) -> Likeness:
    """Compare codes [K, T] with a reference [K', T'] over common codebooks and frames.

    Args:
        codes: As stored.
        reference: Of some audio.
        modulo: Compare remainders, as of codes stored in 8 bits; None: as they are.
    """
    num_codebooks, num_frames = (min(a, b) for a, b in zip(codes.shape, reference.shape, strict=True))
    one, other = codes[:num_codebooks, :num_frames], reference[:num_codebooks, :num_frames]
    if modulo is not None:
        one, other = one % modulo, other % modulo
    equal = one == other
    if num_frames == 0 or num_codebooks == 0:
        return Likeness(first=0.0, codes=0.0, early=0.0, differs=np.ones(0, bool))
    return Likeness(
        first=float(equal[0].mean()), codes=float(equal.mean()), early=float(equal[:4].mean()), differs=~equal.all(0)
    )


def best_lag(codes: Array, reference: Array, *, most: int = 1500) -> tuple[int, float]:
    """By how many frames codes come later than a reference, and the share of first codebooks that agree then."""
    one, other = codes[0], reference[0]
    best = (0, 0.0)
    for lag in range(1, min(most, one.size - LEAST_FRAMES)):
        part = one[lag : lag + other.size]
        share = float((part == other[: part.size]).mean()) * min(1.0, part.size / other.size)
        if share > best[1]:
            best = (lag, share)
    return best


def seam_candidates(differs: npt.NDArray[np.bool_], *, most: int = 4) -> list[int]:
    """Periods in frames after which frames may have been encoded afresh: each multiple begins a run of differences."""
    begins = np.flatnonzero(differs & ~np.concatenate([[False], differs[:-1]]))
    found = list[int]()
    for begin in begins[:8]:
        if begin < 2:
            continue
        multiples = np.arange(begin, differs.size, begin)
        if differs[multiples].mean() >= 0.7:
            found.append(int(begin))
    return found[:most]
