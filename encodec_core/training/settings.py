"""What decides a training run besides its audio: the stages, the losses and their weights, the quantizer's rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from encodec_core.training.quantizer import QuantizerSettings
from encodec_core.training.schedule import learning_rate_at

__all__ = ["LOSSES", "DiscriminatorSettings", "Stage", "TrainingSettings"]

LOSSES = ("waveform_l1", "relative_error", "mel", "adversarial", "feature_matching")
"""Names that a stage may weigh; the last two need the discriminator."""
ADVERSARIAL_LOSSES = frozenset({"adversarial", "feature_matching"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscriminatorSettings:
    """The multi-scale STFT discriminator; defaults are the paper's at 24 kHz."""

    num_filters: int = 32
    """Channels of its convolutions."""
    window_lengths: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """STFT windows in samples, a network each; the hop is a quarter. The paper doubles them at 48 kHz."""
    learning_rate: float = 3e-4
    update_probability: float = 2 / 3
    """Share of updates in which it learns too: 2/3 at 24 kHz, 1/2 at 48 kHz."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of training under one set of rules; published recipes have one."""

    name: str
    """For logs."""
    num_updates: int
    losses: Mapping[str, float]
    """Weights of the balanced losses, of `LOSSES`; those left out are not computed."""
    learning_rate: float = 3e-4
    """Of Adam, for encoder and decoder."""
    final_learning_rate: float | None = None
    """Reached along a cosine by the end of the stage; None: constant."""
    warmup_updates: int = 0
    """Updates at the start over which the rate grows from nothing."""
    quantize: bool = True
    """False: an autoencoder without its bottleneck, to warm up."""
    codebook_crops: int = 0
    """Crops whose latents the codebooks are fitted to by k-means before the stage; 0: codebooks stay as they are."""

    def __post_init__(self) -> None:
        _check(self.num_updates > 0, f"stage {self.name}: num_updates = {self.num_updates}; expected at least 1")
        _check(bool(self.losses), f"stage {self.name}: losses is empty; weigh at least one of {', '.join(LOSSES)}")
        for name, weight in self.losses.items():
            _check(name in LOSSES, f"stage {self.name}: there is no loss {name!r}; choose from {', '.join(LOSSES)}")
            _check(weight > 0, f"stage {self.name}: losses.{name} = {weight}; expected above 0, or leave it out")
        _check(self.learning_rate > 0, f"stage {self.name}: learning_rate = {self.learning_rate}; expected above 0")

    @property
    def needs_discriminator(self) -> bool:
        """Whether a loss of the stage comes from the discriminator."""
        return not ADVERSARIAL_LOSSES.isdisjoint(self.losses)

    def learning_rate_at(self, update: int) -> float:
        """Return the learning rate of an update, counted from the stage's first, 0."""
        return learning_rate_at(
            update,
            learning_rate=self.learning_rate,
            final_learning_rate=self.final_learning_rate,
            warmup_updates=self.warmup_updates,
            num_updates=self.num_updates,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """A whole recipe but for the audio."""

    stages: tuple[Stage, ...]
    adam_betas: tuple[float, float] = (0.5, 0.9)
    """Of both optimizers (paper section 4.4)."""
    unit_variance_crops: int = 0
    """Crops that the random weights are first scaled on, see `scale_to_unit_variance`; 0: weights stay as drawn."""
    commitment_weight: float = 1.0
    """Of the commitment loss, which stays outside the balancer (paper section 3.4)."""
    balancer_decay: float = 0.999
    """Of the moving averages of gradient norms."""
    quantizer: QuantizerSettings = field(default_factory=QuantizerSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    seed: int = 0
    """Of every draw: weights, crops, bandwidths, replaced entries."""

    def __post_init__(self) -> None:
        _check(bool(self.stages), "stages is empty; give at least one")

    @property
    def num_updates(self) -> int:
        """Of all stages."""
        return sum(stage.num_updates for stage in self.stages)

    def locate(self, update: int) -> tuple[Stage, int]:
        """Return the stage of an update, counted from 0, and the update's place in it.

        Raises:
            ValueError: training ends before that update.
        """
        place = update
        for stage in self.stages:
            if place < stage.num_updates:
                return stage, place
            place -= stage.num_updates
        raise ValueError(f"update {update} is beyond the recipe's {self.num_updates}; add updates to its last stage")


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
