"""Where the time of encoding goes: every call of a kernel is timed, by part and for convolutions by layer."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from encodec_core.fast.native import kernels
from encodec_core.fast.native.blocked import BlockedConv, BlockedNorm, activate

__all__ = ["PARTS", "Breakdown", "elu_nanoseconds", "timed_kernels"]

PARTS = {
    "encodec_convolve": "convolutions",
    "encodec_normalise": "norms",
    "encodec_lstm_layer": "LSTM",
    "encodec_quantize": "RVQ",
    "encodec_elu": "ELU",
}
"""By the name of the kernel. Convolutions and norms apply the ELU that follows them."""
ELU_NUMBERS = 4096
"""16 KiB, which stay in the first cache."""


@dataclass(slots=True)
class Breakdown:
    """Seconds of CPU time, and what was done in them."""

    seconds: dict[str, float] = field(default_factory=dict)
    """By part."""
    layer_seconds: dict[str, float] = field(default_factory=dict)
    """Of convolutions, by layer."""
    layer_flops: dict[str, float] = field(default_factory=dict)
    num_activated: int = 0
    """Numbers whose ELU was taken inside convolutions and norms."""


@contextmanager
def timed_kernels(found: Breakdown) -> Iterator[None]:
    """Add the times of the kernels to `found` until the end of the block, on one thread.

    Raises:
        RuntimeError: there are no kernels; see `why_absent`.
    """
    library = kernels()
    if library is None:
        raise RuntimeError("there are no kernels to time; ask `encodec_core.fast.native.why_absent` for the reason")
    kept = {name: getattr(library, name) for name in PARTS}
    convolve, normalise = BlockedConv.run, BlockedNorm.run
    layer = ""

    def timed(name: str, *arguments: Any) -> Any:
        start = time.thread_time()
        result = kept[name](*arguments)
        spent = time.thread_time() - start
        found.seconds[PARTS[name]] = found.seconds.get(PARTS[name], 0.0) + spent
        if name == "encodec_convolve":
            found.layer_seconds[layer] = found.layer_seconds.get(layer, 0.0) + spent
        return result

    def counted_convolve(self: BlockedConv, x: Tensor, *, activated: Tensor | None = None, **others: Any) -> None:
        nonlocal layer
        layer = _layer_name(self)
        num_rows = (x.shape[1] - self.conv.span) // self.conv.stride + 1
        found.layer_flops[layer] = found.layer_flops.get(layer, 0.0) + 2 * num_rows * self.conv.weight.numel()
        found.num_activated += 0 if activated is None else activated.numel()
        convolve(self, x, activated=activated, **others)

    def counted_normalise(self: BlockedNorm, x: Tensor, *, activated: Tensor | None = None, **others: Any) -> None:
        found.num_activated += 0 if activated is None else activated.numel()
        normalise(self, x, activated=activated, **others)

    with ExitStack() as patches:
        for name in PARTS:
            patches.enter_context(patch.object(library, name, partial(timed, name)))
        patches.enter_context(patch.object(BlockedConv, "run", counted_convolve))
        patches.enter_context(patch.object(BlockedNorm, "run", counted_normalise))
        yield


def elu_nanoseconds(*, tries: int) -> float:
    """Return the time of the ELU of one number by the kernel, in the first cache, the best of so many tries."""
    x = torch.randn(ELU_NUMBERS)
    best = float("inf")
    for _ in range(tries):
        start = time.thread_time()
        for _ in range(20):
            activate(x)
        best = min(best, (time.thread_time() - start) / (20 * ELU_NUMBERS))
    return 1e9 * best


def _layer_name(conv: BlockedConv) -> str:
    out_channels, in_channels, kernel_size = conv.conv.weight.shape
    stride = f" / {conv.conv.stride}" if conv.conv.stride > 1 else ""
    return f"{in_channels} → {out_channels}, kernel {kernel_size}{stride}"
