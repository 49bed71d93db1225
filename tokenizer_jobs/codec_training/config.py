"""The file of a training run, one frozen pydantic tree."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from encodec_core import EncodecConfig
from encodec_core.training.settings import TrainingSettings
from tokenizer_jobs.codec_training.training_file import TrainingFile
from tokenizer_jobs.config import SourceConfig
from tokenizer_jobs.yaml_files import Frozen

__all__ = ["AudioSource", "TrainingAudio", "TrainingJob", "TrainingRuntime"]


class AudioSource(Frozen):
    """Audio of one kind."""

    source: SourceConfig
    """As `selection.source` of a job file."""
    weight: float = Field(default=1.0, gt=0)
    """Chance of a crop to come from here, relative to the other sources."""
    held_out_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the recordings that are never trained on, chosen by the hash of their bytes, so that copies of a
    recording fall on one side."""


class TrainingAudio(Frozen):
    """What is heard."""

    sources: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], AudioSource] = Field(min_length=1)
    """By a name of your own."""
    crop_seconds: float = Field(default=1.0, gt=0)
    """Length of a crop; for a codec with windows, at most one window."""
    batch_size: int = Field(default=8, gt=0)
    """Crops in one update of one process."""
    gain_db: tuple[float, float] = (-10.0, 6.0)
    """Bounds of the random gain; crops that clip are drawn again."""
    min_rms_db: float = Field(default=-60.0, lt=0)
    """Quieter crops are drawn again."""
    mix_probabilities: tuple[float, ...] = (0.64, 0.24, 0.12)
    """Chances of one recording alone, the sum of two, of three; they sum to 1."""

    @model_validator(mode="after")
    def _probabilities_sum_to_one(self) -> Self:
        if abs(sum(self.mix_probabilities) - 1) > 1e-6 or min(self.mix_probabilities, default=-1) < 0:
            raise ValueError(f"mix_probabilities = {self.mix_probabilities} must be chances that sum to 1")
        return self


class TrainingRuntime(Frozen):
    """Where and how often; it does not change what is learned."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: every GPU, else the CPU."""
    num_processes: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    """Processes that train together; each adds a batch to every update. auto: one for each GPU, else one."""
    threads: int = Field(default=1, gt=0)
    """Of torch, in each process."""
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    """Time between checkpoints."""
    log_updates: int = Field(default=50, gt=0)
    """Updates between two points of a curve, each the mean over them."""
    evaluation_updates: int = Field(default=5000, gt=0)
    """Updates between evaluations on what was held out."""
    evaluation_recordings: int = Field(default=8, gt=0)
    """Held-out recordings of each source that are evaluated while training runs, 10 s of each at most."""


class TrainingJob(TrainingFile):
    """One training of a codec."""

    model: dict[str, Any] = Field(default_factory=dict)
    """Keys of `EncodecConfig`; those left out are the 24 kHz model's."""
    start_from: str | None = None
    """A codec to go on from, as `recipe.codec.model` of a job file; null: random weights."""
    audio: TrainingAudio
    training: TrainingSettings
    runtime: TrainingRuntime = TrainingRuntime()

    @field_validator("model")
    @classmethod
    def _has_known_keys(cls, value: dict[str, Any]) -> dict[str, Any]:
        known = EncodecConfig().to_dict()
        unknown = [key for key in value if key not in known]
        if unknown:
            raise ValueError(f"no key of EncodecConfig: {', '.join(unknown)}; choose from {', '.join(sorted(known))}")
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.start_from is not None and self.model:
            raise ValueError("model and start_from are both given; a codec that is gone on from brings its own layout")
        return self
