"""Training of a codec: losses and their balance, the discriminator, codebooks that follow the latents."""

from encodec_core.training.balancer import Balancer
from encodec_core.training.code_rate import CodeRates, code_rates
from encodec_core.training.discriminator import MultiScaleSTFTDiscriminator
from encodec_core.training.evaluation import Evaluation, evaluate
from encodec_core.training.initialisation import scale_to_unit_variance
from encodec_core.training.language_model import NO_CODE, LanguageModelSettings, LanguageModelTrainer
from encodec_core.training.losses import (
    MultiScaleMelLoss,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
    relative_squared_error,
    si_snr,
    waveform_l1,
)
from encodec_core.training.quantizer import (
    QuantizerSettings,
    TrainingQuantized,
    adopt_codebooks,
    quantize_for_training,
)
from encodec_core.training.settings import DiscriminatorSettings, Stage, TrainingSettings, check_recipe
from encodec_core.training.trainer import Trainer

__all__ = [
    "NO_CODE",
    "Balancer",
    "CodeRates",
    "DiscriminatorSettings",
    "Evaluation",
    "LanguageModelSettings",
    "LanguageModelTrainer",
    "MultiScaleMelLoss",
    "MultiScaleSTFTDiscriminator",
    "QuantizerSettings",
    "Stage",
    "Trainer",
    "TrainingQuantized",
    "TrainingSettings",
    "adopt_codebooks",
    "check_recipe",
    "code_rates",
    "discriminator_loss",
    "evaluate",
    "feature_matching_loss",
    "generator_loss",
    "quantize_for_training",
    "relative_squared_error",
    "scale_to_unit_variance",
    "si_snr",
    "waveform_l1",
]
