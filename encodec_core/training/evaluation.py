"""How good a codec is on given recordings: SI-SNR and mel distance at each bandwidth, and the use of its codebooks.

Letters in shapes: C audio channels, n samples, K codebooks, E entries.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from encodec_core.batch_encoder import BatchEncoder
from encodec_core.codes import Codes
from encodec_core.model import EncodecModel
from encodec_core.training.losses import MultiScaleMelLoss, si_snr

__all__ = ["Evaluation", "evaluate", "perplexity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Averages over recordings."""

    num_recordings: int
    seconds: float
    si_snr_db: Mapping[float, float]
    """By bandwidth in kbps: the mean over recordings of SI-SNR in dB."""
    mel_distance: Mapping[float, float]
    """By bandwidth in kbps: the mean over recordings of the multi-scale mel loss."""
    codebook_perplexity: tuple[float, ...]
    """Of each codebook at the highest bandwidth, over all recordings: 1 to the number of entries."""


@torch.no_grad()
def evaluate(model: EncodecModel, waveforms: Iterable[Tensor], *, device: str = "cpu") -> Evaluation:
    """Encode and decode recordings at every bandwidth of a model.

    Args:
        model: float32.
        waveforms: float32 `[C, n]` each, at the model's rate; silent ones say nothing and are left out.
        device: of torch.

    Raises:
        ValueError: no recording is left.
    """
    bandwidths = sorted(model.config.target_bandwidths)
    encoder = BatchEncoder(model, bandwidths[-1], device=device)
    mel = MultiScaleMelLoss(model.config.sampling_rate)
    counts = torch.zeros(encoder.n_q, model.config.codebook_size, dtype=torch.int64)
    snrs: dict[float, list[float]] = {bandwidth: [] for bandwidth in bandwidths}
    distances: dict[float, list[float]] = {bandwidth: [] for bandwidth in bandwidths}
    num_samples = 0
    for waveform in waveforms:
        if not waveform.any():
            continue
        (codes,) = encoder.encode([waveform])
        num_samples += waveform.shape[-1]
        for codebook, chosen in enumerate(codes.codes.long()):
            counts[codebook] += torch.bincount(chosen, minlength=model.config.codebook_size)
        for bandwidth in bandwidths:
            n_q = model.config.n_q_for(bandwidth)
            (decoded,) = encoder.decode([_first(codes, n_q=n_q)])
            reference, estimate = waveform[None], decoded[None, :, : waveform.shape[-1]]
            snrs[bandwidth].append(float(si_snr(reference, estimate).mean()))
            distances[bandwidth].append(float(mel(reference, estimate)))
    num_recordings = len(snrs[bandwidths[0]])
    if num_recordings == 0:
        raise ValueError("no recording to evaluate on; give at least one that is not silent")
    return Evaluation(
        num_recordings=num_recordings,
        seconds=num_samples / model.config.sampling_rate,
        si_snr_db={bandwidth: sum(values) / num_recordings for bandwidth, values in snrs.items()},
        mel_distance={bandwidth: sum(values) / num_recordings for bandwidth, values in distances.items()},
        codebook_perplexity=tuple(perplexity(codebook) for codebook in counts),
    )


def perplexity(counts: Tensor) -> float:
    """Return 2 to the entropy of `[E]` counts: how many entries, used evenly, would be as hard to guess."""
    shares = counts[counts > 0].double() / counts.sum()
    return float(torch.exp(-(shares * shares.log()).sum()))


def _first(codes: Codes, *, n_q: int) -> Codes:
    return Codes(codes=codes.codes[:n_q].contiguous(), scales=codes.scales, window_frames=codes.window_frames)
