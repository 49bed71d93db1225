"""What numpy and torch spell differently, so that a pattern is written once: checks, filled arrays, lengths.

Letters in shapes: B batch, K codebooks, T frames, S tokens of a sequence.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tokenizer_jobs.errors import ConfigError

__all__ = [
    "ArrayT",
    "Lengths",
    "as_float32",
    "as_int64",
    "check_range",
    "checked_codes",
    "checked_lengths",
    "checked_tokens",
    "contiguous",
    "counting",
    "filled",
    "frames_within",
    "made_like",
    "total",
    "where",
]

ArrayT = TypeVar("ArrayT", npt.NDArray[Any], Tensor)
"""A numpy array or a torch tensor; what comes in as one goes out as the same, on the same device."""

Lengths = Sequence[int] | npt.NDArray[np.integer] | Tensor
"""[B] frames of each item of a batch."""

_UNSIGNED_TORCH = (torch.uint16, torch.uint32, torch.uint64)  # stored only: torch 2.13 has no max or where for them


def filled(like: ArrayT, shape: tuple[int, ...], value: int) -> ArrayT:
    """int64 array of the kind and on the device of `like`, all `value`."""
    if isinstance(like, Tensor):
        return torch.full(shape, value, dtype=torch.int64, device=like.device)
    return np.full(shape, value, dtype=np.int64)


def counting(like: ArrayT, stop: int) -> ArrayT:
    """int64 [stop]: 0, 1, … of the kind and on the device of `like`."""
    if isinstance(like, Tensor):
        return torch.arange(stop, dtype=torch.int64, device=like.device)
    return np.arange(stop, dtype=np.int64)


def made_like(like: ArrayT, numbers: Sequence[int] | npt.NDArray[np.integer]) -> ArrayT:
    """The numbers as int64, of the kind and on the device of `like`."""
    made = np.array(numbers, dtype=np.int64)
    if isinstance(like, Tensor):
        return torch.from_numpy(made).to(like.device)
    return made


def where(condition: ArrayT, array: ArrayT, other: ArrayT | int) -> ArrayT:
    """`array` where the condition holds, elsewhere `other`."""
    if isinstance(condition, Tensor):
        return torch.where(condition, array, other)
    return np.where(condition, array, other)


def as_int64(array: ArrayT) -> ArrayT:
    """The same numbers as int64."""
    if isinstance(array, Tensor):
        return array.to(torch.int64)
    return array.astype(np.int64, copy=False)


def as_float32(array: ArrayT) -> ArrayT:
    """The same numbers as float32; true is 1."""
    if isinstance(array, Tensor):
        return array.to(torch.float32)
    return array.astype(np.float32)


def contiguous(array: ArrayT) -> ArrayT:
    """The same numbers without gaps in memory."""
    if isinstance(array, Tensor):
        return array.contiguous()
    return np.ascontiguousarray(array)


def total(array: ArrayT, *, axis: int) -> ArrayT:
    """int64 sums along an axis; of truths their number."""
    if isinstance(array, Tensor):
        return array.sum(axis, dtype=torch.int64)
    return np.asarray(array.sum(axis, dtype=np.int64))


def checked_codes(codes: ArrayT) -> ArrayT:
    """Codes whose shape and type are right; torch's unsigned types, which cannot be computed with, as int64.

    Raises:
        ConfigError: they are no integers [K, T] or [B, K, T], K > 0.
    """
    if not _holds_integers(codes) or codes.ndim not in (2, 3) or codes.shape[-2] == 0:
        raise ConfigError(
            f"codes is {_described(codes)}; expected integers [codebooks, frames] or [batch, codebooks, frames]"
        )
    return _computable(codes)


def checked_tokens(tokens: ArrayT, *, single: str) -> ArrayT:
    """Tokens whose shape and type are right.

    Args:
        tokens: of one item, or of a batch with one axis more in front.
        single: the axes of one item, separated by ", ", for the message.

    Raises:
        ConfigError: they are no integers of that many axes.
    """
    num_axes = 1 + single.count(",")
    if not _holds_integers(tokens) or tokens.ndim not in (num_axes, num_axes + 1):
        raise ConfigError(f"tokens is {_described(tokens)}; expected integers [{single}] or [batch, {single}]")
    return _computable(tokens)


def check_range(codes: ArrayT, *, codebook_size: int, name: str) -> None:
    """Make sure that each number is a code.

    Args:
        codes: integers of any shape.
        codebook_size: the codes of a codebook are 0 to codebook_size - 1.
        name: what holds them, for the message.

    Raises:
        ConfigError: one is negative, or `codebook_size` or above.
    """
    if 0 in codes.shape:
        return
    highest = int(codes.max())
    if highest >= codebook_size:
        raise ConfigError(
            f"{name} {highest} where a code below codebook_size = {codebook_size} is expected; give the ids of codes "
            "alone, without offsets or special tokens, and the codec's codebook size"
        )
    if not _is_unsigned(codes) and int(codes.min()) < 0:
        raise ConfigError(f"{name} {int(codes.min())} where a code is expected; codes count from 0")


def checked_lengths(codes: ArrayT, lengths: Lengths | None, *, num_frames: int) -> ArrayT | None:
    """int64 [B] frames of each item, of the kind of `codes`; None: all have `num_frames`.

    Raises:
        ConfigError: they are given for one item, are not one for each item, or are outside 0 to `num_frames`.
    """
    if lengths is None:
        return None
    given = np.asarray(lengths.cpu() if isinstance(lengths, Tensor) else lengths)
    if codes.ndim != 3 or given.shape != codes.shape[:1]:
        raise ConfigError(
            f"lengths has shape {list(given.shape)} and codes {list(codes.shape)}; expected one length for each item "
            "of a batch, and none for a single item"
        )
    if given.size and (given.dtype.kind not in "iu" or given.min() < 0 or given.max() > num_frames):
        raise ConfigError(f"lengths = {given.tolist()} must be whole numbers from 0 to the {num_frames} frames")
    return made_like(codes, given)


def frames_within(lengths: ArrayT, num_frames: int) -> ArrayT:
    """bool [B, 1, T]: whether a frame is one of its item's."""
    return counting(lengths, num_frames)[None, None, :] < lengths[:, None, None]


def _computable(array: ArrayT) -> ArrayT:
    if isinstance(array, Tensor) and array.dtype in _UNSIGNED_TORCH:
        return as_int64(array)
    return array


def _holds_integers(array: ArrayT) -> bool:
    if isinstance(array, Tensor):
        return not (array.is_floating_point() or array.is_complex() or array.dtype == torch.bool)
    return isinstance(array, np.ndarray) and array.dtype.kind in "iu"


def _is_unsigned(array: ArrayT) -> bool:
    return array.dtype == torch.uint8 if isinstance(array, Tensor) else array.dtype.kind == "u"


def _described(array: Any) -> str:
    if not isinstance(array, np.ndarray | Tensor):
        return type(array).__name__
    return f"{str(array.dtype).removeprefix('torch.')} {list(array.shape)}"
