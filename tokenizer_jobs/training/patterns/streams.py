"""Patterns that make one stream of all codebooks: flatten, coarse-first (AudioLM), and VALL-E's first codebook.

Letters in shapes: B batch, K codebooks, T frames, S tokens of a sequence.

A stream is one or more sections, each of some neighbouring codebooks, frame by frame. Codebook k of the stream has
the ids k · codebook_size to (k + 1) · codebook_size - 1, special ids lie above. Codebooks a, b, c of two frames:

    flatten                     a0 b0 c0 a1 b1 c1
    coarse-first, num_coarse 2  a0 b0 a1 b1 c0 c1
    VALL-E AR                   a0 a1

with the token of bos_id in front and that of eos_id behind, where they are given. A generated stream is cut behind its
eos_id before it is inverted.
"""

from abc import abstractmethod
from dataclasses import dataclass
from itertools import count

import numpy as np

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.patterns.arrays import (
    ArrayT,
    Lengths,
    as_int64,
    check_range,
    checked_codes,
    checked_lengths,
    checked_tokens,
    contiguous,
    counting,
    filled,
    frames_within,
    made_like,
    where,
)
from tokenizer_jobs.training.patterns.pattern import NextTokenPattern, Seed, check_special_ids

__all__ = ["NEXT_FREE_ID", "CoarseFirstPattern", "FlattenPattern", "ValleArPattern"]

NEXT_FREE_ID = -1
"""In place of a special id: the lowest that no code and no other special token has, in the order pad, BOS, EOS."""


