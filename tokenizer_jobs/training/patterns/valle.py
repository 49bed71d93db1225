"""VALL-E's non-autoregressive pattern: from the codebooks below a level, all frames of the level's at once.

Letters in shapes: B batch, K codebooks, T frames.

Level 2 of four codebooks a, b, c, d with three frames; c is the target, a and b are what the model reads, P is pad_id:

    a0 a1 a2
    b0 b1 b2
    c0 c1 c2
    P  P  P
"""

from dataclasses import dataclass

import numpy as np

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.patterns.arrays import (
    ArrayT,
    Lengths,
    as_float32,
    as_int64,
    check_range,
    checked_codes,
    checked_lengths,
    checked_tokens,
    counting,
    frames_within,
    made_like,
    total,
    where,
)
from tokenizer_jobs.training.patterns.pattern import Seed, Supervision, check_special_ids

__all__ = ["ValleNarPattern"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ValleNarPattern:
    """The codebooks below a level and the level's own: int64 [K, T], rows above the level `pad_id`.

    Inverted it gives the level's codes, [1, T]. An acoustic prompt, of which VALL-E reads all codebooks, is put before
    the inputs by whoever builds the model's input.

    Raises:
        ConfigError: the level is 0 or below (codebook 0 is `ValleArPattern`'s), or `pad_id` is inside the range of
            codes.
    """

    level: int | None = None
    """Codebook that is the target, 1 to K - 1; None: drawn by `apply` for each item of a batch, each as likely."""
    pad_id: int = 1024
    """Of the rows above the level and the padding."""
    codebook_size: int | None = None
    """None: `pad_id`, the codes are all ids below it."""

    def __post_init__(self) -> None:
        if self.level is not None and self.level < 1:
            raise ConfigError(f"level = {self.level} must be 1 or above; codebook 0 is ValleArPattern's")
        check_special_ids(self.num_code_ids, pad_id=self.pad_id)

    @property
    def num_code_ids(self) -> int:
        """Codes are the ids below this."""
        return self.pad_id if self.codebook_size is None else self.codebook_size

    @property
    def vocabulary_size(self) -> int:
        """Of each codebook: the highest id + 1."""
        return self.pad_id + 1

    def num_tokens(self, num_frames: int, *, num_codebooks: int) -> int:
        """Columns of T frames: T."""
        self._check_codebooks(num_codebooks)
        return num_frames

    def apply(self, codes: ArrayT, *, lengths: Lengths | None = None, seed: Seed | None = None) -> ArrayT:
        """See `Pattern.apply`; gives [K, T] or [B, K, T].

        Args:
            codes: of two codebooks or more.
            lengths: as there.
            seed: of the levels, where the pattern does not give one; numpy and torch draw the same.

        Raises:
            ConfigError: also when there is neither a level nor a seed, or no codebook at the level.
        """
        codes = checked_codes(codes)
        *batch, num_codebooks, num_frames = codes.shape
        self._check_codebooks(num_codebooks)
        counts = checked_lengths(codes, lengths, num_frames=num_frames)
        kept = counting(codes, num_codebooks)[:, None] <= self._drawn(codes, num=batch[0] if batch else 1, seed=seed)
        kept = kept if batch else kept[0]
        if counts is not None:
            kept = kept & frames_within(counts, num_frames)
            codes = where(frames_within(counts, num_frames), codes, 0)
        check_range(codes, codebook_size=self.num_code_ids, name="codes hold")
        return where(kept, as_int64(codes), self.pad_id)

    def levels(self, tokens: ArrayT) -> ArrayT:
        """int64 [] or [B]: the level of each item; -1 of one without frames."""
        num_codes = total(self.mask(tokens), axis=-1)  # of each row
        return total(num_codes > 0, axis=-1) - 1

    def invert(self, tokens: ArrayT, *, lengths: Lengths | None = None) -> ArrayT:
        """See `Pattern.invert`; gives the codes of the level alone, [1, T] or [B, 1, T]."""
        tokens = as_int64(checked_tokens(tokens, single="codebooks, frames"))
        *_, num_frames = tokens.shape
        codes = total(where(self._at_level(tokens), tokens, 0), axis=-2)[..., None, :]
        counts = checked_lengths(codes, lengths, num_frames=num_frames)
        if counts is not None:
            codes = where(frames_within(counts, num_frames), codes, 0)
        check_range(codes, codebook_size=self.num_code_ids, name="tokens hold")
        return codes

    def mask(self, tokens: ArrayT) -> ArrayT:
        """See `Pattern.mask`; the inputs are codes too."""
        return (tokens >= 0) & (tokens < self.num_code_ids)

    def loss_weights(self, tokens: ArrayT) -> ArrayT:
        """See `Pattern.loss_weights`: 1 in the level's row alone."""
        return as_float32(self.mask(tokens) & self._at_level(tokens))

    def supervise(self, tokens: ArrayT) -> Supervision[ArrayT]:
        """See `Pattern.supervise`: inputs [.., K, T] without the level's row, targets and weights [.., T]."""
        at_level = self._at_level(tokens)
        targets = total(where(at_level, tokens, 0), axis=-2)
        return Supervision(
            inputs=where(~at_level, tokens, self.pad_id), targets=targets, loss_weights=as_float32(self.mask(targets))
        )

    def _check_codebooks(self, num_codebooks: int) -> None:
        if num_codebooks < 2:
            raise ConfigError(f"there is {num_codebooks} codebook; a level needs one below it: give 2 or more")
        if self.level is not None and self.level >= num_codebooks:
            raise ConfigError(
                f"level = {self.level} and there are {num_codebooks} codebooks; choose 1 to {num_codebooks - 1}"
            )

    def _drawn(self, codes: ArrayT, *, num: int, seed: Seed | None) -> ArrayT:
        """int64 [num, 1, 1]: levels."""
        if self.level is None and seed is None:
            raise ConfigError(
                "neither a level nor a seed is given; give `ValleNarPattern(level=…)`, or `apply(codes, seed=…)` with "
                "another seed for each item and epoch"
            )
        if self.level is not None:
            return made_like(codes, [self.level] * num)[:, None, None]
        levels = np.random.default_rng(seed).integers(1, codes.shape[-2], size=num)
        return made_like(codes, levels)[:, None, None]

    def _at_level(self, tokens: ArrayT) -> ArrayT:
        """bool [K, 1] or [B, K, 1]: the level's row; the first one of an item without frames."""
        levels = self.levels(tokens)
        level = where(levels >= 0, levels, 0)
        at_level: ArrayT = counting(tokens, tokens.shape[-2])[:, None] == level[..., None, None]
        return at_level
