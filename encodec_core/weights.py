"""Weights: a model's hash, and the file of them. Their names are in `naming`."""

import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from encodec_core.modules.conv import TrimmedConvTranspose1d
from encodec_core.naming import is_training_only, neutral_name, own_name

__all__ = ["neutral_names", "weights_sha256", "with_own_names", "write_weights"]


def neutral_names(model: nn.Module) -> dict[str, str]:
    """Return, for each name in the state dict of an `EncodecModel`, Meta's neutral name.

    The model is needed because only Meta's names tell a transposed convolution (`convtr`) from another.
    """
    transposed = {name for name, module in model.named_modules() if isinstance(module, TrimmedConvTranspose1d)}
    return {name: neutral_name(name, transposed) for name in model.state_dict()}


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
