"""The distance of mel spectrograms over windows of many lengths (EnCodec paper section 3.4, l_f).

Details that the paper leaves open are those of audiocraft's `MultiScaleMelSpectrogramLoss` as its configuration sets
it: power spectrograms of a normalised STFT, L1 on them and mean squared error on their logarithms.

Letters in shapes: B batch, C audio channels, T samples, W window length in samples, M mel bands, F STFT frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.modules.conv import pad1d
from encodec_core.training.losses.waveform import check_same_shape

__all__ = ["MultiScaleMelLoss", "mel_filters"]

LOG_FLOOR = 1e-5
"""Added to the power in a band before its logarithm."""


class MultiScaleMelLoss(nn.Module):
    """L1 + `alpha` x L2 between mel spectrograms, averaged over window lengths.

    Args:
        sample_rate: Hz.
        num_mels: bands of each spectrogram. Under short windows the lowest have no frequency of their own; they are
            zero in both spectrograms and dilute the mean, as in audiocraft.
        window_exponents: windows of 2 to the power of each, in samples; the hop is a quarter of the window.
        alpha: weight of the squared error of logarithms against the absolute error of powers.
        lowest_hz: lower edge of the lowest band; the upper edge of the highest is half the rate.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        num_mels: int = 64,
        window_exponents: Sequence[int] = (5, 6, 7, 8, 9, 10, 11),
        alpha: float = 1.0,
        lowest_hz: float = 64.0,
    ) -> None:
        super().__init__()
        if not window_exponents or min(window_exponents) < 2:
            raise ValueError(f"window_exponents = {window_exponents}; expected one or more, each at least 2")
        self.alpha = alpha
        self.spectrograms = nn.ModuleList(
            MelSpectrogram(sample_rate, window_length=2**exponent, num_mels=num_mels, lowest_hz=lowest_hz)
            for exponent in window_exponents
        )

    def forward(self, reference: Tensor, estimate: Tensor) -> Tensor:
        """`[B, C, T]` twice, float32 or wider, in [-1, 1] -> scalar.

        Raises:
            ValueError: the shapes differ.
        """
        check_same_shape(reference, estimate)
        losses = []
        for spectrogram in self.spectrograms:
            wanted, got = spectrogram(reference), spectrogram(estimate)
            logarithms = functional.mse_loss((got + LOG_FLOOR).log10(), (wanted + LOG_FLOOR).log10())
            losses.append(functional.l1_loss(got, wanted) + self.alpha * logarithms)
        return torch.stack(losses).sum() / (len(losses) * (1 + self.alpha))


class MelSpectrogram(nn.Module):
    """Power in mel bands, of frames centred on every hop: `[B, C, T]` -> `[B, C, M, ceil(T / hop)]`."""

    window: Tensor
    """`[W]`: a periodic Hann window of energy 1, which is what makes the STFT a normalised one."""
    filters: Tensor
    """`[M, W / 2 + 1]`."""

    def __init__(self, sample_rate: int, *, window_length: int, num_mels: int, lowest_hz: float) -> None:
        super().__init__()
        self.hop_length = window_length // 4
        window = torch.hann_window(window_length, dtype=torch.float64)
        # Derived from the arguments, so not in state dicts.
        self.register_buffer("window", (window / window.square().sum().sqrt()).float(), persistent=False)
        filters = mel_filters(
            num_mels, num_frequencies=window_length // 2 + 1, sample_rate=sample_rate, lowest_hz=lowest_hz
        )
        self.register_buffer("filters", filters.float(), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """See the class."""
        batch, channels, length = waveforms.shape
        (window_length,) = self.window.shape
        edge = (window_length - self.hop_length) // 2
        # |-- edge, reflected --| length samples |-- edge, reflected --| zeros up to a whole hop |
        padded = functional.pad(pad1d(waveforms, (edge, edge), mode="reflect"), (0, -length % self.hop_length))
        spectrum = torch.stft(
            padded.flatten(0, 1),
            window_length,
            self.hop_length,
            window=self.window.to(padded.dtype),
            center=False,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        mels = self.filters.to(power.dtype) @ power
        return mels.view(batch, channels, *mels.shape[1:])


def mel_filters(num_mels: int, *, num_frequencies: int, sample_rate: int, lowest_hz: float) -> Tensor:
    """Return triangular filters float64 `[num_mels, num_frequencies]`, evenly spaced and overlapping by half in mel.

    mel = 2595 log10(1 + Hz / 700), the HTK scale; every peak is 1 (no normalisation by area). Column f is the
    frequency f / (num_frequencies - 1) x sample_rate / 2.

    Raises:
        ValueError: `lowest_hz` is not in [0, sample_rate / 2).
    """
    highest_hz = sample_rate / 2
    if not 0 <= lowest_hz < highest_hz:
        raise ValueError(f"lowest_hz = {lowest_hz}; expected at least 0 and below {highest_hz}, half the rate")
    edges_hz = torch.tensor([lowest_hz, highest_hz], dtype=torch.float64)
    low, high = (2595 * torch.log10(1 + edges_hz / 700)).tolist()
    corners = 700 * (10 ** (torch.linspace(low, high, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    frequencies = torch.linspace(0, highest_hz, num_frequencies, dtype=torch.float64)
    left, peak, right = (corners[start : start + num_mels, None] for start in range(3))
    rising = (frequencies - left) / (peak - left)
    falling = (right - frequencies) / (right - peak)
    return torch.minimum(rising, falling).clamp(min=0)
