"""How much fits on a GPU: from its free memory and what a sample takes, measured once and checked against the shapes.

Letters in shapes: C audio channels, n samples.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from encodec_core.fast.gpu.plan import Budget
from encodec_core.fast.layers import FoldedConv, FoldedEncoder

__all__ = [
    "attempt",
    "bytes_per_frame",
    "bytes_per_sample",
    "choose_budget",
    "free_bytes",
    "is_out_of_memory",
    "measured_bytes_per_sample",
]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

MAX_SAMPLES = 2**23
"""Samples in the convolutions at once: at 40 TFLOP/s they keep a GPU busy for 30 ms, hundreds of times the launches (an
estimate; not measured). Every GPU with 16 GB free forms batches of this size, so its shapes do not depend on what else
is there."""
MAX_FRAMES = 2**20
"""Frames in the LSTM's batch: an hour of 24 kHz audio is 270,000."""
MIN_SAMPLES = 2**16
SHARE = 0.3
"""Of the free memory for the convolutions, and as much again for the frames; the rest is for what libraries take."""
PROBE_SAMPLES = 2**18
LIKELY_FACTOR = 3
"""A measurement this much above what the shapes say means a library that trades memory for speed."""
NO_MEMORY = (
    "out of memory",
    "ALLOC_FAILED",
    "NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR",
    "unable to find an engine",
    "Unable to find a valid cuDNN algorithm",
)
"""What torch says, beside `torch.OutOfMemoryError`, where a library found no room for its workspace, its handle or its
kernels (`CUBLAS_STATUS_NOT_INITIALIZED`; github.com/pytorch/pytorch/issues/81620 for cuDNN's internal error, of which
`..._DEVICE_ALLOCATION_FAILED` is a kind). Where it is something else, smaller batches fail too, down to the last."""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a smaller batch may succeed where this one failed."""
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in str(error) for phrase in NO_MEMORY)


def attempt(run: Callable[[], Result], *, can_shrink: bool) -> Result | None:
    """Return what `run` returns; None: there was no memory for it, and what filled it is free again.

    Args:
        run: takes memory.
        can_shrink: whether there is something smaller to try.

    Raises:
        RuntimeError: whatever `run` raises where nothing smaller is left, or for another reason.
    """
    try:
        return run()
    except RuntimeError as error:
        if not can_shrink or not is_out_of_memory(error):
            raise
    # Here, because the error held on to what `run` had allocated.
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    return None


def bytes_per_sample(encoder: FoldedEncoder) -> int:
    """Return what a sample takes at the widest place of the convolutions before the LSTM, from the layers' shapes.

    Inputs, padded inputs, outputs and, within a block, its shortcut exist at once. Workspaces of libraries are not
    counted.
    """
    first = _first_conv(encoder)
    largest, rate = 0.0, 1.0
    for stage in encoder.front:
        if isinstance(stage, FoldedConv):
            largest = max(largest, rate * _conv_bytes(stage))
            rate /= stage.stride
            continue
        block_input = stage.convs[0].weight.shape[1] * stage.convs[0].weight.element_size()
        held = 0 if stage.shortcut is None else block_input  # what the shortcut returns is as large
        largest = max(largest, rate * (held + _conv_bytes(stage.convs[0])))
        largest = max(largest, *(rate * (held + block_input + _conv_bytes(conv)) for conv in stage.convs[1:]))
    audio = 2 * first.weight.shape[1] * max(4, first.weight.element_size())
    return int(largest + audio)


def bytes_per_frame(encoder: FoldedEncoder, *, n_q: int) -> int:
    """Return what a frame takes from the LSTM on, by the layers' shapes; the LSTM's workspace, bounded, not counted."""
    size = encoder.lstm.hidden_size * torch.finfo(encoder.dtype).bits // 8
    last = [stage for stage in encoder.back if isinstance(stage, FoldedConv)][-1]
    latents = last.weight.shape[0] * torch.finfo(encoder.dtype).bits // 8
    return 3 * size + 3 * latents + 4 * n_q


def choose_budget(*, free: int, per_sample: int, per_frame: int) -> Budget:
    """Return what may be on a device at once.

    Powers of two, so that a little more or less memory does not change the shapes of batches, on which bits depend.

    Args:
        free: bytes.
        per_sample, per_frame: bytes.
    """
    samples = min(MAX_SAMPLES, int(SHARE * free) // per_sample)
    frames = min(MAX_FRAMES, int(SHARE * free) // per_frame)
    return Budget(samples=max(MIN_SAMPLES, _power_of_two(samples)), frames=max(1, _power_of_two(frames)))


def free_bytes(device: torch.device) -> int:
    """Return the bytes of a CUDA device that this process could have: free ones, and those its allocator keeps.

    `torch.cuda.set_per_process_memory_fraction`, by which processes share a device, counts.
    """
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    still_allowed = int(torch.cuda.get_per_process_memory_fraction(device) * total) - reserved
    return max(0, min(free, still_allowed)) + reserved - torch.cuda.memory_allocated(device)


def measured_bytes_per_sample(run: Callable[[int], object], *, device: torch.device, expected: int) -> int:
    """Return what a sample takes, measured; not less than `expected`. The device's peak statistics start anew.

    Args:
        run: sends so many samples through the convolutions.
        device: a CUDA device.
        expected: bytes, from the shapes; where there is no room to measure, `LIKELY_FACTOR` times as many are returned.
    """
    measured = attempt(lambda: _peak_bytes(run, device=device) // PROBE_SAMPLES, can_shrink=True)
    if measured is None:
        measured = LIKELY_FACTOR * expected
        logger.warning(
            "%s has no memory for %d samples, by which batches would be sized; a sample is taken to need %d bytes",
            device,
            PROBE_SAMPLES,
            measured,
        )
        return measured
    if not expected <= measured <= LIKELY_FACTOR * expected:
        logger.warning(
            "a sample takes %d bytes on %s, %d by the shapes of the layers; batches are sized by the larger",
            measured,
            device,
            expected,
        )
    return max(measured, expected)


def _peak_bytes(run: Callable[[int], object], *, device: torch.device) -> int:
    run(PROBE_SAMPLES)  # loads libraries, which take memory once
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run(PROBE_SAMPLES)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _first_conv(encoder: FoldedEncoder) -> FoldedConv:
    first = encoder.front[0]
    assert isinstance(first, FoldedConv)
    return first


def _conv_bytes(conv: FoldedConv) -> float:
    """Return the bytes per time step of a convolution's input, its padded copy, and its outputs."""
    num_out, num_in, _ = conv.weight.shape
    is_copied = conv.span > 1 or conv.elu_before
    # A norm over items of different lengths has three more tensors like its input.
    num_outputs = 1 if conv.norm is None else 4
    return conv.weight.element_size() * (num_in * (1 + is_copied) + num_outputs * num_out / conv.stride)


def _power_of_two(number: int) -> int:
    return 1 << max(0, number.bit_length() - 1)
