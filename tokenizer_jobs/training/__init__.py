"""From codes to the training of a language model: layouts of codes as tokens, and readers of an output."""

from tokenizer_jobs.training.collation import Collation
from tokenizer_jobs.training.dataset import TokenDataset
from tokenizer_jobs.training.mixing import MixedTokenDataset
from tokenizer_jobs.training.patterns import (
    CoarseFirstPattern,
    DelayPattern,
    FlattenPattern,
    ParallelPattern,
    Pattern,
    Supervision,
    ValleArPattern,
    ValleNarPattern,
)
from tokenizer_jobs.training.table import TokenTable
from tokenizer_jobs.training.words import crop_words, text_stream

__all__ = [
    "CoarseFirstPattern",
    "Collation",
    "DelayPattern",
    "FlattenPattern",
    "MixedTokenDataset",
    "ParallelPattern",
    "Pattern",
    "Supervision",
    "TokenDataset",
    "TokenTable",
    "ValleArPattern",
    "ValleNarPattern",
    "crop_words",
    "text_stream",
]
