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
from encodec_core.fast.native.program import Program
from encodec_core.fast.native.shared_object import pointer

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
BLOCK = 16
ROWS, BLOCKS, ACTIVATED = 11, 12, 19
"""Places of fields in a call of a program: outputs in time, their blocks, where their ELU goes (-1: it does not)."""


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
    timing_seconds: float = 0.0
    """CPU time that the timing took itself: programs are taken apart, a call of a kernel at a time."""

    def add(self, part: str, seconds: float) -> None:
        """Count time of a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def add_convolution(self, conv: BlockedConv, seconds: float, *, num_rows: int) -> None:
        """Count time of a convolution of so many outputs in time."""
        layer = _layer_name(conv)
        self.add(PARTS["encodec_convolve"], seconds)
        self.layer_seconds[layer] = self.layer_seconds.get(layer, 0.0) + seconds
        self.layer_flops[layer] = self.layer_flops.get(layer, 0.0) + 2 * num_rows * conv.conv.weight.numel()


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
    conv_in_hand: BlockedConv | None = None
    num_rows = 0

    def timed(name: str, *arguments: Any) -> Any:
        start = time.thread_time()
        result = kept[name](*arguments)
        spent = time.thread_time() - start
        if name == "encodec_convolve" and conv_in_hand is not None:
            found.add_convolution(conv_in_hand, spent, num_rows=num_rows)
        else:
            found.add(PARTS[name], spent)
        return result

    def counted_convolve(self: BlockedConv, x: Tensor, *, activated: Tensor | None = None, **others: Any) -> None:
        nonlocal conv_in_hand, num_rows
        conv_in_hand, num_rows = self, (x.shape[1] - self.conv.span) // self.conv.stride + 1
        found.num_activated += 0 if activated is None else activated.numel()
        convolve(self, x, activated=activated, **others)

    def counted_normalise(self: BlockedNorm, x: Tensor, *, activated: Tensor | None = None, **others: Any) -> None:
        found.num_activated += 0 if activated is None else activated.numel()
        normalise(self, x, activated=activated, **others)

    def timed_calls(self: Program, tensors: Tensor) -> None:
        start, inside = time.thread_time(), 0.0
        for conv, call, fields in zip(self.convs, self.calls, self.calls.tolist(), strict=True):
            begin = time.thread_time()
            library.encodec_run(pointer(call), 1, pointer(tensors))
            spent = time.thread_time() - begin
            inside += spent
            if conv is not None:
                found.add_convolution(conv, spent, num_rows=fields[ROWS])
                found.num_activated += fields[ROWS] * fields[BLOCKS] * BLOCK if fields[ACTIVATED] >= 0 else 0
        found.timing_seconds += time.thread_time() - start - inside

    with ExitStack() as patches:
        for name in PARTS:
            patches.enter_context(patch.object(library, name, partial(timed, name)))
        patches.enter_context(patch.object(BlockedConv, "run", counted_convolve))
        patches.enter_context(patch.object(BlockedNorm, "run", counted_normalise))
        patches.enter_context(patch.object(Program, "make_calls", timed_calls))
        yield


def elu_nanoseconds(*, tries: int) -> float:
    """Return the time of the ELU of one number by the kernel, in the first cache, the best of so many tries."""
    many, few = torch.randn(ELU_NUMBERS), torch.randn(BLOCK)
    # A call of a kernel takes as long as the ELU of a thousand numbers; those inside of others have none.
    return 1e9 * (_best_seconds(many, tries=tries) - _best_seconds(few, tries=tries)) / (ELU_NUMBERS - BLOCK)


def _best_seconds(x: Tensor, *, tries: int) -> float:
    best = float("inf")
    for _ in range(tries):
        start = time.thread_time()
        for _ in range(20):
            activate(x)
        best = min(best, (time.thread_time() - start) / 20)
    return best


def _layer_name(conv: BlockedConv) -> str:
    out_channels, in_channels, kernel_size = conv.conv.weight.shape
    stride = f" / {conv.conv.stride}" if conv.conv.stride > 1 else ""
    return f"{in_channels} → {out_channels}, kernel {kernel_size}{stride}"
