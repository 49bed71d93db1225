"""Weights: their names, ours (which are transformers') and Meta's neutral ones, a model's hash, and the file of them.

ours                                                    neutral
encoder.layers.3.conv.parametrizations.weight.original0 encoder.model.3.conv.conv.weight_g
encoder.layers.3.conv.parametrizations.weight.original1 encoder.model.3.conv.conv.weight_v
encoder.layers.3.norm.weight                            encoder.model.3.conv.norm.weight
decoder.layers.3.conv.bias      (transposed)            decoder.model.3.convtr.convtr.bias
encoder.layers.13.lstm.weight_ih_l0                     encoder.model.13.lstm.weight_ih_l0
quantizer.layers.0.codebook.embed                       quantizer.vq.layers.0._codebook.embed
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from encodec_core.modules.conv import TrimmedConvTranspose1d
from encodec_core.quantization.codebook import TRAINING_ONLY_BUFFERS

__all__ = [
    "file_sha256",
    "is_training_only",
    "neutral_names",
    "own_name",
    "weights_sha256",
    "with_own_names",
    "write_weights",
]

_WEIGHT_NORM = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}


def own_name(name: str) -> str:
    """Translate a name from any published checkpoint: Meta's neutral ones, and both styles of weight norm."""
    name = re.sub(r"^(encoder|decoder)\.model\.", r"\1.layers.", name)
    name = re.sub(r"\.(conv|convtr)\.\1\.", ".conv.", name)
    name = re.sub(r"\.(conv|convtr)\.norm\.", ".norm.", name)
    name = re.sub(r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook.", name)
    return re.sub(r"weight_[gv]$", lambda match: _WEIGHT_NORM[match[0]], name)


def neutral_names(model: nn.Module) -> dict[str, str]:
    """Return, for each name in the state dict of an `EncodecModel`, Meta's neutral name.

    The model is needed because only Meta's names tell a transposed convolution (`convtr`) from another.
    """
    transposed = {name for name, module in model.named_modules() if isinstance(module, TrimmedConvTranspose1d)}
    return {name: _neutral_name(name, transposed) for name in model.state_dict()}


def _neutral_name(name: str, transposed: set[str]) -> str:
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


def weights_sha256(model: nn.Module) -> str:
    """Hash the tensors that inference uses, as the model holds them.

    For each tensor, in the order of neutral names, these bytes are hashed: the name, dtype and shape as the UTF-8 line
    `encoder.model.0.conv.conv.bias float32 32` (sizes joined by "x") with a newline, then its elements, little-endian
    in C order. Lengths and directions of weight norm count as stored; buffers that only training reads do not count.
    One model therefore has one hash whether it came as `.th`, `.bin` or `.safetensors`, in either style of weight norm,
    on any device, and another hash in another dtype.

    Returns:
        64 hexadecimal digits.
    """
    state = model.state_dict()
    names = {neutral: own for own, neutral in neutral_names(model).items() if not is_training_only(own)}
    digest = hashlib.sha256()
    for neutral in sorted(names):
        tensor = state[names[neutral]].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        shape = "x".join(str(size) for size in tensor.shape)
        digest.update(f"{neutral} {dtype} {shape}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def with_own_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of a whole state dict, see `own_name`."""
    return {own_name(name): tensor for name, tensor in state.items()}


def write_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors, contiguous and on the CPU, as a safetensors file, in the place of one that is there.

    `safetensors.torch.save_file` makes files that only their owner can read, whatever the umask.
    """
    content = save(dict(state), metadata={"format": "pt"})  # transformers refuses a file without this note
    # Never written in place: tensors that were loaded from the file may still be mapped to it. A crash before the
    # second line of the block leaves the older file, and a part of the newer one under another name.
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        staged.write_bytes(content)
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
