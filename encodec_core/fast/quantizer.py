"""Latents to codes, in blocks of one shape, and codes to latents.

Letters in shapes: B batch, T frames, N frames of all, D latent channels, K codebooks in use (n_q), E entries.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.quantization.codebook import Codebook

__all__ = ["FrameDequantizer", "FrameQuantizer"]

BLOCK_FRAMES = 128
"""Frames in a block. Products of fewer than 8 rows differ in their bits from those of more, and with the number of
threads (measured with MKL on an AMD EPYC), so every block has this many, filled up with zeros. Larger blocks are no
faster there."""
SMALL_BLOCKS = (8, 16, 32, 64)
"""Sizes of a block for few frames: eight codebooks of the 24 kHz codec take 1.5 ms with 8 rows and 6.6 ms with 128 (one
core, AMD EPYC)."""


class FrameQuantizer:
    """The first codebooks of a residual quantizer, with the norms of their entries computed once.

    Args:
        codebooks: coarse first.
        device: where codes are computed.
        dtype: of the distances, float32 or float64.
        small_blocks: put few frames into a smaller block, of the sizes that give the same bits on this machine.
    """

    def __init__(
        self,
        codebooks: Sequence[Codebook],
        *,
        device: torch.device,
        dtype: torch.dtype,
        small_blocks: bool = False,
    ) -> None:
        self._entries = [codebook.embed.detach().to(device, dtype, copy=True) for codebook in codebooks]
        self._transposed = [entries.t().contiguous() for entries in self._entries]
        # The sum over the rows of `[E, D]` has the bits of `nearest_entries`, that of a transposed copy has not.
        self._squares = [entries.pow(2).sum(1)[None] for entries in self._entries]
        self._sizes = (*(_agreeing_sizes(self._transposed[0]) if small_blocks else ()), BLOCK_FRAMES)

    def encode(self, frames: Tensor) -> Tensor:
        """`[N, D]` -> codes int64 `[N, K]`."""
        num_frames = frames.shape[0]
        rest = num_frames % BLOCK_FRAMES
        size = next(size for size in self._sizes if size >= rest) if rest else 0
        padded = functional.pad(frames, (0, 0, 0, size - rest))
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


class FrameDequantizer:
    """Codes back to latents, with the bits of `ResidualVectorQuantizer.dequantize`.

    Args:
        codebooks: coarse first.
        device: where latents are computed.
    """

    def __init__(self, codebooks: Sequence[Codebook], *, device: torch.device) -> None:
        self._entries = [codebook.embed.detach().to(device, copy=True) for codebook in codebooks]

    def decode(self, codes: Tensor) -> Tensor:
        """Codes int64 `[B, K, T]` -> `[B, D, T]`; K is at most the number of codebooks."""
        latents = torch.zeros((), device=codes.device)
        for entries, chosen in zip(self._entries, codes.unbind(1), strict=False):
            latents = latents + functional.embedding(chosen, entries)
        return latents.transpose(1, 2).contiguous()


def _agreeing_sizes(transposed: Tensor) -> tuple[int, ...]:
    """Return the sizes of `SMALL_BLOCKS` whose products with `[D, E]` have a whole block's bits, smallest first."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(BLOCK_FRAMES, transposed.shape[0], generator=generator).to(transposed)
    expected = torch.mm(frames, transposed)
    return tuple(
        size
        for size in SMALL_BLOCKS
        if torch.equal(torch.cat([torch.mm(block, transposed) for block in torch.split(frames, size)]), expected)
    )
