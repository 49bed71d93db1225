"""The file of a language model's training, one frozen pydantic tree."""

from typing import Literal

from pydantic import Field

from encodec_core.training import LanguageModelSettings
from tokenizer_jobs.codec_training.training_file import TrainingFile
from tokenizer_jobs.yaml_files import Frozen

__all__ = ["CodesInput", "LanguageModelJob", "LanguageModelRuntime", "LanguageModelShape"]


class CodesInput(Frozen):
    """What is read."""

    output: str = Field(min_length=1)
    """Of `run`: a local folder or an fsspec URL. Its newest snapshot is copied when training begins."""
    held_out_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the recordings that are never trained on, chosen by the hash of their codes; copies count once."""
    max_hours: float = Field(default=1000, gt=0)
    """Of larger outputs whole shards are taken, in the order of their hashes, until they hold as much."""
    crop_seconds: float = Field(default=5.0, gt=0)
    """Length of a crop; recordings (windows, for a codec that has them) that are shorter are taken whole."""
    batch_size: int = Field(default=8, gt=0)
    """Crops in one update."""


class LanguageModelShape(Frozen):
    """Size of the model; the defaults are the paper's."""

    dim: int = Field(default=200, gt=0)
    """Channels, even, a multiple of `num_heads`."""
    num_heads: int = Field(default=8, gt=0)
    """Of each attention layer."""
    num_layers: int = Field(default=5, gt=0)
    feed_forward_dim: int = Field(default=800, gt=0)
    """Hidden channels of the feed-forward networks."""
    context_seconds: float = Field(default=3.5, gt=0)
    """How far back an attention layer sees."""
    saved_as: Literal["float32", "float16"] = "float32"
    """Type of the numbers in lm/model.safetensors; float16 halves the file, and rounds the weights."""


class LanguageModelRuntime(Frozen):
    """Where and how often; it does not change what is learned."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU, else the CPU."""
    threads: int = Field(default=1, gt=0)
    """Of torch."""
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """Time between checkpoints."""
    log_updates: int = Field(default=50, gt=0)
    """Updates between two points of a curve, each the mean over them."""
    evaluation_updates: int = Field(default=1000, gt=0)
    """Updates between evaluations on what was held out."""
    evaluation_recordings: int = Field(default=32, gt=0)
    """Held-out recordings that are evaluated."""


class LanguageModelJob(TrainingFile):
    """One training of a language model on the codes of an output."""

    codes: CodesInput
    model: LanguageModelShape = LanguageModelShape()
    training: LanguageModelSettings
    runtime: LanguageModelRuntime = LanguageModelRuntime()
