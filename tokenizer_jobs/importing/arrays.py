"""The arrays inside `.npy`, `.npz` and `.pt` files, by name. No pickle is ever run.

An `.npy` has one array, without a name. Those of a `.pt` are found in its dicts, lists and tuples: `codes`, `0.0`.
"""

import warnings
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["ARRAY_SUFFIXES", "named_arrays", "select_array", "suffix_of"]

ARRAY_SUFFIXES = (".npy", ".npz", ".pt", ".pth")


def suffix_of(name: str) -> str:
    """The ending of a file's name by which it holds arrays; empty where it has none."""
    return next((suffix for suffix in ARRAY_SUFFIXES if name.lower().endswith(suffix)), "")


def named_arrays(content: bytes, *, suffix: str) -> dict[str, npt.NDArray[Any]]:
    """All arrays of a file, by name.

    Args:
        content: Of the file.
        suffix: One of `ARRAY_SUFFIXES`.

    Raises:
        ItemError: it is damaged, or holds what only a pickle could restore.
    """
    if not content:
        raise _bad("it has no bytes", RejectReason.EMPTY)
    if suffix in (".pt", ".pth"):
        return dict(_tensors(content))
    try:
        found = np.load(BytesIO(content), allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"": found}
        with found:
            return {name: found[name] for name in found.files if _is_plain(found, name)}
    except Exception as error:
        # Whatever damaged bytes make numpy and zipfile raise: no list of it would be complete.
        raise _bad(f"it cannot be read as {suffix} ({error}); pickled objects are never loaded") from error


def select_array(arrays: Mapping[str, npt.NDArray[Any]], key: str | None) -> npt.NDArray[Any]:
    """The array of a name, or the only one.

    Raises:
        ItemError: there is none of this name, or several and no name was said.
    """
    if key is not None and key in arrays:
        return arrays[key]
    if key is None and len(arrays) == 1:
        return next(iter(arrays.values()))
    wanted = "one array" if key is None else f"an array {key!r}"
    raise _bad(f"it holds {', '.join(map(repr, arrays)) or 'no array'}, expected {wanted}")


def _is_plain(found: Any, name: str) -> bool:
    """Whether an array can be read without a pickle: others of the archive may, and are none of ours."""
    with found.zip.open(name + ".npy" if name + ".npy" in found.zip.namelist() else name) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return not read(file)[2].hasobject


def _tensors(content: bytes) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    import torch  # seconds, which other dumps need not wait

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols that are refused right after
            found = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # as above: torch's reader raises whatever the bytes make of it
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _bad(f"torch.load(weights_only=True) refuses it ({reason})") from error
    yield from _flat(found, "")


def _flat(value: Any, name: str) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    import torch

    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized:
            return  # numpy has no such arrays; whoever asks for this one by name is told that it is none
        value = value.detach().resolve_conj().resolve_neg()
        if value.dtype.is_floating_point:
            value = value.float()  # numpy has no bfloat16
        yield name, value.numpy()
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _flat(each, f"{name}.{place}" if name else str(place))


def _bad(message: str, reason: RejectReason = RejectReason.CORRUPT) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=reason)
