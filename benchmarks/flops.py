"""Floating-point operations of encoding, from a codec's config: two for each multiply-add, nothing for the rest."""

from dataclasses import dataclass

from encodec_core import EncodecConfig

__all__ = ["Flops", "count_flops"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """Per second of audio that the encoder sees; windows that overlap make it see a little more than there is."""

    convolutions: float
    lstm: float
    quantizer: float
    """Of the codebooks in use."""

    @property
    def encoder(self) -> float:
        return self.convolutions + self.lstm

    @property
    def total(self) -> float:
        return self.encoder + self.quantizer


def count_flops(config: EncodecConfig, *, n_q: int) -> Flops:
    """Count, for long audio: padding and the ends of an item are left out."""
    rate = float(config.sampling_rate)
    channels = config.num_filters
    convolutions = rate * config.audio_channels * channels * config.kernel_size
    for ratio in reversed(config.upsampling_ratios):
        hidden = channels // config.compress
        block = channels * hidden * config.residual_kernel_size + hidden * channels
        shortcut = channels * channels if config.use_conv_shortcut else 0
        convolutions += rate * config.num_residual_layers * (block + shortcut)
        rate /= ratio
        convolutions += rate * channels * 2 * channels * 2 * ratio
        channels *= 2
    lstm = rate * config.num_lstm_layers * 4 * channels * 2 * channels
    convolutions += rate * channels * config.hidden_size * config.last_kernel_size
    quantizer = rate * n_q * config.codebook_size * (config.codebook_dim or config.hidden_size)
    return Flops(convolutions=2 * convolutions, lstm=2 * lstm, quantizer=2 * quantizer)
