"""Latents of streams to codes.

Letters in shapes: N rows in lockstep, D latent channels, K codebooks in use (n_q), t frames.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.layers import FoldedEncoder
from encodec_core.fast.native.encoder import can_run_blocked
from encodec_core.fast.native.quantizer import BlockedQuantizer, FramePiece
from encodec_core.fast.native.terms import BLOCK
from encodec_core.fast.placement import takes_large_batches
from encodec_core.fast.quantizer import FrameQuantizer
from encodec_core.quantization.codebook import Codebook
from encodec_core.streaming.latents import LatentPiece

__all__ = ["DeviceStreamQuantizer", "StreamQuantizer", "stream_quantizer"]

MANY_FRAMES = 2**40
"""Of a recording whose length is not known yet."""


class StreamQuantizer(Protocol):
    """Quantizes what streams bring; it remembers nothing."""

    def encode(self, pieces: Sequence[LatentPiece]) -> list[Tensor]:
        """Turn latents `[N, D, t]`, one or more, into codes int32 `[N, K, t]` on the CPU.

        Args:
            pieces: of different streams, or of one window.
        """


def stream_quantizer(encoder: FoldedEncoder, codebooks: Sequence[Codebook], *, has_windows: bool) -> StreamQuantizer:
    """Return the quantizer that belongs to the latents of `latents_of`."""
    if can_run_blocked(encoder, codebooks):
        return _BlockedStreamQuantizer(codebooks, has_windows=has_windows)
    if takes_large_batches(encoder.device):
        return DeviceStreamQuantizer(DeviceQuantizer(codebooks, device=encoder.device, dtype=encoder.dtype))
    return _FrameStreamQuantizer(codebooks, encoder)


class _FrameStreamQuantizer:
    def __init__(self, codebooks: Sequence[Codebook], encoder: FoldedEncoder) -> None:
        self._quantizer = FrameQuantizer(codebooks, device=encoder.device, dtype=encoder.dtype, small_blocks=True)

    def encode(self, pieces: Sequence[LatentPiece]) -> list[Tensor]:
        codes = self._quantizer.encode(_frames(pieces)).to(torch.int32)
        return _by_piece(codes.t(), pieces)


class DeviceStreamQuantizer:
    """Quantizes as `BatchEncoder` does on a GPU, piece by piece: bits may follow from the number of frames at once."""

    def __init__(self, quantizer: DeviceQuantizer) -> None:
        self._quantizer = quantizer

    def encode(self, pieces: Sequence[LatentPiece]) -> list[Tensor]:
        """See `StreamQuantizer`."""
        device = pieces[0].latents.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            self._quantizer.choose_kernel()
            codes = torch.cat([self._quantizer.encode(_frames([piece])) for piece in pieces], 1).cpu()
        return _by_piece(codes.view(torch.uint16).to(torch.int32), pieces)


class _BlockedStreamQuantizer:
    """Rounds as the references do where they quantize a whole recording, or a window, alone."""

    def __init__(self, codebooks: Sequence[Codebook], *, has_windows: bool) -> None:
        self._quantizer = BlockedQuantizer(codebooks)
        self._has_windows = has_windows

    def encode(self, pieces: Sequence[LatentPiece]) -> list[Tensor]:
        rows = [
            FramePiece(
                frames=_blocked(row),
                first_frame=piece.first_frame,
                item_frames=row.shape[-1] if self._has_windows else MANY_FRAMES,
            )
            for piece in pieces
            for row in piece.latents
        ]
        codes = iter(self._quantizer.quantize(rows))
        return [torch.stack([next(codes).codes.to(torch.int32) for _ in piece.latents]) for piece in pieces]


def _blocked(latents: Tensor) -> Tensor:
    """`[D, t]` -> `[D / 16, t, 16]`."""
    num_channels, num_frames = latents.shape
    return latents.reshape(num_channels // BLOCK, BLOCK, num_frames).transpose(1, 2).contiguous()


def _frames(pieces: Sequence[LatentPiece]) -> Tensor:
    """All frames `[.., D]`, piece by piece, row by row."""
    return torch.cat([piece.latents.transpose(1, 2).flatten(0, 1) for piece in pieces])


def _by_piece(codes: Tensor, pieces: Sequence[LatentPiece]) -> list[Tensor]:
    """Cut the codes `[K, ..]` of `_frames` into `[N, K, t]` for each piece, on the CPU."""
    shapes = [(piece.latents.shape[0], piece.latents.shape[2]) for piece in pieces]
    own = torch.split(codes.cpu(), [num_rows * num_frames for num_rows, num_frames in shapes], dim=1)
    return [piece.reshape(piece.shape[0], *shape).transpose(0, 1) for piece, shape in zip(own, shapes, strict=True)]
