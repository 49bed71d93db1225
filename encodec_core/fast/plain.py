"""The decoder as it is, with its weights folded once."""

import copy

from torch import Tensor, nn
from torch.nn.utils import parametrize

from encodec_core.modules.conv import PaddedConv1d, TrimmedConvTranspose1d
from encodec_core.modules.seanet import SEANetDecoder

__all__ = ["without_weight_norm"]


def without_weight_norm(decoder: SEANetDecoder) -> SEANetDecoder:
    """Return a copy of `decoder` for evaluation whose convolutions hold their weights themselves."""
    folded = copy.deepcopy(decoder).requires_grad_(False)
    for module in folded.modules():
        if isinstance(module, PaddedConv1d | TrimmedConvTranspose1d) and parametrize.is_parametrized(module.conv):
            _fold_weight(module.conv)
    return folded.eval()


def _fold_weight(conv: nn.Module) -> None:
    # Not remove_parametrizations: torch makes one class for each parametrized module, copies share it with the
    # original, and removing takes the `weight` property off the class itself.
    weight = conv.weight
    assert isinstance(weight, Tensor)
    conv.__class__ = type(conv).__bases__[0]
    del conv._modules["parametrizations"]
    conv.register_parameter("weight", nn.Parameter(weight.detach().clone(), requires_grad=False))
