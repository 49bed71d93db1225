"""The multi-scale STFT discriminator (EnCodec paper section 3.4 and figure 2), as in Meta's `encodec/msstftd.py`.

One small network of 2-d convolutions per STFT window; real and imaginary parts are its channels.

Letters in shapes: B batch, C audio channels, T samples, W window length, F STFT frames, H frequencies.

    waveform [B, C, T] ─▶ STFT [B, 2C, F, W/2+1] ─▶ conv 3x9 ─▶ 3 x conv 3x9, dilated 1, 2, 4 in time, stride 2 in
    frequency ─▶ conv 3x3 ─▶ conv 3x3 ─▶ logits [B, out_channels, F, H]

What each convolution but the last gives, after its LeakyReLU, is a feature map.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

__all__ = ["MultiScaleSTFTDiscriminator", "STFTDiscriminator"]

TIME_DILATIONS = (1, 2, 4)


class MultiScaleSTFTDiscriminator(nn.Module):
    """Discriminators over STFTs of several windows.

    Args:
        filters: channels of the convolutions; the paper has 32.
        in_channels: C.
        out_channels: channels of the logits.
        n_ffts, hop_lengths, win_lengths: of each STFT, in samples. Defaults are the paper's at 24 kHz; it doubles
            them at 48 kHz.
        negative_slope: of the LeakyReLUs; 0.2 as in Meta's package, audiocraft's recipes have 0.3.

    Raises:
        ValueError: the three lists differ in length or are empty.

    State dicts of Meta's and audiocraft's discriminators load (`weight_g` and `weight_v` are renamed on the way).
    """

    def __init__(
        self,
        filters: int = 32,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        n_ffts: Sequence[int] = (2048, 1024, 512, 256, 128),
        hop_lengths: Sequence[int] = (512, 256, 128, 64, 32),
        win_lengths: Sequence[int] = (2048, 1024, 512, 256, 128),
        negative_slope: float = 0.2,
    ) -> None:
        super().__init__()
        if not n_ffts or not len(n_ffts) == len(hop_lengths) == len(win_lengths):
            raise ValueError(
                f"{len(n_ffts)} n_ffts, {len(hop_lengths)} hop_lengths and {len(win_lengths)} win_lengths; expected "
                f"equally many, one for each STFT"
            )
        self.discriminators = nn.ModuleList(
            STFTDiscriminator(
                filters,
                in_channels=in_channels,
                out_channels=out_channels,
                n_fft=n_fft,
                hop_length=hop_length,
                win_length=win_length,
                negative_slope=negative_slope,
            )
            for n_fft, hop_length, win_length in zip(n_ffts, hop_lengths, win_lengths, strict=True)
        )

    def forward(self, waveforms: Tensor) -> tuple[list[Tensor], list[list[Tensor]]]:
        """`[B, C, T]` -> logits, and feature maps shallow first, of each STFT in the order of `n_ffts`.

        Raises:
            ValueError: the audio is shorter than a window.
        """
        results = [discriminator(waveforms) for discriminator in self.discriminators]
        return [logits for logits, _ in results], [features for _, features in results]


class STFTDiscriminator(nn.Module):
    """One network of the discriminator; arguments as there."""

    def __init__(
        self,
        filters: int,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        hop_length: int,
        win_length: int,
        negative_slope: float,
    ) -> None:
        super().__init__()
        self.spec_transform = ComplexSpectrogram(n_fft, hop_length=hop_length, win_length=win_length)
        self.activation = nn.LeakyReLU(negative_slope)
        # Meta's first convolution is the one without weight norm.
        first = NormConv2d(2 * in_channels, filters, (3, 9), weight_norm=False)
        dilated = [NormConv2d(filters, filters, (3, 9), stride=2, dilation=dilation) for dilation in TIME_DILATIONS]
        self.convs = nn.ModuleList([first, *dilated, NormConv2d(filters, filters, (3, 3))])
        self.conv_post = NormConv2d(filters, out_channels, (3, 3))

    def forward(self, waveforms: Tensor) -> tuple[Tensor, list[Tensor]]:
        """`[B, C, T]` -> logits `[B, out_channels, F, H]` and the five feature maps `[B, filters, F, H']`."""
        x = self.spec_transform(waveforms)
        x = torch.cat([x.real, x.imag], dim=1).transpose(2, 3)
        features = []
        for conv in self.convs:
            x = self.activation(conv(x))
            features.append(x)
        return self.conv_post(x), features


class ComplexSpectrogram(nn.Module):
    """A complex STFT over whole windows, without padding, divided by the root of the window's energy.

    As `torchaudio.transforms.Spectrogram(power=None, center=False, normalized=True)` with its Hann window.
    """

    window: Tensor
    """`[win_length]`: a periodic Hann window."""

    def __init__(self, n_fft: int, *, hop_length: int, win_length: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.win_length = win_length
        # In state dicts because it is in Meta's.
        self.register_buffer("window", torch.hann_window(win_length))

    def forward(self, waveforms: Tensor) -> Tensor:
        """`[B, C, T]` -> complex `[B, C, n_fft / 2 + 1, F]`, F = (T - n_fft) // hop_length + 1."""
        batch, channels, length = waveforms.shape
        if length < self.n_fft:
            raise ValueError(f"{length} samples of audio; expected at least {self.n_fft}, the discriminator's window")
        spectrum = torch.stft(
            waveforms.flatten(0, 1),
            self.n_fft,
            self.hop_length,
            self.win_length,
            window=self.window,
            center=False,
            return_complex=True,
        )
        spectrum = spectrum / self.window.square().sum().sqrt()
        return spectrum.view(batch, channels, *spectrum.shape[1:])


class NormConv2d(nn.Module):
    """A weight-normed 2-d convolution over (time, frequency), padded so that stride 1 keeps both.

    It exists for its name: Meta's package nests the convolution one module deep.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        *,
        stride: int = 1,
        dilation: int = 1,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        time, frequency = kernel_size
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=(1, stride),
            dilation=(dilation, 1),
            padding=((time - 1) * dilation // 2, (frequency - 1) // 2),
        )
        self.conv: nn.Module = parametrizations.weight_norm(conv) if weight_norm else conv

    def forward(self, x: Tensor) -> Tensor:
        """`[B, in_channels, F, H]` -> `[B, out_channels, F, ceil(H / stride)]`."""
        out: Tensor = self.conv(x)
        return out