class _StreamPattern(NextTokenPattern):
    """What the streams have in common: a base class, because only their sections differ."""

    __slots__ = ()

    codebook_size: int
    pad_id: int
    bos_id: int | None

    @property
    @abstractmethod
    def section_widths(self) -> tuple[int, ...]:
        """Codebooks of each section, in order."""

    @property
    def num_streamed(self) -> int:
        """Codebooks of the stream: the first of the codes'."""
        return sum(self.section_widths)

    @property
    def num_code_ids(self) -> int:
        """Codes are the ids below this."""
        return self.num_streamed * self.codebook_size

    @property
    def vocabulary_size(self) -> int:
        """The highest id + 1."""
        return 1 + max(special for special in (self.pad_id, self.bos_id, self.eos_id) if special is not None)

    @abstractmethod
    def check_codebooks(self, num_codebooks: int) -> None:
        """Raise ConfigError where the pattern is not for codes of so many codebooks."""

    def num_tokens(self, num_frames: int, *, num_codebooks: int) -> int:
        """S of T frames: one for each code of the stream, one for the start and one for the end, where it has them."""
        self.check_codebooks(num_codebooks)
        return self._num_special + self.num_streamed * num_frames

    def apply(self, codes: ArrayT, *, lengths: Lengths | None = None, seed: Seed | None = None) -> ArrayT:  # noqa: ARG002
        """See `Pattern.apply`; gives [S] or [B, S]. Nothing is drawn."""
        codes = checked_codes(codes)
        num_codebooks, num_frames = codes.shape[-2:]
        num_tokens = self.num_tokens(num_frames, num_codebooks=num_codebooks)
        counts = checked_lengths(codes, lengths, num_frames=num_frames)
        codes = codes[..., : self.num_streamed, :]
        if counts is not None:
            codes = where(frames_within(counts, num_frames), codes, 0)
        check_range(codes, codebook_size=self.codebook_size, name="codes hold")
        batch = codes if codes.ndim == 3 else codes[None]
        rows, ends, places = self._places(batch, counts=counts, spare=num_tokens)
        # With lengths one column more, for what stands past the end of its item.
        tokens = filled(codes, (batch.shape[0], num_tokens + (counts is not None)), self.pad_id)
        tokens[rows[:, None, None], places] = as_int64(batch) + self._offsets(codes)
        if self.bos_id is not None:
            tokens[:, 0] = self.bos_id
        if self.eos_id is not None:
            tokens[rows, ends] = self.eos_id
        return contiguous(tokens[:, :num_tokens]) if codes.ndim == 3 else tokens[0]

    def invert(self, tokens: ArrayT, *, lengths: Lengths | None = None) -> ArrayT:
        """See `Pattern.invert`; takes [S] or [B, S]."""
        tokens = as_int64(checked_tokens(tokens, single="tokens"))
        num_frames, rest = divmod(tokens.shape[-1] - self._num_special, self.num_streamed)
        if num_frames < 0 or rest:
            raise ConfigError(
                f"tokens has {tokens.shape[-1]} of them; expected {self.num_streamed} for each frame and "
                f"{self._num_special} for start and end: cut padding and unfinished frames off"
            )
        batch = tokens if tokens.ndim == 2 else tokens[None]
        codes = filled(batch, (batch.shape[0], self.num_streamed, num_frames), 0)
        counts = checked_lengths(codes if tokens.ndim == 2 else codes[0], lengths, num_frames=num_frames)
        rows, _, places = self._places(codes, counts=counts, spare=0)
        found = batch[rows[:, None, None], places]
        codes = found - self._offsets(codes)
        wrong = (codes < 0) | (codes >= self.codebook_size)
        if counts is not None:
            inside = frames_within(counts, num_frames)
            codes, wrong = where(inside, codes, 0), wrong & inside
        if bool(wrong.any()):
            raise ConfigError(
                f"tokens hold {int(found[wrong][0])} in a place of another codebook, or of no code at all; "
                f"each codebook's ids stand in its own places: let a model sample no others, and cut padding off"
            )
        return codes if tokens.ndim == 2 else codes[0]

    @property
    def _num_special(self) -> int:
        return (self.bos_id is not None) + (self.eos_id is not None)

    def _offsets(self, like: ArrayT) -> ArrayT:
        """int64 [K, 1]: the first id of each codebook."""
        return counting(like, self.num_streamed)[:, None] * self.codebook_size

    def _places(self, batch: ArrayT, *, counts: ArrayT | None, spare: int) -> tuple[ArrayT, ArrayT, ArrayT]:
        """Where tokens stand, int64: rows [B], ends in them [B], codes in them [B, K, T] (`spare`: no code's)."""
        num_items, _, num_frames = batch.shape
        known = filled(batch, (num_items,), num_frames) if counts is None else counts
        widths = np.array(self.section_widths)
        lows = np.repeat(np.cumsum(widths) - widths, widths)
        low, width = made_like(batch, lows)[:, None], made_like(batch, np.repeat(widths, widths))[:, None]
        start = int(self.bos_id is not None)
        # All sections before take `low` tokens a frame; within its own a codebook comes once every `width`.
        within = counting(batch, num_frames) * width + (counting(batch, self.num_streamed)[:, None] - low + start)
        places = known[:, None, None] * low + within
        if counts is not None:
            places = where(frames_within(counts, num_frames), places, spare)
        return counting(batch, num_items), known * self.num_streamed + start, places


def _choose_special_ids(pattern: "FlattenPattern | CoarseFirstPattern | ValleArPattern") -> None:
    """Give NEXT_FREE_ID its number, and check all ids."""
    if pattern.codebook_size < 1:
        raise ConfigError(f"codebook_size = {pattern.codebook_size} must be the codec's, 1 or more")
    names = ("pad_id", "bos_id", "eos_id")
    taken = {getattr(pattern, name) for name in names}
    free = (number for number in count(pattern.num_code_ids) if number not in taken)
    for name in names:
        if getattr(pattern, name) == NEXT_FREE_ID:
            object.__setattr__(pattern, name, next(free))  # a frozen record, which is not finished yet
    check_special_ids(pattern.num_code_ids, **{name: getattr(pattern, name) for name in names})


