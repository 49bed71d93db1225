"""Small language models with random weights, and the same weights in Meta's package."""

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from encodec_core import EncodecConfig
from encodec_core.entropy import LanguageModel, LanguageModelConfig
from tests.encodec_core.models import meta_package

SMALL = LanguageModelConfig(
    n_q=4, codebook_size=32, past_context=6, dim=16, num_heads=8, num_layers=2, feed_forward_dim=64
)


def make_language_model(config: LanguageModelConfig, *, seed: int = 0, sharpness: float = 1.0) -> LanguageModel:
    """Make a model whose biases and gains matter too (torch starts them at 0 and 1, where a mix-up would not show).

    Args:
        config: its shape.
        seed: of the weights.
        sharpness: factor on the logits: 6 brings their entropy near a trained model's.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = LanguageModel(config).eval().requires_grad_(False)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for head in model.linears:
            for parameter in head.parameters():
                parameter.mul_(sharpness)
    return model


@cache
def small_language_model() -> LanguageModel:
    return make_language_model(SMALL)


@cache
def language_model_of(codec: str) -> LanguageModel:
    """Return one for the codec `CONFIGS[codec]` of `models`, with few channels."""
    from tests.encodec_core.models import CONFIGS

    return make_language_model(narrow_config(CONFIGS[codec]), sharpness=3.0)


def narrow_config(codec: EncodecConfig) -> LanguageModelConfig:
    return replace(
        LanguageModelConfig.for_codec(codec), dim=16, num_heads=8, num_layers=1, feed_forward_dim=32, past_context=9
    )


def in_meta(model: LanguageModel) -> Any:
    """Return Meta's `LMModel` with the weights of `model`."""
    config = model.config
    with torch.random.fork_rng(devices=[]), meta_package() as encodec:
        theirs = encodec.model.LMModel(
            n_q=config.n_q,
            card=config.codebook_size,
            dim=config.dim,
            num_heads=config.num_heads,
            num_layers=config.num_layers,
            hidden_scale=config.feed_forward_dim / config.dim,
            past_context=config.past_context,
        )
    theirs.load_state_dict(model.state_dict())
    return theirs.eval().requires_grad_(False)


def random_codes(num_codebooks: int, num_frames: int, *, entries: int, batch_size: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(num_codebooks + 100 * num_frames)
    return torch.randint(entries, (batch_size, num_codebooks, num_frames), generator=generator)
