"""What one core of this machine reaches at best: multiply-adds in float32, copies, reads from the last cache.

A busy neighbour lowers all of them for as long as it is there, so a ceiling is the best of many short tries.
"""

import time
from collections.abc import Callable, Iterator

import torch
from torch.nn import functional

from encodec_core.fast.native import kernels
from encodec_core.fast.native.shared_object import pointer

__all__ = ["BANDWIDTHS", "FP32", "try_bandwidths", "try_fp32"]

FP32 = ("linear", "convolution, time last", "convolution, channels last", "fused multiply-adds in registers")
"""Ways of multiplying and adding; the last one needs the kernels."""
BANDWIDTHS = ("copy, DRAM", "read, last cache")
TRY_SECONDS = 0.06
COPIED_NUMBERS = 2**25
"""128 MiB to read and as much to write: more than any cache."""
CACHED_NUMBERS = 2**21
"""8 MiB: more than a core's own caches, and less than the cache that cores share."""
LOOP_TERMS = 192
"""Their weights are 24 KiB, which stay in the first cache."""
LOOP_ROWS = 14 * 100
BLOCK = 16


def try_fp32() -> dict[str, float]:
    """Return GFLOP/s of one core, by way, the best of a few sizes of layers."""
    found = {
        "linear": max(_rate(work, 2e-9 * macs) for work, macs in _linear()),
        "convolution, time last": max(_rate(work, 2e-9 * macs) for work, macs in _convolutions(channels_last=False)),
        "convolution, channels last": max(_rate(work, 2e-9 * macs) for work, macs in _convolutions(channels_last=True)),
    }
    if kernels() is not None:
        loop, macs = _register_loop()
        found[FP32[-1]] = _rate(loop, 2e-9 * macs)
    return found


def try_bandwidths() -> dict[str, float]:
    """Return GB/s of one core, bytes read and bytes written added up."""
    source = torch.zeros(COPIED_NUMBERS)
    target = torch.zeros(COPIED_NUMBERS)
    cached = torch.ones(CACHED_NUMBERS)
    return {
        "copy, DRAM": _rate(lambda: target.copy_(source), 8e-9 * COPIED_NUMBERS),
        "read, last cache": _rate(lambda: torch.dot(cached, cached), 4e-9 * CACHED_NUMBERS),
    }


def _rate(work: Callable[[], object], amount: float) -> float:
    """Return `amount` per second of CPU time, the best of the calls that fit into a try."""
    work()
    best, begin = 0.0, time.process_time()
    while time.process_time() - begin < TRY_SECONDS:
        start = time.process_time()
        work()
        best = max(best, amount / (time.process_time() - start))
    return best


def _linear() -> Iterator[tuple[Callable[[], object], float]]:
    for rows, inputs, outputs in ((2048, 512, 2048), (1024, 1024, 1024)):
        x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
        yield lambda x=x, weight=weight: functional.linear(x, weight), rows * inputs * outputs  # type: ignore[misc]


def _convolutions(*, channels_last: bool) -> Iterator[tuple[Callable[[], object], float]]:
    for channels, kernel_size, steps in ((64, 3, 12_000), (128, 3, 6_000), (128, 7, 3_000), (256, 3, 1_500)):
        x, weight = torch.randn(1, channels, 1, steps), torch.randn(channels, channels, 1, kernel_size)
        if channels_last:
            x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
        macs = (steps - kernel_size + 1) * channels * channels * kernel_size
        yield lambda x=x, weight=weight: torch.mkldnn_convolution(x, weight, None, (0, 0), (1, 1), (1, 1), 1), macs  # type: ignore[misc]


def _register_loop() -> tuple[Callable[[], object], float]:
    """Convolve with a step of zero and keep no result: every operand is in a register or in the first cache."""
    library = kernels()
    assert library is not None, "asked for where there are kernels"
    blocks, places = torch.zeros(LOOP_TERMS, dtype=torch.int32), torch.arange(LOOP_TERMS, dtype=torch.int32)
    ends = torch.tensor([LOOP_TERMS], dtype=torch.int32)
    weights, bias, x = torch.randn(LOOP_TERMS, 2 * BLOCK), torch.zeros(2 * BLOCK), torch.randn(LOOP_TERMS)

    def loop() -> None:
        terms = (pointer(blocks), pointer(places), pointer(ends), 1, pointer(weights), pointer(bias))
        library.encodec_convolve(pointer(x), 0, *terms, 0, LOOP_ROWS, 2, None, 0, None, 0, None, 0)

    return loop, LOOP_ROWS * LOOP_TERMS * 2 * BLOCK
