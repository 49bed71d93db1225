"""How many bits a language model makes of codes: what an ideal entropy coder would write, to a thousandth.

Letters in shapes: K codebooks, T frames, E entries of a codebook.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.entropy import LanguageModel, previous_codes

__all__ = ["CodeRates", "code_rates"]

BLOCK_FRAMES = 512
"""Frames predicted at once; the state carries over, so that the number changes memory and nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeRates:
    """Averages over sequences."""

    num_sequences: int
    num_frames: int
    bits_per_code: Mapping[int, tuple[float, ...]]
    """By codebooks in use: the mean of each codebook, coarse first."""

    def kbps(self, n_q: int, *, frame_rate: float) -> float:
        """Return what the codes of `n_q` codebooks take, in kilobits per second."""
        return sum(self.bits_per_code[n_q]) * frame_rate / 1000


@torch.no_grad()
def code_rates(
    model: LanguageModel, sequences: Iterable[Tensor], *, n_q_choices: Collection[int], device: str = "cpu"
) -> CodeRates:
    """Predict every frame of some sequences as a decoder would: from the sequence's start, within the model's context.

    Args:
        model: is in evaluation mode afterwards.
        sequences: integers `[K, T]` each, T > 0.
        n_q_choices: numbers of codebooks to use, each on its own; K is at least the highest.
        device: of torch; the model moves there.

    Raises:
        ValueError: there is no sequence.
    """
    model = model.to(device).eval()
    totals = {n_q: torch.zeros(n_q, dtype=torch.float64) for n_q in sorted(set(n_q_choices))}
    num_sequences = num_frames = 0
    for codes in sequences:
        num_sequences, num_frames = num_sequences + 1, num_frames + codes.shape[-1]
        for n_q, total in totals.items():
            total += _bits(model, codes[None, :n_q].long().to(device))
    if num_frames == 0:
        raise ValueError("no sequence to predict; give at least one")
    return CodeRates(
        num_sequences=num_sequences,
        num_frames=num_frames,
        bits_per_code={n_q: tuple((total / num_frames).tolist()) for n_q, total in totals.items()},
    )


def _bits(model: LanguageModel, codes: Tensor) -> Tensor:
    """Return the bits of each codebook in a sequence `[1, K, T]`: float64 `[K]`."""
    bits, state = torch.zeros(codes.shape[1], dtype=torch.float64), None
    blocks = (torch.split(frames, BLOCK_FRAMES, dim=-1) for frames in (previous_codes(codes), codes))
    for previous, wanted in zip(*blocks, strict=True):
        logits, state = model(previous, state)
        nats = functional.cross_entropy(logits, wanted, reduction="none")
        bits += nats[0].double().sum(-1).cpu() / math.log(2)
    return bits
