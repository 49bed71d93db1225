"""What a pattern is: how the codes of a recording are laid out as the tokens of a language model, and back.

Letters in shapes: B batch, K codebooks, T frames, S tokens of a sequence.

Each family of models shifts targets in its own way; `supervise` does it:

    parallel, delay     inputs tokens[..., :-1], targets tokens[..., 1:], each [K, S - 1]: a step predicts all codebooks
                        of the next. Column 0 is the start, so that every code is predicted once.
    flatten, coarse     the same along the one stream [S]. Without bos_id the first code is given, not predicted: put
    first, VALL-E AR    the prompt (text, speaker) before it, or give a bos_id.
    VALL-E NAR          nothing is shifted: the codebooks below the level are the inputs, the level's is the target,
                        all frames at once.

Weights are 1 where a target is a code or the end of a sequence, and 0 for holes, padding and starts; special ids lie
outside the codes, so that they are found by value, in padded and packed batches too.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, Protocol, runtime_checkable

import numpy as np

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.patterns.arrays import ArrayT, Lengths, as_float32

__all__ = ["NextTokenPattern", "Pattern", "Seed", "Supervision", "check_special_ids"]

Seed = int | np.random.Generator
"""Of what a pattern draws."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Supervision(Generic[ArrayT]):
    """What a step of training needs: a model reads the inputs, its outputs are compared with the targets."""

    inputs: ArrayT
    """int64 tokens that the model reads."""
    targets: ArrayT
    """int64 tokens that it is to predict."""
    loss_weights: ArrayT
    """float32 of the targets' shape: 1 where a target counts, else 0."""

    def __repr__(self) -> str:
        return f"Supervision(inputs={list(self.inputs.shape)}, targets={list(self.targets.shape)})"


@runtime_checkable
class Pattern(Protocol):
    """A layout of codes as tokens: a pure function with an inverse, for numpy and torch alike.

    What comes in as a numpy array goes out as one; a torch tensor stays on its device. Tokens are int64.
    """

    @property
    def pad_id(self) -> int:
        """Of holes, and of what pads shorter items of a batch on the right; never a code."""

    @property
    def vocabulary_size(self) -> int:
        """Rows of an embedding that holds every token: the highest id + 1; of each codebook, where they have rows."""

    def num_tokens(self, num_frames: int, *, num_codebooks: int) -> int:
        """Length of the last axis of the tokens of so many frames, all else being equal."""

    def apply(self, codes: ArrayT, *, lengths: Lengths | None = None, seed: Seed | None = None) -> ArrayT:
        """Lay out codes.

        Args:
            codes: integers [K, T] or [B, K, T], each below the codebook size.
            lengths: [B] frames of each item of a batch; what `codes` holds past them does not matter. None: T.
                Each item's tokens are those that it has alone, padded on the right with `pad_id`.
            seed: for patterns that draw (VALL-E NAR alone); the others do not look at it.

        Returns:
            int64 tokens.

        Raises:
            ConfigError: codes are out of range, or shapes, types or lengths are other than stated.
        """

    def invert(self, tokens: ArrayT, *, lengths: Lengths | None = None) -> ArrayT:
        """Take codes out of tokens: `invert(apply(codes))` are the codes.

        What the tokens hold in holes and for starts and ends is not looked at: a model may have put anything there.

        Args:
            tokens: integers as `apply` gives them.
            lengths: as given to `apply`; the codes past them are 0.

        Returns:
            int64 [K, T] or [B, K, T]; of VALL-E's patterns the one codebook that they hold, [1, T] or [B, 1, T].

        Raises:
            ConfigError: a special token stands where a code is expected, or the shape is none that `apply` gives.
        """

    def mask(self, tokens: ArrayT) -> ArrayT:
        """bool of the tokens' shape: whether a token is a code."""

    def loss_weights(self, tokens: ArrayT) -> ArrayT:
        """float32 of the tokens' shape: 1 where a token is a target that counts, else 0."""

    def supervise(self, tokens: ArrayT) -> Supervision[ArrayT]:
        """Inputs, targets and weights of a step of training, from the tokens of one item or of a batch."""


class NextTokenPattern(ABC):
    """The training half of patterns whose models predict each token from those before.

    A base class, because five patterns have these three methods in common to the letter.
    """

    __slots__ = ()

    eos_id: int | None

    @property
    @abstractmethod
    def num_code_ids(self) -> int:
        """Codes are the ids below this."""

    def mask(self, tokens: ArrayT) -> ArrayT:
        """See `Pattern.mask`."""
        return (tokens >= 0) & (tokens < self.num_code_ids)

    def loss_weights(self, tokens: ArrayT) -> ArrayT:
        """See `Pattern.loss_weights`."""
        counted = self.mask(tokens)
        return as_float32(counted if self.eos_id is None else counted | (tokens == self.eos_id))

    def supervise(self, tokens: ArrayT) -> Supervision[ArrayT]:
        """See `Pattern.supervise`."""
        targets = tokens[..., 1:]
        return Supervision(inputs=tokens[..., :-1], targets=targets, loss_weights=self.loss_weights(targets))


def check_special_ids(num_code_ids: int, **ids: int | None) -> None:
    """Make sure that special ids lie outside the codes and differ.

    Raises:
        ConfigError: one does not, or there are no codes at all.
    """
    if num_code_ids < 1:
        raise ConfigError(f"codebook_size leaves {num_code_ids} ids for codes; give the codec's, 1 or more")
    seen = dict[int, str]()
    for name, value in ids.items():
        if value is None:
            continue
        if value < num_code_ids:
            raise ConfigError(
                f"{name} = {value} lies inside the range of codes, 0 to {num_code_ids - 1}, and would be taken for a "
                f"code; choose {num_code_ids} or above, or give the codec's own codebook_size"
            )
        if value in seen:
            raise ConfigError(f"{seen[value]} and {name} are both {value}, and could not be told apart; choose two ids")
        seen[value] = name
