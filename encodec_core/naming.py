"""The names of weights: ours, which are transformers', and Meta's neutral ones.

ours                                                    neutral
encoder.layers.3.conv.parametrizations.weight.original0 encoder.model.3.conv.conv.weight_g
encoder.layers.3.conv.parametrizations.weight.original1 encoder.model.3.conv.conv.weight_v
encoder.layers.3.norm.weight                            encoder.model.3.conv.norm.weight
decoder.layers.3.conv.bias      (transposed)            decoder.model.3.convtr.convtr.bias
encoder.layers.13.lstm.weight_ih_l0                     encoder.model.13.lstm.weight_ih_l0
quantizer.layers.0.codebook.embed                       quantizer.vq.layers.0._codebook.embed
"""

import re
from collections.abc import Collection

__all__ = ["TRAINING_ONLY_BUFFERS", "is_training_only", "neutral_name", "own_name"]

TRAINING_ONLY_BUFFERS = ("inited", "cluster_size", "embed_avg")
"""Buffers of a codebook that training keeps and inference never reads."""

_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def own_name(name: str) -> str:
    """Translate a name from any published checkpoint: Meta's neutral ones, and both styles of weight norm."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.\1\.", ".conv.", name)
    name = re.sub(r"\.(conv|convtr)\.norm\.", ".norm.", name)
    name = re.sub(r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook.", name)
    return re.sub(r"weight_[gv]$", lambda match: _WEIGHT_NORM[match[0]], name)


def neutral_name(name: str, transposed: Collection[str]) -> str:
    """Translate one of our names.

    Args:
        name: Of a tensor.
        transposed: Names of the modules that are transposed convolutions: only Meta's names tell them from others.
    """
    for neutral, own in _WEIGHT_NORM.items():
        name = name.replace(own, neutral)
    for kind in (".conv.", ".norm."):
        owner, found, leaf = name.rpartition(kind)
        if found:
            conv = "convtr" if owner in transposed else "conv"
            name = f"{owner}.{conv}.{conv if kind == '.conv.' else 'norm'}.{leaf}"
            break
    name = re.sub(r"^(encoder|decoder)\.layers\.", r"\1.model.", name)
    return re.sub(r"^quantizer\.layers\.(\d+)\.codebook\.", r"quantizer.vq.layers.\1._codebook.", name)


def is_training_only(name: str) -> bool:
    """Tell whether the tensor of this name (ours or neutral) is kept for training and never read by inference."""
    return name.rpartition(".")[2] in TRAINING_ONLY_BUFFERS
