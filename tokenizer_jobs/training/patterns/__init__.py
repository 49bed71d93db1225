"""Patterns: how the codes of a recording become the tokens of a language model, family by family, and back."""

from tokenizer_jobs.training.patterns.delays import DelayPattern, ParallelPattern
from tokenizer_jobs.training.patterns.pattern import Pattern, Supervision
from tokenizer_jobs.training.patterns.streams import NEXT_FREE_ID, CoarseFirstPattern, FlattenPattern, ValleArPattern
from tokenizer_jobs.training.patterns.valle import ValleNarPattern

__all__ = [
    "NEXT_FREE_ID",
    "CoarseFirstPattern",
    "DelayPattern",
    "FlattenPattern",
    "ParallelPattern",
    "Pattern",
    "Supervision",
    "ValleArPattern",
    "ValleNarPattern",
]
