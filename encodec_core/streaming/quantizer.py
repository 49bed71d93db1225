"""Latents of streams to codes.

Letters in shapes: N streams, D latent channels, K codebooks in use (n_q), t frames.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedEncoder
from encodec_core.fast.native.encoder import can_run_blocked
from encodec_core.fast.native.quantizer import BlockedQuantizer, FramePiece
from encodec_core.fast.native.terms import BLOCK
from encodec_core.fast.quantizer import FrameQuantizer
from encodec_core.quantization.codebook import Codebook

__all__ = ["StreamQuantizer", "stream_quantizer"]

MANY_FRAMES = 2**40


class StreamQuantizer(Protocol):
    """Quantizes streams in lockstep."""

    def encode(self, latents: Tensor) -> Tensor:
        """Turn the next latents `[N, D, t]`, or those of one window, into codes int32 `[N, K, t]` on the CPU."""

    def start(self) -> None:
        """Begin new streams."""


def stream_quantizer(encoder: FoldedEncoder, codebooks: Sequence[Codebook], *, has_windows: bool) -> StreamQuantizer:
    """Return the quantizer that belongs to the latents of `latents_of`."""
    if can_run_blocked(encoder, codebooks):
        return _BlockedStreamQuantizer(codebooks, has_windows=has_windows)
    return _FrameStreamQuantizer(codebooks, encoder)


class _FrameStreamQuantizer:
    def __init__(self, codebooks: Sequence[Codebook], encoder: FoldedEncoder) -> None:
        self._n_q = len(codebooks)
        self._quantizer = FrameQuantizer(codebooks, device=encoder.device, dtype=encoder.dtype, small_blocks=True)

    def encode(self, latents: Tensor) -> Tensor:
        num_streams, _, num_frames = latents.shape
        codes = self._quantizer.encode(latents.transpose(1, 2).flatten(0, 1)).to(torch.int32)
        return codes.view(num_streams, num_frames, self._n_q).transpose(1, 2).cpu()

    def start(self) -> None:
        """Frames do not depend on one another."""


class _BlockedStreamQuantizer:
    """Rounds as the references do where they quantize a whole recording, or a window, alone."""

    def __init__(self, codebooks: Sequence[Codebook], *, has_windows: bool) -> None:
        self._quantizer = BlockedQuantizer(codebooks)
        self._has_windows = has_windows
        self._num_frames = 0

    def encode(self, latents: Tensor) -> Tensor:
        num_streams, num_channels, num_frames = latents.shape
        blocked = latents.reshape(num_streams, num_channels // BLOCK, BLOCK, num_frames)
        frames = blocked.transpose(2, 3).contiguous()
        first, total = (0, num_frames) if self._has_windows else (self._num_frames, MANY_FRAMES)
        pieces = [FramePiece(frames=stream, first_frame=first, item_frames=total) for stream in frames]
        self._num_frames += num_frames
        return torch.stack([piece.codes.to(torch.int32) for piece in self._quantizer.quantize(pieces)])

    def start(self) -> None:
        self._num_frames = 0
