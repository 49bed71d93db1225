"""Decoding with the kernels: the LSTM over a few items in lockstep, convolutions item by item in tiles.

It is `BlockedEncoder` backwards, with the same rounds: latents and LSTM once a round, then the tiles of every lane.

Letters in shapes: C audio channels, n samples, R lanes, N blocks of channels, T frames, D latent channels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedConv, FoldedDecoder
from encodec_core.fast.native.blocked import block
from encodec_core.fast.native.chain import Chain, ChainState, can_be_blocked
from encodec_core.fast.native.groups import ROUND_TILES, TILE_SAMPLES, GroupMemory, GroupRunner
from encodec_core.fast.native.lstm import BlockedLstm, LaneStates, can_run_lstm
from encodec_core.fast.native.shared_object import floats, kernels
from encodec_core.fast.native.terms import BLOCK

__all__ = ["BlockedDecoder", "can_decode_blocked"]

Begin: TypeAlias = Callable[[Tensor], Tensor]
"""Turns some frames of an item, `[.., T]`, into latents `[D, T]`."""


def can_decode_blocked(decoder: FoldedDecoder) -> bool:
    """Whether the kernels are here and can run this decoder."""
    last = decoder.back[-1]
    return (
        kernels() is not None
        and decoder.device.type == "cpu"
        and decoder.dtype == torch.float32
        and isinstance(last, FoldedConv)
        and last.pad_mode in ("reflect", "constant")
        and can_be_blocked(decoder.front + decoder.back[:-1])
        and can_run_lstm(decoder.lstm)
    )


@dataclass(slots=True, kw_only=True)
class _Lane:
    item: Tensor
    """`[.., T]`."""
    waveform: Tensor
    """`[C, n, 1]`: the result."""
    front: ChainState
    back: ChainState
    position: int = 0
    """Frames of the item that went through the convolutions before the LSTM."""
    num_features: int = 0
    """Frames that came out of them."""
    num_samples: int = 0
    """Samples that are final."""

    @property
    def num_frames(self) -> int:
        return self.item.shape[-1]

    @property
    def is_at_end(self) -> bool:
        return self.position == self.num_frames


class BlockedDecoder:
    """Decodes items of any lengths; what one becomes does not depend on the others.

    Where torch has several threads, each takes a share of the items.

    Args:
        decoder: as `can_decode_blocked` allows.
        hop_length: of the codec.
    """

    def __init__(self, decoder: FoldedDecoder, *, hop_length: int) -> None:
        self._front = Chain(decoder.front, is_audio=False)
        self._back = Chain(decoder.back, is_audio=False, ends_in_audio=True)
        self._feature_blocks = decoder.lstm.input_size // BLOCK
        self._lstm = BlockedLstm(decoder.lstm)
        self._hop_length = hop_length
        self._num_channels = self._back.out_blocks
        self._tile_frames = max(1, TILE_SAMPLES // hop_length) if decoder.can_be_tiled else None
        self._runner = GroupRunner(one_frame=1)

    def decode(self, items: Sequence[Tensor], *, begin: Begin) -> list[Tensor]:
        """Turn items `[.., T]`, T > 0, into waveforms `[C, n]`, n = T * hop_length."""

        def run_group(indices: Sequence[int], memory: GroupMemory) -> list[Tensor]:
            return self._run_group([items[index] for index in indices], memory, begin=begin)

        return self._runner.run([item.shape[-1] for item in items], run_group)

    @torch.no_grad()
    def _run_group(self, items: Sequence[Tensor], memory: GroupMemory, *, begin: Begin) -> list[Tensor]:
        lanes = [self._start(item) for item in items]
        states = self._lstm.start(len(lanes))
        active = lanes
        while active:
            self._decode_round(active, states, memory, begin=begin)
            # The longest come first, so that the lanes which go on are the first of them all.
            active = [lane for lane in active if not lane.is_at_end]
        return [lane.waveform[..., 0] for lane in lanes]

    def _start(self, item: Tensor) -> _Lane:
        num_frames = item.shape[-1]
        # Whoever streams does not know how long an item is, and has the same bits.
        num_steps = num_frames if self._tile_frames is None else None
        return _Lane(
            item=item,
            waveform=floats(self._num_channels, num_frames * self._hop_length, 1),
            front=self._front.start(num_steps),
            back=self._back.start(num_steps),
        )

    def _decode_round(self, lanes: Sequence[_Lane], states: LaneStates, memory: GroupMemory, *, begin: Begin) -> None:
        latents = [block(begin(self._next_frames(lane))) for lane in lanes]
        most_frames = max(lane.position - lane.num_features for lane in lanes)
        shape = (len(lanes), self._feature_blocks, most_frames, BLOCK)
        memory.features.reset(2 * math.prod(shape))
        features, between = (memory.features.take(*shape) for _ in range(2))
        num_frames = [
            self._front.push(frames, lane.front, memory.workspace, is_last=lane.is_at_end, into=room).shape[1]
            for lane, frames, room in zip(lanes, latents, features, strict=True)
        ]
        of_one_frame = lanes[0].num_frames == 1
        self._lstm.run(features, states, num_frames=num_frames, of_one_frame=of_one_frame, between=between)
        for lane, frames, lane_features in zip(lanes, num_frames, features, strict=True):
            lane.num_features += frames
            self._convolve(lane, lane_features[:, :frames], memory)

    def _next_frames(self, lane: _Lane) -> Tensor:
        """Return the frames `[.., T]` of a round, and count them as done."""
        start, num_left = lane.position, lane.num_frames - lane.position
        if self._tile_frames is None or num_left < (ROUND_TILES + 0.5) * self._tile_frames:
            lane.position = lane.num_frames
        else:
            lane.position += ROUND_TILES * self._tile_frames
        return lane.item[..., start : lane.position]

    def _convolve(self, lane: _Lane, features: Tensor, memory: GroupMemory) -> None:
        """Turn features `[N, T, 16]` into the next samples."""
        tiles = (features,) if self._tile_frames is None else torch.split(features, self._tile_frames, dim=1)
        for place, tile in enumerate(tiles):
            is_last = lane.is_at_end and place == len(tiles) - 1
            room = lane.waveform[:, lane.num_samples :]
            waveform = self._back.push(tile, lane.back, memory.workspace, is_last=is_last, into=room)
            lane.num_samples += waveform.shape[1]
