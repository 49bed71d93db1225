"""What a language model of codes is measured against: counts of codes and of neighbouring codes, on a split by hash.

Each recording's codes are given once, by a name of the caller's. Their sha256 (uint16, little-endian, C order: the
column `codes_sha256` of an output) decides: divisible by 5, held out, and looked at in the end only; divisible by 13
of the rest, for choices (weights of interpolation, when to stop). Everything is fitted to what remains.

Letters in shapes: K codebooks, T frames, N codes of one codebook.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import ConfigError

__all__ = ["CodesSplit", "Histogram", "OrderOne", "best_histograms", "best_order_ones", "split_codes"]

HELD_OUT_EVERY = 5
CHOOSING_EVERY = 13
PRIOR_COUNTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Added to each entry of a histogram."""
BACKOFF_COUNTS = (1, 3, 10, 30, 100, 300, 1000, 3000)
"""Weight of the histogram in the order-1 model, in observations of the code before."""

Codes = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesSplit:
    """Codes [K, T] of recordings in three parts, none of which shares a recording with another, by name."""

    fitted: Mapping[str, Codes]
    choosing: Mapping[str, Codes]
    held_out: Mapping[str, Codes]

    def repeated_share(self) -> float:
        """Return the share of held-out frames that stand in a fitted recording with all their codes, as silence."""
        known = {frame.tobytes() for codes in self.fitted.values() for frame in codes.T}
        held_out = [frame.tobytes() in known for codes in self.held_out.values() for frame in codes.T]
        return sum(held_out) / max(1, len(held_out))


def split_codes(recordings: Mapping[str, Codes]) -> CodesSplit:
    """Part recordings by the hash of their codes, those with equal codes counted once, under their first name.

    Each part gets one at least: where hashes leave one empty, as they may with a handful, a recording moves there.

    Args:
        recordings: uint16 [K, T] each.

    Raises:
        ConfigError: there are fewer than three.
    """
    by_hash: dict[int, str] = {}
    for name, codes in recordings.items():
        by_hash.setdefault(int(codes_sha256(codes), 16), name)
    if len(by_hash) < 3:
        raise ConfigError(
            f"{len(by_hash)} recordings with codes of their own cannot be parted in three; give more, a hundred or so"
        )
    held_out = _divisible(by_hash.keys(), HELD_OUT_EVERY, max_count=len(by_hash) - 2)
    rest = by_hash.keys() - held_out
    choosing = _divisible(rest, CHOOSING_EVERY, max_count=len(rest) - 1)
    parts = (rest - choosing, choosing, held_out)
    fitted, chosen_on, kept = ({by_hash[n]: recordings[by_hash[n]] for n in sorted(part)} for part in parts)
    return CodesSplit(fitted=fitted, choosing=chosen_on, held_out=kept)


class Histogram:
    """Codes of one codebook, each independent of all others.

    Args:
        sequences: integers [N] each.
        codebook_size: every code is below it.
        prior: counts that each code has beside those found.
    """

    def __init__(self, sequences: Sequence[Codes], *, codebook_size: int, prior: float) -> None:
        counts = np.bincount(np.concatenate(sequences), minlength=codebook_size) + prior
        self.shares = counts / counts.sum()
        """float64 [codebook_size]: probability of each code."""

    def bits(self, codes: Codes) -> float:
        """Return what an ideal entropy coder needs for [N] codes."""
        return float(-np.log2(self.shares[codes]).sum())


class OrderOne:
    """Codes of one codebook, each depending on the one before: its counts, and a histogram worth `backoff` of them.

    Args:
        sequences: integers [N] each; neighbours in one follow each other.
        histogram: of the same codebook; it also stands for the first code of a sequence.
        backoff: its weight, in observations.
    """

    def __init__(self, sequences: Sequence[Codes], *, histogram: Histogram, backoff: float) -> None:
        size = len(histogram.shares)
        pairs = np.concatenate([codes[:-1].astype(np.int64) * size + codes[1:] for codes in sequences])
        self._counts = np.bincount(pairs, minlength=size**2).reshape(size, size)
        self._totals = self._counts.sum(1)
        self._histogram, self._backoff = histogram, backoff

    def bits(self, codes: Codes) -> float:
        """Return what an ideal entropy coder needs for [N] codes that follow each other."""
        before, now = codes[:-1], codes[1:]
        backed_off = self._backoff * self._histogram.shares[now]
        shares = (self._counts[before, now] + backed_off) / (self._totals[before] + self._backoff)
        return self._histogram.bits(codes[:1]) + float(-np.log2(shares).sum())


def best_histograms(split: CodesSplit, *, codebook_size: int) -> list[Histogram]:
    """For each codebook the histogram of the fitted codes whose prior is best on those for choices."""
    return [
        min(
            (Histogram(fitted, codebook_size=codebook_size, prior=prior) for prior in PRIOR_COUNTS),
            key=lambda model: sum(model.bits(codes) for codes in choosing),
        )
        for fitted, choosing in _by_codebook(split)
    ]


def best_order_ones(split: CodesSplit, *, histograms: Sequence[Histogram]) -> list[OrderOne]:
    """For each codebook the order-1 model of the fitted codes whose interpolation is best on those for choices."""
    return [
        min(
            (OrderOne(fitted, histogram=histogram, backoff=backoff) for backoff in BACKOFF_COUNTS),
            key=lambda model: sum(model.bits(codes) for codes in choosing),
        )
        for histogram, (fitted, choosing) in zip(histograms, _by_codebook(split), strict=True)
    ]


def _divisible(numbers: Set[int], divisor: int, *, max_count: int) -> Set[int]:
    """The numbers that can be divided: at least one, and the lowest so many."""
    found = sorted(number for number in numbers if number % divisor == 0) or [min(numbers)]
    return set(found[:max_count])


def _by_codebook(split: CodesSplit) -> list[tuple[list[Codes], list[Codes]]]:
    num_codebooks = len(next(iter(split.fitted.values())))
    return [
        ([codes[number] for codes in split.fitted.values()], [codes[number] for codes in split.choosing.values()])
        for number in range(num_codebooks)
    ]
