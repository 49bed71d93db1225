"""The nearest entry to every frame in one Triton kernel, in true float32, without the matrix of all distances.

Letters in shapes: N frames, D latent channels, E entries.

Imported only where Triton is: `quantizer` asks for it and goes on without.
"""

import torch
import triton
from torch import Tensor
from triton import language as tl

__all__ = ["fits_kernel", "quantize_level"]

BLOCK_FRAMES = 64
BLOCK_ENTRIES = 64
BLOCK_CHANNELS = 32


def fits_kernel(entries: Tensor) -> bool:
    """Whether the kernel takes entries `[E, D]`: float32, in whole blocks."""
    num_entries, num_channels = entries.shape
    return entries.dtype == torch.float32 and num_entries % BLOCK_ENTRIES == num_channels % BLOCK_CHANNELS == 0


def quantize_level(residual: Tensor, entries: Tensor, squares: Tensor, *, codes: Tensor) -> None:
    """Write the entry nearest to each frame, and take it off the frame.

    Args:
        residual: float32 `[N, D]`, contiguous; changed in place.
        entries: float32 `[E, D]`, contiguous; see `fits_kernel`.
        squares: float32 `[E]`: their squared norms.
        codes: int16 `[N]`, contiguous: where the codes go, of which only the lowest 16 bits count.
    """
    num_frames, num_channels = residual.shape
    _quantize_level[(triton.cdiv(num_frames, BLOCK_FRAMES),)](
        residual,
        entries,
        squares,
        codes,
        num_frames,
        num_entries=entries.shape[0],
        num_channels=num_channels,
        block_frames=BLOCK_FRAMES,
        block_entries=BLOCK_ENTRIES,
        block_channels=BLOCK_CHANNELS,
    )


# One variant whatever the number of frames and wherever the codes begin: another would be compiled in the middle of a
# job, where nobody falls back.
@triton.jit(do_not_specialize=["num_frames", "codes"])  # type: ignore[untyped-decorator]
def _quantize_level(  # type: ignore[no-untyped-def]
    residual,
    entries,
    squares,
    codes,
    num_frames,
    num_entries: tl.constexpr,
    num_channels: tl.constexpr,
    block_frames: tl.constexpr,
    block_entries: tl.constexpr,
    block_channels: tl.constexpr,
):
    rows = tl.program_id(0) * block_frames + tl.arange(0, block_frames)
    is_frame = rows < num_frames
    row_starts = rows.to(tl.int64)[:, None] * num_channels
    columns = tl.arange(0, block_channels)
    lowest = tl.full([block_frames], float("inf"), tl.float32)
    nearest = tl.zeros([block_frames], tl.int32)
    for first in range(0, num_entries, block_entries):
        names = first + tl.arange(0, block_entries)
        products = tl.zeros([block_frames, block_entries], tl.float32)
        for channel in range(0, num_channels, block_channels):
            part = tl.load(residual + row_starts + (channel + columns)[None, :], mask=is_frame[:, None], other=0.0)
            block = tl.load(entries + names[None, :] * num_channels + (channel + columns)[:, None])
            products = tl.dot(part, block, products, input_precision="ieee")
        # |r|^2 is the same for all entries.
        distances = tl.load(squares + names)[None, :] - 2.0 * products
        low = tl.min(distances, axis=1)
        place = tl.argmin(distances, axis=1, tie_break_left=True)
        is_nearer = low < lowest
        nearest = tl.where(is_nearer, first + place, nearest)
        lowest = tl.where(is_nearer, low, lowest)
    tl.store(codes + rows, nearest.to(tl.int16), mask=is_frame)
    for channel in range(0, num_channels, block_channels):
        places = row_starts + (channel + columns)[None, :]
        part = tl.load(residual + places, mask=is_frame[:, None], other=0.0)
        chosen = tl.load(entries + nearest[:, None] * num_channels + (channel + columns)[None, :])
        tl.store(residual + places, part - chosen, mask=is_frame[:, None])
