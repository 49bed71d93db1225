"""Counts that a language model is measured against: probabilities, and a split that nothing slips through."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs.codec_training.count_models import (
    Histogram,
    OrderOne,
    best_histograms,
    best_order_ones,
    split_codes,
)
from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import ConfigError

SIZE = 5
SEQUENCES = st.lists(
    st.lists(st.integers(0, SIZE - 1), min_size=1, max_size=12).map(lambda codes: np.array(codes, np.uint16)),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(SEQUENCES, st.sampled_from([0.01, 1.0]), st.sampled_from([1, 1000]))
def test_what_may_follow_has_a_probability_of_one_in_all(
    sequences: Sequence[npt.NDArray[np.uint16]], prior: float, backoff: float
) -> None:
    histogram = Histogram(sequences, codebook_size=SIZE, prior=prior)
    order_one = OrderOne(sequences, histogram=histogram, backoff=backoff)
    for before in range(SIZE):
        first = histogram.bits(np.array([before], np.uint16))
        following = [order_one.bits(np.array([before, now], np.uint16)) - first for now in range(SIZE)]
        assert math.isclose(sum(2**-bits for bits in following), 1.0, rel_tol=1e-9)


def test_order_one_knows_what_follows_and_a_histogram_does_not() -> None:
    codes = np.tile(np.arange(SIZE, dtype=np.uint16), 200)
    recordings = {str(number): np.roll(codes, number)[None, number:] for number in range(40)}
    split = split_codes(recordings)
    histograms = best_histograms(split, codebook_size=SIZE)
    (order_one,) = best_order_ones(split, histograms=histograms)
    assert math.isclose(histograms[0].bits(codes) / codes.size, math.log2(SIZE), rel_tol=0.01)
    assert order_one.bits(codes) / codes.size < 0.02


@pytest.mark.parametrize("num_recordings", [3, 4, 20, 200])
def test_every_recording_is_in_one_part_whatever_their_order_and_names(num_recordings: int) -> None:
    random = np.random.default_rng(num_recordings)
    codes = [random.integers(0, 1024, size=(2, 9)).astype(np.uint16) for _ in range(num_recordings)]
    split = split_codes({f"a{number}": each for number, each in enumerate(codes)})
    parts = [list(map(codes_sha256, part.values())) for part in (split.fitted, split.choosing, split.held_out)]
    assert all(parts)
    everything = [sha256 for part in parts for sha256 in part]
    assert sorted(everything) == sorted(map(codes_sha256, codes))
    shuffled = split_codes({f"b{number}": each for number, each in enumerate(reversed(codes))})
    assert list(map(codes_sha256, shuffled.held_out.values())) == parts[2]
    if num_recordings == 200:
        assert all((int(sha256, 16) % 5 == 0) == (sha256 in parts[2]) for sha256 in everything)
        assert all(int(sha256, 16) % 13 == 0 for sha256 in parts[1])


def test_copies_count_once() -> None:
    codes = {str(number): np.full((2, 4), number, np.uint16) for number in range(30)}
    alone, doubled = split_codes(codes), split_codes({**codes, **{f"copy of {name}": of for name, of in codes.items()}})
    for part in ("fitted", "choosing", "held_out"):
        assert getattr(alone, part).keys() == getattr(doubled, part).keys()


def test_the_share_that_stands_in_fitted_recordings_is_counted_by_frames() -> None:
    silence = np.full((2, 6), 7, np.uint16)
    recordings = {
        str(number): np.concatenate([silence, np.full((2, 2), number)], axis=1).astype(np.uint16)
        for number in range(10, 60)
    }
    assert math.isclose(split_codes(recordings).repeated_share(), 6 / 8)


def test_two_recordings_cannot_be_parted_in_three() -> None:
    with pytest.raises(ConfigError, match="2 recordings with codes of their own"):
        split_codes({name: np.full((1, 3), number, np.uint16) for number, name in enumerate("ab")})
