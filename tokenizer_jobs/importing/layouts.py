"""How other tools lay out codes in an array, and the way from there to ours: uint16 [K, T], raw indices.

    KT                 [K, T]
    TK                 [T, K]
    flat               [T · K], by frame, then codebook
    flat-by-codebook   [K · T], by codebook, then frame

Leading axes of length 1 are batches of one and mean nothing. With offsets, codebook k holds ids from k · size on.

Legend of shapes: K codebooks, T frames.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["AXES", "Axes", "Layout", "integers", "without_batch_axes"]

Axes = Literal["KT", "TK", "flat", "flat-by-codebook"]
AXES: tuple[Axes, ...] = ("KT", "TK", "flat", "flat-by-codebook")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The layout of every array of a dump."""

    axes: Axes
    num_codebooks: int
    codebook_size: int
    has_offsets: bool = False

    def codes_in(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """The codes uint16 [K, T] of one array.

        Raises:
            ItemError: it does not have this layout, or holds what is no code.
        """
        values = self._matrix(integers(without_batch_axes(array)))
        if values.shape[1] == 0:
            raise _bad(f"it has no frames (shape {list(array.shape)})", RejectReason.EMPTY)
        if self.has_offsets:
            values = values - np.arange(self.num_codebooks, dtype=values.dtype)[:, None] * self.codebook_size
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= self.codebook_size:
            what = "after the offsets of codebooks were taken off " if self.has_offsets else ""
            raise _bad(f"its codes are {what}{low} to {high}, expected 0 to {self.codebook_size - 1}")
        return np.ascontiguousarray(values, dtype=np.uint16)

    def _matrix(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The array as [K, T]."""
        num_codebooks = self.num_codebooks
        if self.axes in ("KT", "TK"):
            place = 0 if self.axes == "KT" else 1
            if values.ndim != 2 or values.shape[place] != num_codebooks:
                expected = f"[{num_codebooks}, T]" if place == 0 else f"[T, {num_codebooks}]"
                raise _bad(f"its shape is {list(values.shape)}, expected {expected}")
            return values if place == 0 else values.T
        if values.ndim != 1 or values.size % num_codebooks:
            raise _bad(f"its shape is {list(values.shape)}, expected one axis, a multiple of {num_codebooks} long")
        if self.axes == "flat":
            return values.reshape(-1, num_codebooks).T
        return values.reshape(num_codebooks, -1)


def without_batch_axes(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array without leading axes of length 1, as long as two axes are left."""
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    return array


def integers(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The values as int64; floats that are whole numbers are taken.

    Raises:
        ItemError: they are no whole numbers.
    """
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise _bad("it holds NaN or infinity", RejectReason.NON_FINITE)
        if (array != np.rint(array)).any():
            raise _bad("it holds fractions, so it is no array of codes")
    elif array.dtype.kind not in "iu":
        raise _bad(f"it is of type {array.dtype}, expected integers")
    if array.size and float(np.abs(array.astype(np.float64)).max()) >= 2**53:
        raise _bad("it holds numbers beyond all codes")
    return array.astype(np.int64)


def _bad(message: str, reason: RejectReason = RejectReason.CORRUPT) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=reason)
