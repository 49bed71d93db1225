"""The file of a training run, one frozen pydantic tree."""

from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from encodec_core import EncodecConfig
from encodec_core.training.settings import TrainingSettings
from tokenizer_jobs.codec_training.training_file import TrainingFile
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.yaml_files import Frozen

__all__ = ["AudioSource", "TrainingAudio", "TrainingJob", "TrainingRuntime"]

MAX_GAIN_DB = 120
"""Beyond it a gain is a slip of the pen, and its power of ten no longer a number."""


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
    """Crops in one update, shared evenly between the processes."""
    gain_db: tuple[float, float] = (-10.0, 6.0)
    """Bounds of the random gain, the lower one first; crops that clip are drawn again."""
    min_rms_db: float = Field(default=-60.0, lt=0)
    """Quieter crops are drawn again."""
    mix_probabilities: tuple[float, ...] = (0.64, 0.24, 0.12)
    """Chances of one recording alone, the sum of two, of three; they sum to 1."""

    @model_validator(mode="after")
    def _probabilities_sum_to_one(self) -> Self:
        if abs(sum(self.mix_probabilities) - 1) > 1e-6 or min(self.mix_probabilities, default=-1) < 0:
            raise ValueError(f"mix_probabilities = {self.mix_probabilities} must be chances that sum to 1")
        return self

    @field_validator("gain_db")
    @classmethod
    def _bounds_are_in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        lowest, highest = value
        if not -MAX_GAIN_DB <= lowest <= highest <= MAX_GAIN_DB:
            raise ValueError(
                f"expected the lower bound, then the upper one, each within {MAX_GAIN_DB} dB of 0, such as [-10, 6]"
            )
        return value


class TrainingRuntime(Frozen):
    """Where and how often; it does not change what is learned."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: every GPU, else the CPU."""
    num_processes: Literal["auto"] | Annotated[int, Field(gt=0)] = "auto"
    """Processes that share the crops of every update. auto: one for each GPU, else one."""
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

    def changes_since(self, earlier: Self, *, num_updates: int) -> list[str]:
        """As for every training; but what has not begun may change.

        That is everything before the first update, and later stages. The last stage that has begun may end later, or
        sooner, unless its learning rate falls towards its end: it would have fallen otherwise.
        """
        if num_updates == 0:
            return []
        changed = super().changes_since(earlier, num_updates=num_updates)
        goes_on = _goes_on(self.training, earlier.training, num_updates=num_updates)
        return [key for key in changed if key != "training" or not goes_on]


def _goes_on(settings: TrainingSettings, earlier: TrainingSettings, *, num_updates: int) -> bool:
    """Whether two recipes are one in their first updates."""
    if replace(settings, stages=earlier.stages) != earlier:
        return False
    left = num_updates
    for number, begun in enumerate(earlier.stages):
        if left <= 0:
            break
        if number >= len(settings.stages):
            return False
        stage = settings.stages[number]
        may_differ_in_length = begun.final_learning_rate is None and left <= min(begun.num_updates, stage.num_updates)
        if stage != begun and not (may_differ_in_length and replace(stage, num_updates=begun.num_updates) == begun):
            return False
        left -= begun.num_updates
    return True
