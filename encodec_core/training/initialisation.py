"""A start from which a codec of random weights learns: every layer passes on what it is given at unit variance.

With torch's own start the signal fades layer by layer, and on small batches training sits for hundreds of updates at
silence as its best guess. Measured at 8 filters and 8 crops of 0.27 s: after 300 updates 3.4 dB on fresh crops,
against none after 500.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from encodec_core.model import EncodecModel
from encodec_core.modules.conv import PaddedConv1d, TrimmedConvTranspose1d

__all__ = ["scale_to_unit_variance"]

OUTPUT_STANDARD_DEVIATION = 0.1
"""Of the decoder's audio: about that of speech and music."""


@torch.no_grad()
def scale_to_unit_variance(model: EncodecModel, waveforms: Tensor) -> None:
    """Scale the weights of each convolution, first to last, so that its outputs have standard deviation 1.

    Layer-sequential unit-variance initialisation (arXiv 1511.06422, without its orthonormal start). Biases become
    zero; the decoder's last convolution is scaled to the loudness of audio.

    Args:
        model: changed in place.
        waveforms: `[B, C, T]` at the model's rate, normalised where the model takes such; not silent.

    Raises:
        ValueError: the model normalises after each convolution, which undoes any scaling.
    """
    if model.config.norm_type == "time_group_norm":
        raise ValueError(
            "norm_type = time_group_norm undoes any scaling of weights; leave such a codec's weights as they are drawn"
        )
    layers = [module for module in model.modules() if isinstance(module, PaddedConv1d | TrimmedConvTranspose1d)]
    hooks = [layer.register_forward_hook(_rescale) for layer in layers]
    try:
        model.decoder(model.encoder(waveforms))
    finally:
        for hook in hooks:
            hook.remove()
    _scale(model.decoder.layers[-1], OUTPUT_STANDARD_DEVIATION)


def _rescale(layer: nn.Module, inputs: tuple[Tensor], _outputs: Tensor) -> Tensor:
    assert isinstance(layer, PaddedConv1d | TrimmedConvTranspose1d)
    layer.bias.zero_()
    _scale(layer, 1 / float(layer.forward(*inputs).std()))
    scaled: Tensor = layer.forward(*inputs)
    return scaled


def _scale(layer: nn.Module, factor: float) -> None:
    assert isinstance(layer, PaddedConv1d | TrimmedConvTranspose1d)
    lengths = layer.conv.weight
    if is_parametrized(layer.conv):
        # Weight norm keeps the lengths of the weights in its first tensor.
        (weight_norm,) = layer.conv.parametrizations.values()  # type: ignore[operator]
        lengths = weight_norm.original0
    assert isinstance(lengths, Tensor)
    lengths.mul_(factor)
