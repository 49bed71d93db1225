"""Where a model is computed, and in what."""

import torch

__all__ = ["checked_dtype", "resolve_device", "takes_large_batches"]


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the torch device that `device` means; "auto": a GPU where torch sees one, else the CPU."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


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
