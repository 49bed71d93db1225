"""Make the demo codec: random weights scaled until latents vary, codebooks fitted to synthetic audio.

    python -m encodec_core.demo.make [FOLDER]

A minute and a half on one core. On one machine and version of torch the files come out the same.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from encodec_core.audio import EncodecFeatureExtractor
from encodec_core.config import EncodecConfig
from encodec_core.model import EncodecModel
from encodec_core.modules import PaddedConv1d, ResidualLSTM, TrimmedConvTranspose1d
from encodec_core.quantization.kmeans import fit_codebooks
from encodec_core.weights import is_training_only

__all__ = ["demo_config", "make_demo", "synthetic_audio", "write_demo"]

SEED = 20_221_024
NUM_CLIPS = 180
CLIP_SECONDS = 10
NUM_ITERATIONS = 12
LSTM_GAIN = 1.7
"""Raises torch's initial LSTM weights until the hidden state takes part in the output."""
OUTPUT_RMS = 0.1
"""Root mean square of decoded audio."""


def demo_config() -> EncodecConfig:
    """Return the 24 kHz layout at an eighth of its width: 75 frames per second, 8 codebooks."""
    return EncodecConfig.encodec_24khz(num_filters=4, hidden_size=32, target_bandwidths=(1.5, 3.0, 6.0))


def synthetic_audio(num_samples: int, *, sampling_rate: int, generator: torch.Generator) -> Tensor:
    """Make one clip `[1, n]` float32 in [-1, 1]: gliding voices, noise bursts, clicks and pauses, at some loudness."""

    def draw(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    seconds = torch.arange(num_samples, dtype=torch.float64) / sampling_rate
    audio = torch.zeros(num_samples, dtype=torch.float64)
    for _ in range(4):
        pitch = 2 ** draw(6, 10.5) * (1 + draw(0, 0.5) * torch.sin(2 * torch.pi * draw(0.1, 3) * seconds + draw(0, 6)))
        phase = 2 * torch.pi * pitch.cumsum(0) / sampling_rate
        voice = sum((torch.sin(k * phase) / k ** draw(0.7, 2) for k in (1, 2, 3, 5)), torch.zeros(()))
        envelope = torch.sin(2 * torch.pi * draw(0.2, 4) * seconds + draw(0, 6)).clamp(min=0) ** draw(0.3, 3)
        audio += draw(0.1, 1) * envelope * voice
    noise = torch.randn(num_samples, generator=generator, dtype=torch.float64)
    coloured = noise + draw(-0.95, 0.95) * noise.roll(1)
    audio += draw(0, 1.5) * coloured * torch.sin(2 * torch.pi * draw(0.3, 3) * seconds).clamp(min=0) ** 4
    clicks = torch.rand(num_samples, generator=generator, dtype=torch.float64) < draw(0, 4) / sampling_rate
    audio += 3 * clicks
    audio *= (torch.sin(2 * torch.pi * draw(0.05, 0.3) * seconds + draw(0, 6)) > -0.8).double()
    loudness = 10 ** draw(-1.7, -0.05)
    return (loudness * audio / audio.abs().max().clamp(min=1e-3)).float()[None]


@torch.no_grad()
def make_demo() -> EncodecModel:
    """Make the codec; torch's own generator is left alone."""
    config = demo_config()
    generator = torch.Generator().manual_seed(SEED)
    clips = [
        synthetic_audio(CLIP_SECONDS * config.sampling_rate, sampling_rate=config.sampling_rate, generator=generator)
        for _ in range(NUM_CLIPS)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = EncodecModel(config).eval()
    for module in model.modules():
        if isinstance(module, ResidualLSTM):
            for parameter in module.parameters():
                parameter.mul_(LSTM_GAIN)
    with _unit_convolutions(model.encoder, last=1.0):
        model.encoder(torch.stack(clips[:8]))
    # Stored as float16: codebooks are fitted to the latents of the weights that will be loaded.
    model.half().float()
    latents = torch.cat([model.encoder(clip[None])[0].t() for clip in clips])
    fit_codebooks(model.quantizer, latents, num_iterations=NUM_ITERATIONS, generator=generator)
    model.half().float()
    with _unit_convolutions(model.decoder, last=OUTPUT_RMS):
        model.decoder(latents[: CLIP_SECONDS * config.frame_rate].t()[None])
    return model.half().float()


def write_demo(model: EncodecModel, folder: Path) -> None:
    """Write the codec's three files: weights as float16, without what only training reads."""
    config = EncodecConfig.from_dict(model.config.to_dict() | {"architectures": ["EncodecModel"], "dtype": "float16"})
    config.save_pretrained(folder)
    EncodecFeatureExtractor(feature_size=config.audio_channels, sampling_rate=config.sampling_rate).save_pretrained(
        folder
    )
    state = {
        name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if not is_training_only(name)
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@contextmanager
def _unit_convolutions(network: nn.Module, *, last: float) -> Iterator[None]:
    """While the network runs, scale each convolution so that its output has a root mean square of 1, or of `last`."""
    convs = [module for module in network.modules() if isinstance(module, PaddedConv1d | TrimmedConvTranspose1d)]

    def scale(conv: nn.Module, _: Any, output: Tensor) -> Tensor:
        gain = (last if conv is convs[-1] else 1.0) / output.pow(2).mean().sqrt()
        parameters = dict(conv.named_parameters())
        parameters["conv.parametrizations.weight.original0"].mul_(gain)
        parameters["conv.bias"].mul_(gain)
        return output * gain

    hooks = [conv.register_forward_hook(scale) for conv in convs]
    yield
    for hook in hooks:
        hook.remove()


def main() -> None:
    """Write the files into FOLDER, this package's by default."""
    parser = argparse.ArgumentParser(prog="python -m encodec_core.demo.make", description="Make the demo codec.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path(__file__).parent)
    write_demo(make_demo(), parser.parse_args().folder)


if __name__ == "__main__":
    main()
