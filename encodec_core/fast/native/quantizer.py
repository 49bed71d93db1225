"""Residual vector quantization with the kernels: the bits of torch's distances, at twice torch's speed and more.

Letters in shapes: T frames of a piece, D latent channels, K codebooks in use (n_q), E entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encodec_core.fast.native.shared_object import floats, kernels, loaded_kernels, pointer
from encodec_core.fast.native.terms import BLOCK
from encodec_core.quantization.codebook import Codebook

__all__ = ["BlockedQuantizer", "FramePiece", "QuantizedPiece", "can_quantize_blocked"]

MAX_CHANNELS, MIN_ENTRIES = 192, 12
"""Where MKL's product is one chain of multiply-adds: measured with torch 2.13 on an AMD EPYC (Zen 4)."""


def can_quantize_blocked(codebooks: Sequence[Codebook]) -> bool:
    """Whether the kernels are here and give these codebooks the bits of torch."""
    shapes = {codebook.embed.shape for codebook in codebooks}
    if kernels() is None or len(shapes) != 1:
        return False
    num_entries, num_channels = shapes.pop()
    return (
        num_channels % BLOCK == 0
        and num_channels <= MAX_CHANNELS
        and MIN_ENTRIES <= num_entries <= 2**16
        and all(codebook.embed.dtype == torch.float32 for codebook in codebooks)
        and all(codebook.embed.square().sum(1).isfinite().all() for codebook in codebooks)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FramePiece:
    """Frames of an item that follow one another."""

    frames: Tensor
    """float32 `[D / 16, T, 16]`, of any strides but the last, which is 1."""
    first_frame: int = 0
    """Its place in the item."""
    item_frames: int | None = None
    """Frames of the whole item, to round as the references do when they quantize it alone. None: as they do in a batch
    of several, where the place makes no difference."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedPiece:
    """What a piece became."""

    codes: Tensor
    """uint16 `[K, T]`."""
    distances: Tensor
    """float32 `[K, T]`: squared distances of the chosen entries."""


class BlockedQuantizer:
    """The first codebooks of a residual quantizer, packed.

    Distances are those of `nearest_entries` on one thread, to the last bit, except for items of fewer than 4 frames:
    their products torch rounds in orders of their own, and here they get the one of longer items.

    Args:
        codebooks: as `can_quantize_blocked` allows, coarse first; copied.
    """

    def __init__(self, codebooks: Sequence[Codebook]) -> None:
        self._entries = torch.stack([codebook.embed.detach().cpu() for codebook in codebooks])
        n_q, num_entries, num_channels = self._entries.shape
        self._packed = floats(n_q, loaded_kernels().encodec_packed_codebook_size(num_entries, num_channels))
        for entries, packed in zip(self._entries, self._packed, strict=True):
            # A sum over the rows of `[E, D]` is what `nearest_entries` takes of the transposed view; a transposed copy
            # is summed in another order.
            squares = entries.pow(2).sum(1)
            loaded_kernels().encodec_pack_codebook(
                pointer(entries), pointer(squares), num_entries, num_channels, pointer(packed)
            )

    def quantize(self, pieces: Sequence[FramePiece]) -> list[QuantizedPiece]:
        """Quantize all pieces at once; a frame's result depends on the frame and its place in its item alone."""
        n_q, _, num_channels = self._entries.shape
        for piece in pieces:
            assert piece.frames.shape[0] * BLOCK == num_channels, f"frames have {num_channels} channels"
        quantized = [
            QuantizedPiece(
                codes=torch.empty(n_q, piece.frames.shape[1], dtype=torch.uint16, device="cpu"),
                distances=floats(n_q, piece.frames.shape[1]),
            )
            for piece in pieces
        ]
        rows = torch.tensor(
            [_row(piece, output) for piece, output in zip(pieces, quantized, strict=True)], device="cpu"
        )
        # The fields of C's `encodec_codebooks`. Addresses are not kept: a copy of this object has others.
        books = torch.tensor([pointer(self._packed), pointer(self._entries), *self._entries.shape], device="cpu")
        scratch = floats(loaded_kernels().encodec_quantize_scratch_size(num_channels))
        loaded_kernels().encodec_quantize(pointer(rows), len(pieces), pointer(books), pointer(scratch))
        return quantized


def _row(piece: FramePiece, output: QuantizedPiece) -> list[int | None]:
    """Return the fields of C's `encodec_piece`."""
    block_stride, frame_stride, channel_stride = piece.frames.stride()
    assert piece.frames.dtype == torch.float32, "frames are float32"
    assert channel_stride == 1, "16 channels of a frame lie side by side"
    num_frames, item_frames = piece.frames.shape[1], piece.item_frames or 0
    places = (num_frames, frame_stride, block_stride, piece.first_frame, item_frames)
    return [pointer(piece.frames), pointer(output.codes), pointer(output.distances), *places]
