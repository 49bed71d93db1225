"""What a feature extractor hands out: arrays or tensors by name, and how recordings become one of them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["AudioFeatures", "Padding", "columns", "padding_strategy", "stack"]

Padding = Literal["longest", "max_length", "do_not_pad"]


class AudioFeatures(dict[str, Any]):
    """`input_values` and `padding_mask`, by key or as attributes; `model(**features)` works."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"there is no {name!r} here; there are {', '.join(self)}") from error

    def to(
        self,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = False,
    ) -> Self:
        """Move all tensors to `device`, cast floating point ones to `dtype`, in place, and return these features.

        Args:
            device: of torch; None: where they are. A dtype here is `dtype`, as in `features.to(torch.float16)`.
            dtype: of floating point tensors; None: as they are.
            non_blocking: as of `torch.Tensor.to`.

        What is no tensor (`return_tensors` was not "pt") stays as it is.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.items():
            if isinstance(value, Tensor):
                cast_to = dtype if value.is_floating_point() else None
                self[name] = value.to(device=device, dtype=cast_to, non_blocking=non_blocking)
        return self


def columns(features: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return features by name, also of a list of items as a data loader collects them.

    Raises:
        ValueError: there are no items, or one lacks a feature of the first.
    """
    if isinstance(features, Mapping):
        return dict(features)
    if len(features) == 0:
        raise ValueError("there are no items to pad; give at least one with 'input_values'")
    for index, item in enumerate(features):
        missing = features[0].keys() - item.keys()
        if missing:
            raise ValueError(
                f"item {index} has no {', '.join(sorted(missing))}, only {', '.join(item) or 'nothing'}; give all "
                "items what the first one has"
            )
    return {name: [item[name] for item in features] for name in features[0]}


def padding_strategy(padding: bool | str | None) -> Padding:
    """Name what a `padding` argument asks for: None and True mean the longest, False none.

    Raises:
        ValueError: the name is unknown.
    """
    if padding is None or padding is True:
        return "longest"
    if padding is False:
        return "do_not_pad"
    strategies: tuple[Padding, ...] = get_args(Padding)
    for strategy in strategies:
        # Not by hash: transformers' enum equals its name but hashes otherwise.
        if padding == strategy:
            return strategy
    raise ValueError(f"padding = {padding!r} is unknown; choose True, False, {', '.join(strategies)}")


def stack(arrays: Sequence[NDArray[Any]], *, name: str, return_tensors: str | None) -> Any:
    """Stack arrays; where they are of different lengths and no tensors are asked for, they stay an array of arrays.

    Args:
        arrays: time last, or one-dimensional.
        name: what they are, for the message.
        return_tensors: "pt", "np" or None.

    Raises:
        ValueError: `return_tensors` is unknown, or arrays of different lengths cannot make one tensor.
    """
    if return_tensors not in (None, "np", "pt"):
        raise ValueError(f"return_tensors = {return_tensors!r} is unknown; choose pt, np or None")
    if len({array.shape for array in arrays}) == 1:
        stacked = np.stack(arrays)
    elif return_tensors is None:
        stacked = np.empty(len(arrays), dtype=object)
        stacked[:] = arrays
    else:
        lengths = sorted({array.shape[-1] for array in arrays})
        # Begins as transformers' message does, for those who match on it.
        raise ValueError(
            f"Unable to convert output {name!r} to a tensor: recordings of {lengths} samples make none; pad them "
            "(padding=True) or leave return_tensors None"
        )
    return torch.from_numpy(stacked) if return_tensors == "pt" else stacked
