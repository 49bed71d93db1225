"""Decoding on a GPU: whatever has equally many frames goes through the decoder together.

Letters in shapes: B batch, K codebooks, T frames, C audio channels, n samples.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from encodec_core.fast.gpu.memory import attempt

__all__ = ["decode_in_batches"]

MAX_SAMPLES = 2**22
"""Samples of a batch: about 2 GB of activations of the 24 kHz decoder, from its shapes. Longer items go alone."""


def decode_in_batches(
    codes: Sequence[Tensor], *, hop_length: int, decode: Callable[[Tensor], Tensor], max_samples: int = MAX_SAMPLES
) -> list[Tensor]:
    """Decode windows, or items without windows.

    Args:
        codes: int64 `[K, T]` each, on the decoder's device.
        hop_length: samples per frame.
        decode: turns `[B, K, T]` into `[B, C, n]`.
        max_samples: of a batch.

    Returns:
        For each its `[C, n]`. A batch for which there is no memory is halved.

    Raises:
        torch.OutOfMemoryError: one alone does not fit.
    """
    by_shape: dict[torch.Size, list[int]] = {}
    for index, one in enumerate(codes):
        by_shape.setdefault(one.shape, []).append(index)
    decoded: dict[int, Tensor] = {}
    for shape, indices in by_shape.items():
        num_items = max(1, max_samples // (hop_length * shape[1]))
        for start in range(0, len(indices), num_items):
            batch = indices[start : start + num_items]
            found = _decode([codes[index] for index in batch], decode)
            decoded |= dict(zip(batch, found, strict=True))
    return [decoded[index] for index in range(len(codes))]


def _decode(codes: Sequence[Tensor], decode: Callable[[Tensor], Tensor]) -> list[Tensor]:
    found = attempt(lambda: list(decode(torch.stack(list(codes)))), can_shrink=len(codes) > 1)
    if found is not None:
        return found
    half = len(codes) // 2
    return _decode(codes[:half], decode) + _decode(codes[half:], decode)
