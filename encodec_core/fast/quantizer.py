"""Latents to codes, in blocks of one shape.

Letters in shapes: N frames, D latent channels, K codebooks in use (n_q), E entries.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.quantization.codebook import Codebook

__all__ = ["FrameQuantizer"]

BLOCK_FRAMES = 128
"""Frames in a block. Products of fewer than 8 rows differ in their bits from those of more, and with the number of
threads (measured with MKL on an AMD EPYC), so every block has this many, filled up with zeros. Larger blocks are no
faster there."""


class FrameQuantizer:
    """The first codebooks of a residual quantizer, with the norms of their entries computed once.

    Args:
        codebooks: coarse first.
        device: where codes are computed.
        dtype: of the distances, float32 or float64.
    """

    def __init__(self, codebooks: Sequence[Codebook], *, device: torch.device, dtype: torch.dtype) -> None:
        self._entries = [codebook.embed.detach().to(device, dtype, copy=True) for codebook in codebooks]
        self._transposed = [entries.t().contiguous() for entries in self._entries]
        self._squares = [transposed.pow(2).sum(0, keepdim=True) for transposed in self._transposed]

    def encode(self, frames: Tensor) -> Tensor:
        """`[N, D]` -> codes int64 `[N, K]`."""
        num_frames = frames.shape[0]
        padded = functional.pad(frames, (0, 0, 0, -num_frames % BLOCK_FRAMES))
        blocks = [self._encode_block(block) for block in torch.split(padded, BLOCK_FRAMES)]
        return torch.cat(blocks)[:num_frames] if blocks else frames.new_empty(0, len(self._entries), dtype=torch.int64)

    def _encode_block(self, residual: Tensor) -> Tensor:
        codes = []
        for entries, transposed, squares in zip(self._entries, self._transposed, self._squares, strict=True):
            # The order of operations of `nearest_entries`, so that near ties fall as they do in the references.
            distances = torch.mm(2 * residual, transposed)
            torch.sub(residual.pow(2).sum(1, keepdim=True), distances, out=distances).add_(squares)
            chosen = distances.min(dim=1).indices
            residual = residual - entries[chosen]
            codes.append(chosen)
        return torch.stack(codes, dim=1)
