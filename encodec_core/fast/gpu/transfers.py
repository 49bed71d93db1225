"""Getting audio to a device and codes back without waiting for either.

host       pack 0   pack 1   pack 2              unpack 0   ...
side              |-copy 0-|-copy 1-|-copy 2-|
main                       |--- compute 0 ---|--- compute 1 ---|
                                             '- codes 0 to pinned memory, then an event that the host waits for
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["SideStream", "Transfers", "transfers_for"]


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
    `record_stream` to the other.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return pinned memory."""
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def upload(self, host: Tensor) -> Tensor:
        """Return `host` on the device, for the stream that is current now."""
        pinned = host if host.is_pinned() else host.pin_memory()
        main = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._side):
            there = pinned.to(self._device, non_blocking=True)
        main.wait_stream(self._side)
        there.record_stream(main)
        return there

    def download(self, result: Tensor) -> Callable[[], Tensor]:
        """Start a copy on the stream that is current now."""
        host = self.empty(result.shape, result.dtype)
        host.copy_(result, non_blocking=True)
        # The thread sleeps while it waits: decoding needs the core.
        is_there = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        is_there.record(torch.cuda.current_stream(self._device))

        def wait() -> Tensor:
            is_there.synchronize()
            return host

        return wait
