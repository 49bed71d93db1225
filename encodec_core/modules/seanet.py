"""SEANet: the convolutional encoder and decoder of EnCodec (paper section 3.1, figure 1).

Letters in shapes: B batch, C audio channels, T samples, D latent channels, F frames (ceil(T / hop_length)).
The order of `layers` gives the names in the state dict, which are those of transformers' `EncodecModel`.
"""

from typing import Any

from torch import Tensor, nn

from encodec_core.config import EncodecConfig
from encodec_core.modules.conv import PaddedConv1d, TrimmedConvTranspose1d
from encodec_core.modules.lstm import ResidualLSTM

__all__ = ["ResidualBlock", "SEANetDecoder", "SEANetEncoder"]


def _conv(config: EncodecConfig, in_channels: int, out_channels: int, kernel_size: int, **shape: Any) -> PaddedConv1d:
    return PaddedConv1d(
        in_channels,
        out_channels,
        kernel_size,
        causal=config.use_causal_conv,
        pad_mode=config.pad_mode,
        norm_type=config.norm_type,
        **shape,
    )


def _upsampling_conv(config: EncodecConfig, num_channels: int, ratio: int) -> TrimmedConvTranspose1d:
    return TrimmedConvTranspose1d(
        num_channels,
        num_channels // 2,
        2 * ratio,
        stride=ratio,
        causal=config.use_causal_conv,
        trim_right_ratio=config.trim_right_ratio,
        norm_type=config.norm_type,
    )


class ResidualBlock(nn.Module):
    """Shortcut(x) plus two convolutions, the first dilated and narrower by `config.compress`.

    Args:
        num_channels: of input and output.
        dilation: of the first convolution.
    """

    def __init__(self, config: EncodecConfig, num_channels: int, *, dilation: int) -> None:
        super().__init__()
        narrow = num_channels // config.compress
        self.block = nn.ModuleList(
            [
                nn.ELU(),
                _conv(config, num_channels, narrow, config.residual_kernel_size, dilation=dilation),
                nn.ELU(),
                _conv(config, narrow, num_channels, 1),
            ]
        )
        self.shortcut = _conv(config, num_channels, num_channels, 1) if config.use_conv_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, C, T]`."""
        shortcut: Tensor = self.shortcut(x)
        for layer in self.block:
            x = layer(x)
        return shortcut + x


def _residual_blocks(config: EncodecConfig, num_channels: int) -> list[nn.Module]:
    return [
        ResidualBlock(config, num_channels, dilation=config.dilation_growth_rate**depth)
        for depth in range(config.num_residual_layers)
    ]


class SEANetEncoder(nn.Module):
    """Waveform to latents: halve the rate by each ratio (last ratio first) while doubling the channels, then LSTM."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        width = config.num_filters
        layers: list[nn.Module] = [_conv(config, config.audio_channels, width, config.kernel_size)]
        for ratio in reversed(config.upsampling_ratios):
            layers += _residual_blocks(config, width)
            layers += [nn.ELU(), _conv(config, width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        layers += [ResidualLSTM(width, num_layers=config.num_lstm_layers)]
        layers += [nn.ELU(), _conv(config, width, config.hidden_size, config.last_kernel_size)]
        self.layers = nn.ModuleList(layers)

    def forward(self, waveform: Tensor) -> Tensor:
        """`[B, C, T]` -> latents `[B, D, F]`."""
        x = waveform
        for layer in self.layers:
            x = layer(x)
        return x


class SEANetDecoder(nn.Module):
    """Latents to waveform: the encoder's mirror image, with transposed convolutions."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        width = config.num_filters * 2 ** len(config.upsampling_ratios)
        layers: list[nn.Module] = [
            _conv(config, config.hidden_size, width, config.kernel_size),
            ResidualLSTM(width, num_layers=config.num_lstm_layers),
        ]
        for ratio in config.upsampling_ratios:
            layers += [nn.ELU(), _upsampling_conv(config, width, ratio)]
            width //= 2
            layers += _residual_blocks(config, width)
        layers += [nn.ELU(), _conv(config, config.num_filters, config.audio_channels, config.last_kernel_size)]
        self.layers = nn.ModuleList(layers)

    def forward(self, latents: Tensor) -> Tensor:
        """`[B, D, F]` -> waveform `[B, C, F * hop_length]`."""
        x = latents
        for layer in self.layers:
            x = layer(x)
        return x
