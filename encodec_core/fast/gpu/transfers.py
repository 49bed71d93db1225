"""Getting audio to a device and codes back without waiting for either.

host       pack 0   pack 1   pack 2              unpack 0   ...
side              |-copy 0-|-copy 1-|-copy 2-|
main                       |--- compute 0 ---|--- compute 1 ---|
                                             '- codes 0 to pinned memory, then an event that the host waits for
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from encodec_core.fast.gpu.memory import is_out_of_memory

__all__ = ["SideStream", "Transfers", "pinned_memory", "transfers_for"]

logger = logging.getLogger(__name__)


class Transfers(Protocol):
    """Memory of the host, and ways between it and a device."""

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return memory of the host to fill and upload."""

    def upload(self, host: Tensor) -> Tensor:
        """Return `host` on the device, ready for what is computed next; do not change `host` afterwards."""

    def download(self, result: Tensor) -> Callable[[], Tensor]:
        """Start a copy of `result` to the host; the call returned waits for it and returns it."""


def transfers_for(device: torch.device) -> Transfers:
    """Return the transfers that suit `device`."""
    return SideStream(device) if device.type == "cuda" else _Direct(device)


class _Direct:
    """Plain copies, for devices without streams."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.empty(tuple(shape), dtype=dtype)

    def upload(self, host: Tensor) -> Tensor:
        return host.to(self._device)

    def download(self, result: Tensor) -> Callable[[], Tensor]:
        host = result.cpu()
        return lambda: host


class SideStream:
    """Pinned memory, and a stream beside the one that computes, on a CUDA device.

    Pinned memory is not given to anybody else before the copies out of it are done, and memory of the device not before
    the main stream has used it: torch's allocators see to the one (they record an event at every such copy),
    `record_stream` to the other. Copies from and to memory that is not pinned, which is what there is where the host
    has no more to pin, are waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return pinned memory, where there is any left."""
        return pinned_memory(shape, dtype)

    def upload(self, host: Tensor) -> Tensor:
        """Return `host` on the device, for the stream that is current now."""
        main = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._side):
            there = host.to(self._device, non_blocking=host.is_pinned())
        main.wait_stream(self._side)
        there.record_stream(main)
        return there

    def download(self, result: Tensor) -> Callable[[], Tensor]:
        """Start a copy on the stream that is current now."""
        host = self.empty(result.shape, result.dtype)
        host.copy_(result, non_blocking=host.is_pinned())
        # The thread sleeps while it waits: decoding needs the core.
        is_there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        is_there.record(torch.cuda.current_stream(self._device))

        def wait() -> Tensor:
            is_there.synchronize()
            return host

        return wait


def pinned_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return pinned memory of the host; plain memory, and a warning, where the system pins no more."""
    try:
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        found = torch.empty(tuple(shape), dtype=dtype)
        logger.warning("%d bytes of the host cannot be pinned, and are copied more slowly: %s", found.nbytes, error)
        return found
