"""Finds the shared object, checks that it runs here, and types its functions."""

import ctypes
import importlib.util
import platform
from collections.abc import Sequence
from functools import lru_cache

import torch

__all__ = ["floats", "kernels", "loaded_kernels", "pointer", "why_absent"]

MODULE = "encodec_core.fast.native._kernels"

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_PROTOTYPES: dict[str, tuple[Sequence[type], type | None]] = {
    "encodec_is_supported": ([], ctypes.c_int),
    "encodec_convolve": (
        [_POINTER, _COUNT, _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, _COUNT]
        + [_POINTER, _COUNT] * 3,
        ctypes.c_int,
    ),
    "encodec_upsample": (
        [_POINTER, _COUNT, _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _POINTER]
        + [_COUNT] * 4
        + [_POINTER, _COUNT] * 2,
        ctypes.c_int,
    ),
    "encodec_convolve_to_audio": (
        [_POINTER, _COUNT, _COUNT, _POINTER, _POINTER, _POINTER, _COUNT, _POINTER, _POINTER]
        + [_COUNT] * 3
        + [_POINTER, _COUNT],
        ctypes.c_int,
    ),
    "encodec_run": ([_POINTER, _COUNT, _POINTER], ctypes.c_int),
    "encodec_elu": ([_POINTER, _POINTER, _COUNT], None),
    "encodec_normalise": (
        [_POINTER, _COUNT, _COUNT, _COUNT, ctypes.c_double, _POINTER, _POINTER, _POINTER, _COUNT, _COUNT]
        + [_POINTER, _COUNT] * 3,
        None,
    ),
    "encodec_lstm_packed_size": ([_COUNT], _COUNT),
    "encodec_lstm_pack": ([_POINTER, _POINTER, _COUNT, _POINTER], None),
    "encodec_lstm_scratch_size": ([_COUNT, _COUNT], _COUNT),
    "encodec_lstm_layer": ([_POINTER] * 3 + [_COUNT] * 6 + [_POINTER] * 5 + [_COUNT], None),
    "encodec_packed_codebook_size": ([_COUNT, _COUNT], _COUNT),
    "encodec_pack_codebook": ([_POINTER, _POINTER, _COUNT, _COUNT, _POINTER], None),
    "encodec_quantize_scratch_size": ([_COUNT], _COUNT),
    "encodec_quantize": ([_POINTER, _COUNT, _POINTER, _POINTER], None),
}
"""Arguments and result of every function; the C sources say what they mean."""


@lru_cache(maxsize=1)
def kernels() -> ctypes.CDLL | None:
    """Return the library, or None where `why_absent` says why."""
    return None if why_absent() else _load()


def loaded_kernels() -> ctypes.CDLL:
    """Return the library where it is known to be there."""
    found = kernels()
    assert found is not None, "blocked tensors are used where there are kernels"
    return found


@lru_cache(maxsize=1)
def why_absent() -> str | None:
    """Say why there are no kernels here and what to do, or None if there are."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"they are for x86-64, and this CPU is {platform.machine()}"
    library = _load()
    if library is None:
        return "they were not built: install a C compiler (gcc or clang, x86-64), then reinstall this package"
    if not library.encodec_is_supported():
        return "this CPU has no AVX-512"
    return None


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Return where a tensor's numbers are, for ctypes; the caller keeps it alive."""
    return None if tensor is None else tensor.data_ptr()


def floats(*shape: int) -> torch.Tensor:
    """Return whatever numbers, float32 and on the CPU, where kernels look for them, whatever torch's defaults are."""
    # It outlives the call: memory made in inference mode could not be written outside of it.
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=torch.float32, device="cpu")


@lru_cache(maxsize=1)
def _load() -> ctypes.CDLL | None:
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(found.origin)
    for name, (arguments, result) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
