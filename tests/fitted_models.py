"""Codecs with random weights that behave like trained ones: latents that vary, and codebooks fitted to them.

A codec as it is initialised lets its signal fade from layer to layer, so that a handful of entries win every time and
parity of codes proves nothing. Here every convolution is scaled to a root mean square of 1 on synthetic audio, LSTM
weights are raised, and every codebook is drawn from a Gaussian with the covariance of what the earlier codebooks leave
over. (k-means on as little audio as tests can afford fits that audio alone: from the eighth codebook on, other audio
gets one entry.)

    python -m tests.fitted_models OUT --preset encodec_24khz
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from encodec_core import EncodecConfig, EncodecModel
from encodec_core.modules import PaddedConv1d, ResidualLSTM, TrimmedConvTranspose1d
from encodec_core.quantization.codebook import nearest_entries

PRESETS: dict[str, Callable[[], EncodecConfig]] = {
    "encodec_24khz": EncodecConfig.encodec_24khz,
    "encodec_48khz": EncodecConfig.encodec_48khz,
    "musicgen_32khz": EncodecConfig.musicgen_32khz,
}
LSTM_GAIN = 1.7
"""Raises torch's initial LSTM weights until the hidden state takes part in the output."""
CLIP_SECONDS = 5
NUM_CLIPS = 4
SPREADS = (0.15, 0.3, 0.45, 0.6, 0.8)
"""Standard deviations of entries, in those of the residual; the one that quantizes best is taken."""


