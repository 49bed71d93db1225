"""Codes: what an encoder makes of one item, and what a decoder needs to make it audible again.

Letters in shapes: K codebooks in use (n_q), T frames of the item, S windows of the item.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Codes"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Codes:
    """Codes of one item, on the CPU.

    Raises:
        ValueError: dtypes or shapes are other than stated, or the windows have not T frames together.
    """

    codes: Tensor
    """uint16 `[K, T]`, each below the codebook size. The first K' rows are the codes of a lower bandwidth."""
    scales: Tensor | None = None
    """float32 `[S]`: loudness that was divided out of each window; None unless the codec has windows."""
    window_frames: Tensor | None = None
    """int32 `[S]`: frames of each window, T together; None unless the codec has windows."""

    def __post_init__(self) -> None:
        if self.codes.dtype != torch.uint16 or self.codes.dim() != 2:
            raise ValueError(f"codes is {_shape(self.codes)}; expected uint16 [codebooks, frames]")
        if (self.scales is None) != (self.window_frames is None):
            raise ValueError(
                "scales and window_frames belong together; give both, or neither for a codec without windows"
            )
        if self.scales is None or self.window_frames is None:
            return
        if self.scales.shape != self.window_frames.shape or self.scales.dim() != 1:
            raise ValueError(
                f"scales is {_shape(self.scales)} and window_frames {_shape(self.window_frames)}; "
                "expected [windows] each"
            )
        if int(self.window_frames.sum()) != self.num_frames:
            raise ValueError(
                f"the windows have {int(self.window_frames.sum())} frames together and codes has {self.num_frames}; "
                "were they made together?"
            )

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.codes.shape[0]

    @property
    def num_frames(self) -> int:
        """T."""
        return self.codes.shape[1]

    def __reduce__(self) -> tuple[Callable[..., "Codes"], tuple[NDArray[Any] | None, ...]]:
        # torch 2.13 pickles uint16 tensors and cannot read them back ("'UntypedStorage' has no attribute 'dtype'");
        # arrays travel well.
        tensors = (self.codes, self.scales, self.window_frames)
        return _from_arrays, tuple(None if tensor is None else tensor.numpy() for tensor in tensors)

    def __repr__(self) -> str:
        scales = "" if self.scales is None else f", scales={_shape(self.scales)}"
        frames = "" if self.window_frames is None else f", window_frames={_shape(self.window_frames)}"
        return f"Codes(codes={_shape(self.codes)}{scales}{frames})"


def _from_arrays(*arrays: NDArray[Any] | None) -> Codes:
    codes, scales, window_frames = (None if array is None else torch.from_numpy(array) for array in arrays)
    assert codes is not None
    return Codes(codes=codes, scales=scales, window_frames=window_frames)


def _shape(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
