"""What a codec is trained to make small: distances of waveforms and of mel spectrograms, and the adversarial losses."""

from encodec_core.training.losses.adversarial import discriminator_loss, feature_matching_loss, generator_loss
from encodec_core.training.losses.mel import MultiScaleMelLoss, mel_filters
from encodec_core.training.losses.waveform import relative_squared_error, si_snr, waveform_l1

__all__ = [
    "MultiScaleMelLoss",
    "discriminator_loss",
    "feature_matching_loss",
    "generator_loss",
    "mel_filters",
    "relative_squared_error",
    "si_snr",
    "waveform_l1",
]