def _check_same(num_codebooks: int, *, given: int) -> None:
    if given != num_codebooks:
        raise ConfigError(
            f"num_codebooks = {num_codebooks} and there are {given} codebooks; the ids of a stream depend on it: make "
            f"the pattern with num_codebooks={given}, or give the first {num_codebooks} codebooks"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlattenPattern(_StreamPattern):
    """All codebooks of a frame, then those of the next: int64 [K · T], and start and end where they are given.

    Raises:
        ConfigError: there are no codebooks, or a special id is inside the range of codes or is given twice.
    """

    num_codebooks: int
    codebook_size: int = 1024
    pad_id: int = NEXT_FREE_ID
    """Of the padding in a batch; K · codebook_size unless given."""
    bos_id: int | None = None
    """In front of each sequence; None: nothing is."""
    eos_id: int | None = None
    """Behind each sequence; None: nothing is."""

    def __post_init__(self) -> None:
        if self.num_codebooks < 1:
            raise ConfigError(f"num_codebooks = {self.num_codebooks} must be 1 or more")
        _choose_special_ids(self)

    @property
    def section_widths(self) -> tuple[int, ...]:
        """One section of all codebooks."""
        return (self.num_codebooks,)

    def check_codebooks(self, num_codebooks: int) -> None:
        """Raise ConfigError where the pattern is not for codes of so many codebooks."""
        _check_same(self.num_codebooks, given=num_codebooks)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoarseFirstPattern(_StreamPattern):
    """The coarse codebooks of all frames, then the fine ones, each frame by frame, as AudioLM has it: int64 [K · T].

    AudioLM trains a model for each half: the tokens below `num_coarse · codebook_size` are the first one's.

    Raises:
        ConfigError: `num_coarse` is not from 1 to `num_codebooks`, or a special id is inside the range of codes or is
            given twice.
    """

    num_codebooks: int
    num_coarse: int
    """The first codebooks, which come first; all of them: the same as flatten."""
    codebook_size: int = 1024
    pad_id: int = NEXT_FREE_ID
    """Of the padding in a batch; K · codebook_size unless given."""
    bos_id: int | None = None
    """In front of each sequence; None: nothing is."""
    eos_id: int | None = None
    """Behind each sequence; None: nothing is."""

    def __post_init__(self) -> None:
        if not 1 <= self.num_coarse <= self.num_codebooks:
            raise ConfigError(
                f"num_coarse = {self.num_coarse} must be from 1 to num_codebooks = {self.num_codebooks}; AudioLM has 4 "
                "of 12"
            )
        _choose_special_ids(self)

    @property
    def section_widths(self) -> tuple[int, ...]:
        """The coarse codebooks, and the fine ones if there are any."""
        num_fine = self.num_codebooks - self.num_coarse
        return (self.num_coarse, num_fine) if num_fine else (self.num_coarse,)

    def check_codebooks(self, num_codebooks: int) -> None:
        """Raise ConfigError where the pattern is not for codes of so many codebooks."""
        _check_same(self.num_codebooks, given=num_codebooks)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValleArPattern(_StreamPattern):
    """Codebook 0 between a start and an end, as VALL-E's autoregressive model has it: int64 [T + 2].

    The other codebooks are not looked at; `ValleNarPattern` has them. Inverted it gives codebook 0, [1, T].

    Raises:
        ConfigError: a special id is inside the range of codes or is given twice.
    """

    codebook_size: int = 1024
    pad_id: int = NEXT_FREE_ID
    """Of the padding in a batch; codebook_size unless given."""
    bos_id: int | None = NEXT_FREE_ID
    """In front of each sequence; None: nothing is, the text before it is the start."""
    eos_id: int | None = NEXT_FREE_ID
    """Behind each sequence; None: nothing is."""

    def __post_init__(self) -> None:
        _choose_special_ids(self)

    @property
    def section_widths(self) -> tuple[int, ...]:
        """Codebook 0 alone."""
        return (1,)

    def check_codebooks(self, num_codebooks: int) -> None:
        """Raise ConfigError where there is no codebook."""
        if num_codebooks < 1:
            raise ConfigError(f"there are {num_codebooks} codebooks; expected 1 or more")
