"""What patterns refuse, made or used, and the words in which they do."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.tokenizer_jobs.test_patterns import ALL, CODES
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training import (
    CoarseFirstPattern,
    DelayPattern,
    FlattenPattern,
    Pattern,
    ValleArPattern,
    ValleNarPattern,
)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: DelayPattern(pad_id=1000, codebook_size=1024),
            "pad_id = 1000 lies inside the range of codes, 0 to 1023",
        ),
        (lambda: DelayPattern(pad_id=1025, eos_id=1024), "eos_id = 1024 lies inside"),
        (lambda: DelayPattern(eos_id=1024), "pad_id and eos_id are both 1024"),
        (lambda: DelayPattern(delays=(0, -1)), r"delays = \(0, -1\) must be"),
        (lambda: DelayPattern(pad_id=-1), "codebook_size leaves -1 ids for codes"),
        (
            lambda: FlattenPattern(num_codebooks=2, pad_id=1024),
            "pad_id = 1024 lies inside the range of codes, 0 to 2047",
        ),
        (lambda: FlattenPattern(num_codebooks=0), "num_codebooks = 0"),
        (lambda: FlattenPattern(num_codebooks=1, codebook_size=0), "codebook_size = 0"),
        (
            lambda: CoarseFirstPattern(num_codebooks=4, num_coarse=5),
            "num_coarse = 5 must be from 1 to num_codebooks = 4",
        ),
        (lambda: ValleArPattern(eos_id=3), "eos_id = 3 lies inside"),
        (lambda: ValleNarPattern(level=0), "level = 0 must be 1 or above"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(make: Callable[[], Pattern], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def named(pattern: Pattern) -> str:
    return type(pattern).__name__


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("pattern", ALL, ids=named)
def test_codes_out_of_range_are_refused(pattern: Pattern, kind: str) -> None:
    for wrong, words in ((1024, "codes hold 1024 where a code below codebook_size = 1024"), (-1, "codes hold -1")):
        codes = CODES.copy()
        codes[0, 1] = wrong
        with pytest.raises(ConfigError, match=words):
            pattern.apply(codes) if kind == "numpy" else pattern.apply(torch.from_numpy(codes))


@pytest.mark.parametrize("pattern", ALL, ids=named)
def test_what_are_no_codes_is_refused(pattern: Pattern) -> None:
    with pytest.raises(ConfigError, match=r"codes is float64 \[4, 3\]; expected integers"):
        pattern.apply(CODES.astype(float))
    with pytest.raises(ConfigError, match=r"codes is int64 \[3\]"):
        pattern.apply(torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="codes is list"):
        pattern.apply([[1]])  # type: ignore[type-var]
    with pytest.raises(ConfigError, match=r"codes is int64 \[0, 3\]"):
        pattern.apply(CODES[:0])
    with pytest.raises(ConfigError, match=r"tokens is float64"):
        pattern.invert(CODES.astype(float))


@pytest.mark.parametrize("pattern", ALL, ids=named)
def test_lengths_that_do_not_fit_are_refused(pattern: Pattern) -> None:
    for lengths in ([1], [4, 4], [0, -1], [1.0, 2.0]):
        with pytest.raises(ConfigError, match="lengths"):
            pattern.apply(np.stack([CODES, CODES]), lengths=lengths)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="none for a single item"):
        pattern.apply(CODES, lengths=[3])


@pytest.mark.parametrize("pattern", ALL, ids=named)
def test_a_special_token_in_the_place_of_a_code_is_refused_by_the_inverse(pattern: Pattern) -> None:
    tokens = pattern.apply(np.stack([CODES, CODES]), lengths=[3, 2])
    with pytest.raises(ConfigError, match=r"tokens hold \d{4} "):
        pattern.invert(tokens)
    assert not pattern.invert(tokens, lengths=[3, 2]).any()


def test_the_inverse_does_not_look_into_holes() -> None:
    pattern = DelayPattern()
    tokens = pattern.apply(CODES)
    tokens[tokens == pattern.pad_id] = 17
    assert np.array_equal(pattern.invert(tokens), CODES)


def test_a_codebooks_id_in_the_place_of_another_is_refused() -> None:
    pattern = FlattenPattern(num_codebooks=4)
    tokens = pattern.apply(CODES)
    tokens[1] = 5
    with pytest.raises(ConfigError, match="tokens hold 5 in a place of another codebook"):
        pattern.invert(tokens)


def test_shapes_of_other_patterns_are_refused_by_the_inverse() -> None:
    with pytest.raises(ConfigError, match="tokens has 2 columns"):
        DelayPattern().invert(CODES[:, :2])
    with pytest.raises(ConfigError, match="tokens has 13 of them; expected 4 for each frame and 0"):
        FlattenPattern(num_codebooks=4).invert(np.zeros(13, dtype=np.int64))
    with pytest.raises(ConfigError, match="tokens has 1 of them"):
        ValleArPattern().invert(np.zeros(1, dtype=np.int64))


def test_codebooks_that_a_pattern_is_not_made_for_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_codebooks = 8 and there are 4 codebooks"):
        FlattenPattern(num_codebooks=8).apply(CODES)
    with pytest.raises(ConfigError, match=r"delays = \(0, 1\) is for 2 codebooks, there are 4"):
        DelayPattern(delays=(0, 1)).apply(CODES)
    with pytest.raises(ConfigError, match="level = 4 and there are 4 codebooks"):
        ValleNarPattern(level=4).apply(CODES)
    with pytest.raises(ConfigError, match="a level needs one below it"):
        ValleNarPattern().apply(CODES[:1], seed=0)
    with pytest.raises(ConfigError, match="neither a level nor a seed"):
        ValleNarPattern().apply(CODES)