def make_fitted_model(config: EncodecConfig, *, seed: int, waveforms: Sequence[Tensor] | None = None) -> EncodecModel:
    """Make a codec that uses its codebooks, the same for the same arguments on one machine.

    Args:
        config: of the codec.
        seed: of its weights and of the synthetic audio.
        waveforms: `[C, n]` float32 each, to fit the codebooks to; None: 20 s of synthetic audio.
    """
    if waveforms is None:
        waveforms = _synthetic_clips(config, seed=seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = EncodecModel(config).eval()
        _raise_lstm_weights(model)
        latents = _normalised_latents(model, waveforms)
        _fit_codebooks(model, latents)
        _normalise_decoder(model, waveforms[0])
    return model


def synthetic_waveform(num_samples: int, *, num_channels: int, sampling_rate: int, seed: int) -> Tensor:
    """Make audio `[C, n]` float32 in [-1, 1] that keeps changing: gliding tones, and noise that comes and goes."""
    generator = torch.Generator().manual_seed(seed)
    seconds = torch.arange(num_samples, dtype=torch.float64) / sampling_rate
    audio = torch.zeros(num_channels, num_samples, dtype=torch.float64)
    for _ in range(6):
        low, glide, beat, phase = torch.rand(4, generator=generator, dtype=torch.float64)
        pitch = 60 * 2 ** (6 * low) * (1 + 0.4 * torch.sin(2 * torch.pi * (0.3 + glide) * seconds))
        tone = torch.sin(2 * torch.pi * pitch.cumsum(0) / sampling_rate)
        gains = torch.rand(num_channels, 1, generator=generator, dtype=torch.float64)
        audio += gains * tone * torch.sin(2 * torch.pi * (0.5 + 3 * beat) * seconds + 6 * phase).clamp(min=0)
    noise = torch.randn(num_channels, num_samples, generator=generator, dtype=torch.float64)
    audio += noise * torch.sin(2 * torch.pi * 1.3 * seconds).clamp(min=0) ** 4
    return (0.5 * audio / audio.abs().max().clamp(min=1e-3)).float()


def _synthetic_clips(config: EncodecConfig, *, seed: int) -> list[Tensor]:
    return [
        synthetic_waveform(
            CLIP_SECONDS * config.sampling_rate,
            num_channels=config.audio_channels,
            sampling_rate=config.sampling_rate,
            seed=1000 * seed + index,
        )
        for index in range(NUM_CLIPS)
    ]


def _raise_lstm_weights(model: EncodecModel) -> None:
    for module in model.modules():
        if isinstance(module, ResidualLSTM):
            for parameter in module.parameters():
                parameter.mul_(LSTM_GAIN)


def _scale_to_unit(conv: PaddedConv1d | TrimmedConvTranspose1d, _: Any, output: Tensor, *, target: float) -> Tensor:
    """Scale the weights of a convolution so that its output, as it comes out now, has the root mean square `target`."""
    gain = target / output.pow(2).mean().sqrt()
    names = ["parametrizations.weight.original0", "bias"] if conv.norm is None else []
    parameters = dict(conv.conv.named_parameters())
    for name in names:
        parameters[name].mul_(gain)
    return output * gain if names else output


def _normalise(network: nn.Module, example: Tensor, *, last: float = 1.0) -> None:
    """Run `network` once and scale every convolution on the way to unit output, the last one to `last`."""
    convs = [module for module in network.modules() if isinstance(module, PaddedConv1d | TrimmedConvTranspose1d)]
    targets = [1.0] * (len(convs) - 1) + [last]
    hooks = [
        conv.register_forward_hook(partial(_scale_to_unit, target=target))
        for conv, target in zip(convs, targets, strict=True)
    ]
    network(example)
    for hook in hooks:
        hook.remove()


def _normalised_latents(model: EncodecModel, waveforms: Sequence[Tensor]) -> Tensor:
    """Normalise the encoder on the first waveform and return the latents of all, `[N, D]`."""
    _normalise(model.encoder, _as_encoder_input(model, waveforms[0])[0])
    pieces = [piece for waveform in waveforms for piece in _as_encoder_input(model, waveform)]
    return torch.cat([model.encoder(piece).transpose(1, 2).flatten(0, 1) for piece in pieces])


def _as_encoder_input(model: EncodecModel, waveform: Tensor) -> list[Tensor]:
    """Cut into windows, each `[1, C, n]`, at the loudness that the encoder sees."""
    length = model.config.chunk_length or waveform.shape[-1]
    windows = [window[None] for window in torch.split(waveform, length, dim=-1)]
    if not model.config.normalize:
        return windows
    return [window / (window.mean(1).pow(2).mean().sqrt() + 1e-8) for window in windows]


def _normalise_decoder(model: EncodecModel, waveform: Tensor) -> None:
    window = _as_encoder_input(model, waveform)[0]
    codes = model.quantizer.quantize(model.encoder(window), n_q=model.config.num_quantizers)
    _normalise(model.decoder, model.quantizer.dequantize(codes), last=0.1)


def _fit_codebooks(model: EncodecModel, latents: Tensor) -> None:
    residual = latents
    for codebook in model.quantizer.codebooks:
        candidates = _gaussian_codebooks(residual, *codebook.embed.shape)
        chosen = [nearest_entries(residual, entries) for entries in candidates]
        left_over = [residual - entries[index] for entries, index in zip(candidates, chosen, strict=True)]
        best = min(range(len(candidates)), key=lambda index: left_over[index].norm().item())
        codebook.embed.copy_(candidates[best])
        codebook.cluster_size.copy_(torch.bincount(chosen[best], minlength=codebook.embed.shape[0]))
        codebook.embed_avg.zero_().index_add_(0, chosen[best], residual)
        residual = left_over[best]


def _gaussian_codebooks(residual: Tensor, num_entries: int, num_channels: int) -> list[Tensor]:
    """Draw entries with the mean and the shape of the covariance of `residual` `[N, D]`, once for each spread."""
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(residual.double().T))
    root = (eigenvectors * eigenvalues.clamp(min=0).sqrt()).float()
    draws = torch.randn(num_entries, num_channels) @ root.T
    return [residual.mean(0) + spread * draws for spread in SPREADS]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a full-size codec with random weights and fitted codebooks.")
    parser.add_argument("out", type=Path, help="folder to write config.json, model.safetensors and so on into")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="encodec_24khz")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_fitted_model(PRESETS[arguments.preset](), seed=arguments.seed).save_pretrained(arguments.out)


if __name__ == "__main__":
    main()
