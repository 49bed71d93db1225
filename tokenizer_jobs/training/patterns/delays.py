"""Patterns with a row for each codebook: parallel, delay (MusicGen) and delays of one's own (Moshi).

Letters in shapes: B batch, K codebooks, T frames, S tokens of a sequence.

Delays 0, 1, 2 of three codebooks a, b, c with four frames; P is pad_id, column 0 the start:

    P a0 a1 a2 a3 P  P
    P P  b0 b1 b2 b3 P
    P P  P  c0 c1 c2 c3

and with an eos_id, E, each codebook ends for itself:

    P a0 a1 a2 a3 E  P  P
    P P  b0 b1 b2 b3 E  P
    P P  P  c0 c1 c2 c3 E
"""

from abc import abstractmethod
from dataclasses import dataclass

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.patterns.arrays import (
    ArrayT,
    Lengths,
    as_int64,
    check_range,
    checked_codes,
    checked_lengths,
    checked_tokens,
    counting,
    filled,
    frames_within,
    where,
)
from tokenizer_jobs.training.patterns.pattern import NextTokenPattern, Seed, check_special_ids

__all__ = ["DelayPattern", "ParallelPattern"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowsPattern(NextTokenPattern):
    """Rows that begin after a delay each."""

    pad_id: int = 1024
    """Of the start, the holes and the padding."""
    codebook_size: int | None = None
    """None: `pad_id`, the codes are all ids below it."""
    eos_id: int | None = None
    """After the last code of each codebook; None: sequences have no end of their own."""

    def __post_init__(self) -> None:
        check_special_ids(self.num_code_ids, pad_id=self.pad_id, eos_id=self.eos_id)

    @abstractmethod
    def delays_of(self, num_codebooks: int) -> tuple[int, ...]:
        """Steps by which each codebook is late; codes of frame t are in column t + 1 + delay."""

    @property
    def num_code_ids(self) -> int:
        """Codes are the ids below this."""
        return self.pad_id if self.codebook_size is None else self.codebook_size

    @property
    def vocabulary_size(self) -> int:
        """Of each codebook: the highest id + 1."""
        return 1 + max(self.pad_id, -1 if self.eos_id is None else self.eos_id)

    def num_tokens(self, num_frames: int, *, num_codebooks: int) -> int:
        """S of T frames: T + 1 + the longest delay, and one more with an `eos_id`."""
        return num_frames + 1 + max(self.delays_of(num_codebooks)) + (self.eos_id is not None)

    def apply(self, codes: ArrayT, *, lengths: Lengths | None = None, seed: Seed | None = None) -> ArrayT:  # noqa: ARG002 (nothing is drawn)
        """See `Pattern.apply`; gives [K, S] or [B, K, S]."""
        codes = checked_codes(codes)
        *batch, num_codebooks, num_frames = codes.shape
        counts = checked_lengths(codes, lengths, num_frames=num_frames)
        if counts is not None:
            codes = where(frames_within(counts, num_frames), codes, 0)
        check_range(codes, codebook_size=self.num_code_ids, name="codes hold")
        if counts is not None:
            codes = where(frames_within(counts, num_frames), as_int64(codes), self.pad_id)
        tokens = filled(
            codes, (*batch, num_codebooks, self.num_tokens(num_frames, num_codebooks=num_codebooks)), self.pad_id
        )
        for codebook, delay in enumerate(self.delays_of(num_codebooks)):
            tokens[..., codebook, delay + 1 : delay + 1 + num_frames] = codes[..., codebook, :]
            if self.eos_id is not None and counts is None:
                tokens[..., codebook, delay + 1 + num_frames] = self.eos_id
            elif self.eos_id is not None and counts is not None:
                tokens[counting(counts, *batch), codebook, counts + (delay + 1)] = self.eos_id
        return tokens

    def invert(self, tokens: ArrayT, *, lengths: Lengths | None = None) -> ArrayT:
        """See `Pattern.invert`; takes [K, S] or [B, K, S]."""
        tokens = checked_tokens(tokens, single="codebooks, tokens")
        *batch, num_codebooks, num_tokens = tokens.shape
        fewest = self.num_tokens(0, num_codebooks=num_codebooks)
        num_frames = num_tokens - fewest
        if num_frames < 0:
            raise ConfigError(
                f"tokens has {num_tokens} columns; {num_codebooks} codebooks under {self} have {fewest} or more, start "
                "and holes included: give them as `apply` does"
            )
        codes = filled(tokens, (*batch, num_codebooks, num_frames), 0)
        for codebook, delay in enumerate(self.delays_of(num_codebooks)):
            codes[..., codebook, :] = tokens[..., codebook, delay + 1 : delay + 1 + num_frames]
        counts = checked_lengths(codes, lengths, num_frames=num_frames)
        if counts is not None:
            codes = where(frames_within(counts, num_frames), codes, 0)
        check_range(codes, codebook_size=self.num_code_ids, name="tokens hold")
        return codes


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayPattern(_RowsPattern):
    """Each codebook later than the one before, as MusicGen has it: int64 [K, T + K].

    Codebook k is shifted by k + 1; column 0 and the holes are `pad_id`, as transformers' MusicGen gives them to its
    decoder. Delays of one's own: `DelayPattern(delays=(0, 1, 1, 1, 1, 1, 1, 1))` is Moshi's (whose own code cuts the
    last frames off, as many as the longest delay; here none is lost), `delays=(0, 0, 1, 1, …)` stereo MusicGen's.

    Raises:
        ConfigError: a special id is inside the range of codes, or a delay is negative.
    """

    delays: tuple[int, ...] | None = None
    """Steps by which each codebook is late, one for each of the codes' codebooks; None: k for codebook k."""

    def __post_init__(self) -> None:
        _RowsPattern.__post_init__(self)
        if self.delays is not None and (not self.delays or min(self.delays) < 0):
            raise ConfigError(f"delays = {self.delays} must be one whole number for each codebook, 0 or above")

    def delays_of(self, num_codebooks: int) -> tuple[int, ...]:
        """Steps by which each codebook is late.

        Raises:
            ConfigError: `delays` is given for another number of codebooks.
        """
        if self.delays is None:
            return tuple(range(num_codebooks))
        if len(self.delays) != num_codebooks:
            raise ConfigError(
                f"delays = {self.delays} is for {len(self.delays)} codebooks, there are {num_codebooks}; give one "
                "delay for each"
            )
        return self.delays


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelPattern(_RowsPattern):
    """All codebooks of a frame at one step: int64 [K, T + 1], column 0 the start.

    Raises:
        ConfigError: a special id is inside the range of codes.
    """

    def delays_of(self, num_codebooks: int) -> tuple[int, ...]:
        """None is late."""
        return (0,) * num_codebooks
