"""Where a model is computed, and in what."""

import torch

__all__ = ["checked_dtype", "resolve_device", "takes_large_batches", "why_not_faster"]

TENSOR_CORES = (8, 0)
"""Compute capability from which GPUs have TF32, and cuDNN convolves bfloat16. Below it (T4: 7.5) torch computes the one
as float32 and the other without cuDNN, more slowly than float32."""


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device that `device` means; "auto": a GPU where torch sees one, else the CPU.

    A GPU has its number, that of the thread's current one where none was said: later calls may come from threads, or in
    blocks, whose current GPU is another.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.device(device)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found


def why_not_faster(device: torch.device) -> str | None:
    """Say why convolutions in TF32 or bfloat16 gain nothing on a GPU; None: they do, or nobody knows."""
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    capability = torch.cuda.get_device_capability(device)
    if capability >= TENSOR_CORES:
        return None
    has, needs = (".".join(map(str, version)) for version in (capability, TENSOR_CORES))
    return f"{torch.cuda.get_device_name(device)} has compute capability {has}, and it takes {needs}"


def takes_large_batches(device: torch.device) -> bool:
    """Whether `device` wants few large steps, as GPUs do, rather than small ones that stay in a core's caches."""
    return device.type != "cpu"


def checked_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a model's weights.

    Raises:
        ValueError: it is neither float32 nor float64.
    """
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"the model is {dtype}; expected float32 or float64: "
            "call model.float(); for speed there is BatchEncoder's precision='bf16'"
        )
    return dtype
