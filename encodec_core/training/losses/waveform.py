"""Distances of waveforms `[B, C, T]`, any floating dtype, sample by sample."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["check_same_shape", "relative_squared_error", "si_snr", "waveform_l1"]


def waveform_l1(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the mean absolute difference, a scalar (EnCodec paper section 3.4, l_t).

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(reference, estimate)
    return functional.l1_loss(estimate, reference)


def relative_squared_error(reference: Tensor, estimate: Tensor, *, floor: float = 0.01) -> Tensor:
    """Return the squared error of each item over the energy of its reference, averaged over the items, a scalar.

    Silence as estimate gives just below 1, whatever the loudness; -10 log10 of one item's is its SNR in dB.

    Args:
        reference: `[B, C, T]`.
        estimate: `[B, C, T]`.
        floor: added to the energy (sum of squares) of each reference, so that a silent item does not weigh without
            bound; positive. 0.01 is the energy of 10,000 samples at -60 dB.

    Raises:
        ValueError: the shapes differ, or `floor` is not positive.
    """
    check_same_shape(reference, estimate)
    if not floor > 0:
        raise ValueError(f"floor = {floor}; expected a positive energy, such as 0.01")
    error = (estimate - reference).square().flatten(1).sum(1)
    energy = reference.square().flatten(1).sum(1)
    return (error / (energy + floor)).mean()


def si_snr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-noise ratio of each item in dB, `[B]`, averaged over its channels.

    Both signals lose their mean; the estimate's part along the reference is signal, the rest noise (arXiv 1811.02508,
    the SI-SNR of the EnCodec paper's table 3). Both energies are raised by 1.2e-7 per sample as in audiocraft's
    `SISNR`, which keeps silence finite (a silent reference gives 0 dB or less) and bounds a perfect estimate.

    Raises:
        ValueError: the shapes differ.
    """
    check_same_shape(reference, estimate)
    epsilon = torch.finfo(torch.float32).eps * reference.shape[-1]
    reference = reference - reference.mean(-1, keepdim=True)
    estimate = estimate - estimate.mean(-1, keepdim=True)
    projection = (reference * estimate).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + epsilon)
    signal = projection * reference
    signal_energy = signal.square().sum(-1) + epsilon
    noise_energy = (estimate - signal).square().sum(-1) + epsilon
    return 10 * (signal_energy.log10() - noise_energy.log10()).mean(-1)


def check_same_shape(reference: Tensor, estimate: Tensor) -> None:
    """Refuse waveforms that broadcasting would compare wrongly.

    Raises:
        ValueError: the shapes are not one `[B, C, T]`, or something is empty.
    """
    if reference.ndim != 3 or reference.shape != estimate.shape or reference.numel() == 0:
        raise ValueError(
            f"reference of shape {list(reference.shape)} and estimate of shape {list(estimate.shape)}; expected one "
            f"shape [B, C, T] for both, nothing empty"
        )
