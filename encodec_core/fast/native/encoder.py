"""Encoding with the kernels: convolutions item by item in tiles, the LSTM over a few items in lockstep.

lane 0   | tile tile tile tile | tile tile tile tile | tile ti |
lane 1   | tile tile tile tile | tile tile t |
lane 2   | tile t |
         '----- round 0 -------'------ round 1 ------'- round 2 -'     LSTM and quantizer once a round

Letters in shapes: C channels, n samples, R lanes, N blocks of channels, T frames, D latent channels, K codebooks (n_q).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedEncoder
from encodec_core.fast.native.blocked import unblock
from encodec_core.fast.native.chain import Chain, ChainState, Workspace, can_be_blocked
from encodec_core.fast.native.groups import ROUND_TILES, TILE_SAMPLES, GroupMemory, GroupRunner
from encodec_core.fast.native.lstm import BlockedLstm, LaneStates, can_run_lstm
from encodec_core.fast.native.programs import PIECE_STEPS
from encodec_core.fast.native.quantizer import BlockedQuantizer, FramePiece, can_quantize_blocked
from encodec_core.fast.native.shared_object import kernels
from encodec_core.fast.native.terms import BLOCK
from encodec_core.quantization.codebook import Codebook

__all__ = ["BlockedEncoder", "can_run_blocked"]


def can_run_blocked(encoder: FoldedEncoder, codebooks: Sequence[Codebook]) -> bool:
    """Whether the kernels are here and can run this encoder."""
    return (
        kernels() is not None
        and encoder.device.type == "cpu"
        and encoder.convolution_dtype == torch.float32
        and can_be_blocked(encoder.front + encoder.back)
        and can_run_lstm(encoder.lstm)
        and can_quantize_blocked(codebooks)
    )


@dataclass(slots=True, kw_only=True)
class _Lane:
    waveform: Tensor
    """`[C, n]`."""
    num_frames: int
    front: ChainState
    back: ChainState
    position: int = 0
    """Samples of the waveform that went through the convolutions."""
    num_finished: int = 0
    """Frames whose latents are known."""
    num_features: int = 0
    """Frames that came out of the convolutions before the LSTM."""
    latents: Tensor | None = None
    """`[N, T, 16]`: those of the round."""

    @property
    def is_at_end(self) -> bool:
        return self.position == self.waveform.shape[-1]


_Finish: TypeAlias = Callable[[Sequence[_Lane]], list[Tensor]]


class BlockedEncoder:
    """Encodes waveforms of any lengths; what one becomes does not depend on the others.

    Where torch has several threads, each takes a share of the waveforms.

    Args:
        encoder, codebooks: as `can_run_blocked` allows.
        hop_length: of the codec.
    """

    def __init__(self, encoder: FoldedEncoder, codebooks: Sequence[Codebook], *, hop_length: int) -> None:
        self._front = Chain(encoder.front, is_audio=True)
        self._back = Chain(encoder.back, is_audio=False)
        self._feature_blocks = encoder.lstm.input_size // BLOCK
        self._lstm = BlockedLstm(encoder.lstm)
        self._quantizer = BlockedQuantizer(codebooks)
        self._hop_length = hop_length
        self._tile_samples = TILE_SAMPLES if encoder.can_be_tiled else None
        self._runner = GroupRunner(one_frame=hop_length)

    def encode(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Turn waveforms `[C, n]`, n > 0, into codes uint16 `[K, T]`."""
        return self._run(waveforms, finish=self._quantize)

    def latents(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Turn waveforms `[C, n]`, n > 0, into latents `[D, T]`."""
        return self._run(waveforms, finish=_unblocked)

    def _run(self, waveforms: Sequence[Tensor], *, finish: _Finish) -> list[Tensor]:
        def run_group(indices: Sequence[int], memory: GroupMemory) -> list[Tensor]:
            return self._run_group([waveforms[index] for index in indices], memory, finish=finish)

        return self._runner.run([waveform.shape[-1] for waveform in waveforms], run_group)

    @torch.no_grad()
    def _run_group(self, waveforms: Sequence[Tensor], memory: GroupMemory, *, finish: _Finish) -> list[Tensor]:
        lanes = [self._start(waveform) for waveform in waveforms]
        states = self._lstm.start(len(lanes))
        pieces: list[list[Tensor]] = [[] for _ in lanes]
        active = lanes
        while active:
            self._encode_round(active, states, memory)
            # The longest come first, so that the lanes which go on are the first of them all.
            for lane, own, piece in zip(active, pieces[: len(active)], finish(active), strict=True):
                own.append(piece)
                lane.num_finished += piece.shape[-1]
            active = [lane for lane in active if not lane.is_at_end]
        return [torch.cat(own, -1) for own in pieces]

    def _start(self, waveform: Tensor) -> _Lane:
        num_samples = waveform.shape[-1]
        num_frames = -(-num_samples // self._hop_length)
        front, back = self._front.start(num_samples), self._back.start(num_frames)
        return _Lane(waveform=waveform, num_frames=num_frames, front=front, back=back)

    def _encode_round(self, lanes: Sequence[_Lane], states: LaneStates, memory: GroupMemory) -> None:
        tiles = [self._next_tiles(lane) for lane in lanes]
        most_frames = max(-(-lane.position // self._hop_length) - lane.num_features for lane in lanes)
        shape = (len(lanes), self._feature_blocks, most_frames, BLOCK)
        memory.features.reset(2 * math.prod(shape))
        features, between = (memory.features.take(*shape) for _ in range(2))
        num_frames = [
            self._convolve(lane, lane_tiles, memory.workspace, into=room)
            for lane, lane_tiles, room in zip(lanes, tiles, features, strict=True)
        ]
        of_one_frame = lanes[0].num_frames == 1
        self._lstm.run(features, states, num_frames=num_frames, of_one_frame=of_one_frame, between=between)
        for lane, frames, lane_features in zip(lanes, num_frames, features, strict=True):
            x = lane_features[:, :frames].contiguous()
            lane.latents = self._back.push(x, lane.back, memory.workspace, is_last=lane.is_at_end)

    def _next_tiles(self, lane: _Lane) -> list[Tensor]:
        """Return the tiles `[C, n, 1]` of a round, and count them as done."""
        tiles: list[Tensor] = []
        while len(tiles) < ROUND_TILES and not lane.is_at_end:
            num_left = lane.waveform.shape[-1] - lane.position
            end = lane.position + (num_left if self._tile_samples is None else _tile_samples(num_left))
            tiles.append(lane.waveform[:, lane.position : end].cpu().unsqueeze(-1).contiguous())
            lane.position = end
        return tiles

    def _convolve(self, lane: _Lane, tiles: Sequence[Tensor], workspace: Workspace, *, into: Tensor) -> int:
        """Put the features of tiles `[C, n, 1]` into `[N, T, 16]`, and return how many frames they are."""
        num_frames = 0
        for place, tile in enumerate(tiles):
            is_last = lane.is_at_end and place == len(tiles) - 1
            features = self._front.push(tile, lane.front, workspace, is_last=is_last, into=into[:, num_frames:])
            num_frames += features.shape[1]
        lane.num_features += num_frames
        return num_frames

    def _quantize(self, lanes: Sequence[_Lane]) -> list[Tensor]:
        pieces = [
            FramePiece(frames=lane.latents, first_frame=lane.num_finished, item_frames=lane.num_frames)
            for lane in lanes
            if lane.latents is not None
        ]
        return [piece.codes for piece in self._quantizer.quantize(pieces)]


def _unblocked(lanes: Sequence[_Lane]) -> list[Tensor]:
    return [unblock(lane.latents) for lane in lanes if lane.latents is not None]


def _tile_samples(num_left: int) -> int:
    """Return how long the next tile is: whole pieces, for which programs are, and in the end a piece or less."""
    if num_left <= PIECE_STEPS:
        return num_left
    return min(TILE_SAMPLES, (num_left - 1) // PIECE_STEPS * PIECE_STEPS)
