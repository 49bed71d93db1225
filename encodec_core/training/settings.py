"""What decides a training run besides its audio: the stages, the losses and their weights, the quantizer's rules.

Every record refuses values that mean nothing by themselves; `check_recipe` refuses what does not fit together.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from encodec_core.config import EncodecConfig
from encodec_core.training.quantizer import QuantizerSettings
from encodec_core.training.schedule import learning_rate_at

__all__ = ["LOSSES", "DiscriminatorSettings", "Stage", "TrainingSettings", "check_recipe"]

LOSSES = ("waveform_l1", "relative_error", "mel", "adversarial", "feature_matching")
"""Names that a stage may weigh; the last two need the discriminator."""
ADVERSARIAL_LOSSES = frozenset({"adversarial", "feature_matching"})
MAX_SEED = 2**63 - 1


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

    def __post_init__(self) -> None:
        _check(self.num_filters > 0, f"num_filters = {self.num_filters}; expected at least 1")
        _check(bool(self.window_lengths), "window_lengths is empty; give at least one, such as 1024")
        for length in self.window_lengths:
            _check(
                length > 0 and length % 4 == 0,
                f"window_lengths: {length} is no window whose hop is a quarter; give multiples of 4",
            )
        _check(_is_positive(self.learning_rate), f"learning_rate = {self.learning_rate}; expected above 0")
        _check(
            0 < self.update_probability <= 1,
            f"update_probability = {self.update_probability}; expected a share in (0, 1], such as 0.5",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stretch of training under one set of rules; published recipes have one."""

    name: str
    """For logs and checkpoints; every stage has its own."""
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
        _check(bool(self.name.strip()), f"name = {self.name!r} of a stage is empty; give it one, such as 'codec'")
        at = f"stage {self.name}:"
        _check(self.num_updates > 0, f"{at} num_updates = {self.num_updates}; expected at least 1")
        _check(bool(self.losses), f"{at} losses is empty; weigh at least one of {', '.join(LOSSES)}")
        for name, weight in self.losses.items():
            _check(name in LOSSES, f"{at} there is no loss {name!r}; choose from {', '.join(LOSSES)}")
            _check(_is_positive(weight), f"{at} losses.{name} = {weight}; expected above 0, or leave it out")
        _check(_is_positive(self.learning_rate), f"{at} learning_rate = {self.learning_rate}; expected above 0")
        final = self.final_learning_rate
        _check(
            final is None or _is_positive(final) or final == 0,
            f"{at} final_learning_rate = {final}; expected 0 or more, or null for a constant rate",
        )
        _check(self.warmup_updates >= 0, f"{at} warmup_updates = {self.warmup_updates}; expected 0 (none) or more")
        _check(self.codebook_crops >= 0, f"{at} codebook_crops = {self.codebook_crops}; expected 0 (none) or more")
        _check(
            self.quantize or self.codebook_crops == 0,
            f"{at} codebook_crops = {self.codebook_crops}, but quantize = false uses no codebook; give them to the "
            "first stage that quantizes",
        )

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
    """Of the commitment loss, which stays outside the balancer (paper section 3.4): a mean over the items of an update,
    against balanced gradients of norm 1 for each item, which add up. audiocraft, with 1, adds them up on each GPU and
    takes the mean over GPUs: that is the number of its GPUs here."""
    balancer_decay: float = 0.999
    """Of the moving averages of gradient norms."""
    quantizer: QuantizerSettings = field(default_factory=QuantizerSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    seed: int = 0
    """Of every draw: weights, crops, bandwidths, replaced entries."""

    def __post_init__(self) -> None:
        _check(bool(self.stages), "stages is empty; give at least one")
        names = [stage.name for stage in self.stages]
        doubled = sorted({name for name in names if names.count(name) > 1})
        _check(not doubled, f"stages share the name {', '.join(doubled)}; give every stage its own")
        _check(
            len(self.adam_betas) == 2 and all(0 <= beta < 1 for beta in self.adam_betas),
            f"adam_betas = {list(self.adam_betas)}; expected two numbers in [0, 1), such as 0.5 and 0.9",
        )
        _check(
            self.unit_variance_crops >= 0,
            f"unit_variance_crops = {self.unit_variance_crops}; expected 0 (weights stay as drawn) or more",
        )
        _check(
            0 <= self.commitment_weight < math.inf,
            f"commitment_weight = {self.commitment_weight}; expected 0 (no such loss) or more",
        )
        _check(0 <= self.balancer_decay <= 1, f"balancer_decay = {self.balancer_decay}; expected a number in [0, 1]")
        _check(0 <= self.seed < MAX_SEED, f"seed = {self.seed}; expected an integer from 0 to {MAX_SEED - 1}")

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


def check_recipe(
    settings: TrainingSettings,
    config: EncodecConfig,
    *,
    crop_samples: int,
    batch_size: int,
    is_trained: bool = False,
) -> None:
    """Refuse a recipe that could only fail, or do nothing of what it says, once training has begun.

    Args:
        settings: the recipe.
        config: the codec that is trained.
        crop_samples: samples per channel of each crop.
        batch_size: crops of one update, on all ranks together.
        is_trained: whether training goes on from a codec that was trained before; False: random weights.

    Raises:
        ValueError: naming the value, what was expected and what to change.
    """
    hop, window = config.hop_length, config.chunk_length
    crop = f"crops of {crop_samples} samples at {config.sampling_rate} Hz"
    _check(batch_size > 0, f"batch_size = {batch_size}; expected at least 1 crop in an update")
    _check(crop_samples >= hop, f"{crop} are shorter than one frame of the codec, {hop} samples; lengthen the crops")
    _check(
        window is None or crop_samples <= window,
        f"{crop} are longer than the window that the codec encodes at once, {window} samples; shorten the crops",
    )
    if any(stage.needs_discriminator for stage in settings.stages):
        longest = max(settings.discriminator.window_lengths)
        _check(
            crop_samples >= longest,
            f"{crop} are shorter than the discriminator's longest window, {longest} samples; lengthen the crops or "
            "leave out of discriminator.window_lengths what is longer",
        )
    _check_start(settings, config, is_trained=is_trained)
    _check_codebooks(settings, config, num_frames=-(-crop_samples // hop), batch_size=batch_size, is_trained=is_trained)


def _check_start(settings: TrainingSettings, config: EncodecConfig, *, is_trained: bool) -> None:
    if settings.unit_variance_crops == 0:
        return
    given = f"unit_variance_crops = {settings.unit_variance_crops}"
    _check(not is_trained, f"{given} would rescale weights that are trained already; set it to 0, or begin afresh")
    _check(
        config.norm_type != "time_group_norm",
        f"{given} does nothing to a codec with norm_type = time_group_norm, which undoes any scaling; set it to 0",
    )


def _check_codebooks(
    settings: TrainingSettings, config: EncodecConfig, *, num_frames: int, batch_size: int, is_trained: bool
) -> None:
    """Refuse k-means over fewer latents than a codebook has entries."""
    quantizing = [stage for stage in settings.stages if stage.quantize]
    for stage in quantizing:
        # The trainer rounds the crops up to whole batches.
        num_latents = -(-stage.codebook_crops // batch_size) * batch_size * num_frames
        _check(
            stage.codebook_crops == 0 or num_latents >= config.codebook_size,
            f"stage {stage.name}: codebook_crops = {stage.codebook_crops} make {num_latents} latents for codebooks of "
            f"{config.codebook_size} entries; give tens of latents per entry: crops make {num_frames} each",
        )
    if is_trained or not quantizing or quantizing[0].codebook_crops:
        return
    _check(
        batch_size * num_frames >= config.codebook_size,
        f"stage {quantizing[0].name}: its first batch has to start codebooks of {config.codebook_size} entries, and "
        f"batch_size = {batch_size} crops make {batch_size * num_frames} latents; raise batch_size, or set the stage's "
        "codebook_crops",
    )


def _is_positive(value: float) -> bool:
    return 0 < value < math.inf


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
