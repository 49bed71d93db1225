"""The game of codec and discriminator: hinge losses and the distance of feature maps (EnCodec paper section 3.4).

Each takes lists over the networks of a multi-scale discriminator and is averaged over them; within one, over elements.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["discriminator_loss", "feature_matching_loss", "generator_loss"]

T = TypeVar("T")


def discriminator_loss(real_logits: Sequence[Tensor], fake_logits: Sequence[Tensor]) -> Tensor:
    """Return max(0, 1 - D(real)) + max(0, 1 + D(fake)), a scalar: small where the discriminator tells them apart.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    pairs = _pairs(real_logits, fake_logits)
    losses = [functional.relu(1 - real).mean() + functional.relu(1 + fake).mean() for real, fake in pairs]
    return torch.stack(losses).mean()


def generator_loss(fake_logits: Sequence[Tensor]) -> Tensor:
    """Return max(0, 1 - D(fake)), a scalar: small where the discriminator takes the codec's audio for real.

    The paper's form, audiocraft's `hinge2`; audiocraft's own recipes use `hinge`, the same without the bound at 1.

    Raises:
        ValueError: the list is empty.
    """
    if not fake_logits:
        raise ValueError("fake_logits is empty; expected the logits of every network of a discriminator")
    return torch.stack([functional.relu(1 - fake).mean() for fake in fake_logits]).mean()


def feature_matching_loss(
    real_features: Sequence[Sequence[Tensor]], fake_features: Sequence[Sequence[Tensor]]
) -> Tensor:
    """Return the mean absolute difference of feature maps over the mean magnitude of the real one, a scalar.

    Averaged over the maps of a network, then over networks. The paper's form; audiocraft's leaves out the division.
    No gradient flows to the real features.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    losses = []
    for real_maps, fake_maps in _pairs(real_features, fake_features):
        relative = [
            functional.l1_loss(fake, real.detach()) / real.detach().abs().mean().clamp(min=1e-8)
            for real, fake in _pairs(real_maps, fake_maps)
        ]
        losses.append(torch.stack(relative).mean())
    return torch.stack(losses).mean()


def _pairs(real: Sequence[T], fake: Sequence[T]) -> list[tuple[T, T]]:
    if len(real) != len(fake) or not real:
        raise ValueError(
            f"{len(real)} real and {len(fake)} fake results of a discriminator; expected equally many, at least one"
        )
    return list(zip(real, fake, strict=True))
