"""Which codecs can be streamed, and the layout of what N streams push."""

from collections.abc import Sequence

import torch
from torch import Tensor

from encodec_core.config import EncodecConfig, why_not_streamed

__all__ = [
    "as_batch",
    "check_batch_size",
    "check_streamable",
    "check_waveform",
    "from_batch",
]


def check_streamable(config: EncodecConfig) -> None:
    """Raise a ValueError for a codec that needs the whole recording."""
    reason = why_not_streamed(config)
    if reason is not None:
        raise ValueError(
            f"this {config.sampling_rate} Hz codec cannot be streamed: {reason}, and it has no windows; "
            "use BatchEncoder, whose encode and decode take recordings whole"
        )


def check_batch_size(batch_size: int) -> None:
    """Raise a ValueError unless it is a number of streams."""
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; expected 1 or more streams")


def check_waveform(waveform: Tensor, *, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raise a ValueError unless a waveform has a shape, samples left out, and a dtype.

    Args:
        waveform: what is pushed.
        shape: `[C]`, or `[N, C]` of N streams in lockstep.
        dtype: the model's.
    """
    if waveform.dim() != len(shape) + 1 or list(waveform.shape[:-1]) != list(shape):
        num_streams, channels = (1, *shape)[-2:]
        layout = ", ".join(map(str, shape))
        raise ValueError(
            f"the waveform has the shape {list(waveform.shape)}; batch_size = {num_streams} takes [{layout}, samples]: "
            f"mix or duplicate channels to {channels}"
            + (", and leave out the dimension of streams" if len(shape) == 1 else ", and push as much of every stream")
        )
    if waveform.dtype != dtype:
        raise ValueError(
            f"the waveform is {waveform.dtype}; expected {dtype}, the model's: convert it, integers scaled to [-1, 1]"
        )


def as_batch(pushed: Tensor, *, batch_size: int) -> Tensor:
    """Return what was pushed as `[N, ..]`: one stream pushes without that dimension."""
    return pushed[None] if batch_size == 1 else pushed


def from_batch(result: Tensor, *, batch_size: int) -> Tensor:
    """Return a result `[N, ..]` in the layout of what was pushed."""
    return result[0] if batch_size == 1 else result
