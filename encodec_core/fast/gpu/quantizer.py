"""Latents to codes on a device: all frames of a batch at once, in large blocks.

Letters in shapes: N frames, D latent channels, K codebooks in use (n_q), E entries.
"""

import logging
import statistics
import time
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from encodec_core.quantization.codebook import Codebook

__all__ = ["DeviceQuantizer"]

logger = logging.getLogger(__name__)

BLOCK_FRAMES = 2**16
"""Frames whose distances to all entries exist at once: 256 MB for 1,024 entries."""
PROBE_FRAMES = 2**15
PROBE_TURNS = 5
WORTHWHILE = 1.2
"""The kernel must be this much faster than products and a search, so that noise does not decide."""
MAX_PROBE_FLIPS = 1e-3
"""Share of codes in which two float32 computations may differ: near ties. Against float64, of 8,192 frames as they are
drawn here, float32 differed in none with 8 and 32 codebooks of 1,024 entries and in 3e-5 with 4 of 2,048 (measured on a
CPU); a wrong kernel differs in nearly all."""


class DeviceQuantizer:
    """The first codebooks of a residual quantizer, for many frames at once.

    Distances are |e|^2 - 2 r.e in the dtype given, which orders entries as |r - e|^2 does; equal ones go to the lower
    code. Wherever TF32 is off for products (`exact_float32`) they are true float32.

    Args:
        codebooks: coarse first.
        device: where codes are computed.
        dtype: of the distances, float32 or float64.
    """

    def __init__(self, codebooks: Sequence[Codebook], *, device: torch.device, dtype: torch.dtype) -> None:
        self._entries = [codebook.embed.detach().to(device, dtype, copy=True).contiguous() for codebook in codebooks]
        # Powers of two change no bits.
        self._products = [(-2 * entries).t().contiguous() for entries in self._entries]
        self._squares = [entries.pow(2).sum(1) for entries in self._entries]
        self._kernel: ModuleType | None = None
        self._has_chosen = False

    @property
    def n_q(self) -> int:
        """K."""
        return len(self._entries)

    @property
    def uses_kernel(self) -> bool:
        """Whether it computes with the Triton kernel."""
        return self._kernel is not None

    def encode(self, frames: Tensor) -> Tensor:
        """`[N, D]` -> codes int16 `[K, N]` on the same device, to be read as uint16."""
        return self._encode(frames, kernel=self._kernel)

    def choose_kernel(self) -> None:
        """Use the Triton kernel from now on where it can be had, is right and is faster; asked again, nothing changes.

        Call it where TF32 is off.
        """
        if self._has_chosen:
            return
        self._has_chosen = True
        reason = self._why_no_kernel()
        if reason is not None:
            logger.info("codes are computed by products and a search: %s", reason)

    def _why_no_kernel(self) -> str | None:
        if self._entries[0].device.type != "cuda":
            return f"Triton does not compile for {self._entries[0].device.type}"
        try:
            from encodec_core.fast.gpu import nearest

            if not nearest.fits_kernel(self._entries[0]):
                return f"the kernel does not take entries of {list(self._entries[0].shape)} {self._entries[0].dtype}"
            return self._try_kernel(nearest)
        except Exception as error:  # noqa: BLE001 - whatever a compiler does on somebody's machine: the other way is as exact
            return f"Triton fails with {type(error).__name__}: {error}"

    def _try_kernel(self, nearest: ModuleType) -> str | None:
        generator = torch.Generator().manual_seed(0)
        frames = torch.randn(PROBE_FRAMES, self._entries[0].shape[1], generator=generator).to(self._entries[0])
        frames *= self._entries[0].std() * 2
        expected, by_products = _timed(lambda: self._encode(frames, kernel=None))
        found, by_kernel = _timed(lambda: self._encode(frames, kernel=nearest))
        flips = float((found != expected).float().mean())
        if flips <= MAX_PROBE_FLIPS and by_kernel * WORTHWHILE <= by_products:
            # Only now: other threads encode meanwhile, by products.
            self._kernel = nearest
            return None
        return f"the kernel takes {by_kernel / by_products:.2f} of their time and differs in {flips:.2g} of the codes"

    def _encode(self, frames: Tensor, *, kernel: ModuleType | None) -> Tensor:
        codes = frames.new_empty(len(self._entries), frames.shape[0], dtype=torch.int16)
        for start in range(0, frames.shape[0], BLOCK_FRAMES):
            block, own = frames[start : start + BLOCK_FRAMES], codes[:, start : start + BLOCK_FRAMES]
            if kernel is None:
                self._encode_block(block, own)
            else:
                self._encode_with(kernel, block, own)
        return codes

    def _encode_block(self, residual: Tensor, codes: Tensor) -> None:
        for level, (entries, products, squares) in enumerate(
            zip(self._entries, self._products, self._squares, strict=True)
        ):
            chosen = torch.addmm(squares, residual, products).argmin(1)
            codes[level] = chosen
            residual = residual - entries[chosen]

    def _encode_with(self, kernel: ModuleType, frames: Tensor, codes: Tensor) -> None:
        residual = frames.clone(memory_format=torch.contiguous_format)
        for level, (entries, squares) in enumerate(zip(self._entries, self._squares, strict=True)):
            kernel.quantize_level(residual, entries, squares, codes=codes[level])


def _timed(run: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return what `run` returns, and its median seconds once it is warm, on a CUDA device."""
    result, seconds = run(), []
    for _ in range(PROBE_TURNS):
        torch.cuda.synchronize(result.device)
        start = time.perf_counter()
        run()
        torch.cuda.synchronize(result.device)
        seconds.append(time.perf_counter() - start)
    return result, statistics.median(seconds)
