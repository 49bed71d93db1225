"""Encoding on a CPU, and long items anywhere: convolutions per item in tiles, the LSTM over a few items in lockstep.

lane 0   | tile tile tile tile | tile tile tile tile | tile ti |
lane 1   | tile tile tile tile | tile tile t |
lane 2   | tile t |
         '----- round 0 -------'------ round 1 ------'- round 2 -'     LSTM and quantizer once a round
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from encodec_core.fast.layers import FoldedEncoder
from encodec_core.fast.lstm import MAX_LANES, LaneLstm
from encodec_core.fast.tiles import StageState, initial_state, push
from encodec_core.modules.lstm import LstmState

__all__ = ["Finish", "LaneEncoder"]

Finish = Callable[[list[Tensor]], list[Tensor]]
"""What becomes of the latents `[D, T_i]` of some lanes: as many tensors `[.., T_i]`."""

TILE_SAMPLES = 24_000
"""Samples per tile, which bounds the memory. Tiles of 9,600 take 10 % longer, of 4,800 half as long again; of 48,000 5
% less (1 x 30 s and 8 x 5 s on one core, AMD EPYC, shared)."""
ROUND_TILES = 4
"""Tiles of each lane per round. One takes 10 % longer on a lone item, because the LSTM sorts its weights at every call;
eight save nothing (measured likewise)."""


@dataclass(slots=True)
class _Lane:
    waveform: Tensor
    """`[C, n]`."""
    front: list[StageState]
    back: list[StageState]
    lstm: LstmState | None = None
    position: int = 0
    """Samples of the waveform that went through the convolutions."""
    finished: list[Tensor] = field(default_factory=list)

    @property
    def is_at_end(self) -> bool:
        return self.position == self.waveform.shape[-1]


class LaneEncoder:
    """Runs a folded encoder over groups of items; what an item becomes does not depend on its group.

    Args:
        encoder: the encoder.
        convolution_dtype: what its convolutions compute in.
        tile_samples: samples per tile; None: as measured. An encoder that cannot be tiled takes items whole.
    """

    def __init__(
        self, encoder: FoldedEncoder, *, convolution_dtype: torch.dtype, tile_samples: int | None = None
    ) -> None:
        self._encoder = encoder
        self._lstm = LaneLstm(encoder.lstm)
        self._convolution_dtype = convolution_dtype
        self._tile_samples = (tile_samples or TILE_SAMPLES) if encoder.can_be_tiled else None

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the items of each group: few enough, and alike in length, for a round waits for its longest lane."""
        by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        return [by_length[start : start + MAX_LANES] for start in range(0, len(by_length), MAX_LANES)]

    @torch.no_grad()
    def encode(self, waveforms: Sequence[Tensor], *, finish: Finish) -> list[Tensor]:
        """Encode one group of waveforms `[C, n]`, n > 0, to what `finish` makes of their latents."""
        lanes = [
            _Lane(
                waveform=waveform.to(self._convolution_dtype),
                front=initial_state(self._encoder.front),
                back=initial_state(self._encoder.back),
            )
            for waveform in waveforms
        ]
        active = lanes
        while active:
            features = [self._next_features(lane) for lane in active]
            latents = self._latents(active, features)
            for lane, piece in zip(active, finish(latents), strict=True):
                lane.finished.append(piece)
            active = [lane for lane in active if not lane.is_at_end]
        return [torch.cat(lane.finished, -1) for lane in lanes]

    def _next_features(self, lane: _Lane) -> Tensor:
        tiles = []
        for _ in range(ROUND_TILES):
            end = self._tile_end(lane)
            tile = lane.waveform[None, :, lane.position : end]
            lane.position = end
            tiles.append(push(tile, self._encoder.front, lane.front, is_last=lane.is_at_end))
            if lane.is_at_end:
                break
        return torch.cat(tiles, -1).to(self._encoder.dtype)

    def _tile_end(self, lane: _Lane) -> int:
        num_samples = lane.waveform.shape[-1]
        # A rest of less than half a tile goes with the tile before it.
        if self._tile_samples is None or num_samples - lane.position < 1.5 * self._tile_samples:
            return num_samples
        return lane.position + self._tile_samples

    def _latents(self, lanes: Sequence[_Lane], features: Sequence[Tensor]) -> list[Tensor]:
        latents: dict[int, Tensor] = {}
        # Lanes that go on have equal numbers of frames; those at their end are of any length, and nobody reads the
        # state after them.
        for is_last in (False, True):
            chosen = [index for index, lane in enumerate(lanes) if lane.is_at_end == is_last]
            if not chosen:
                continue
            outputs, states = self._lstm.run(
                [features[index] for index in chosen], [lanes[index].lstm for index in chosen]
            )
            for index, output, state in zip(chosen, outputs, states, strict=True):
                lanes[index].lstm = state
                x = output.to(self._convolution_dtype)
                x = push(x, self._encoder.back, lanes[index].back, is_last=is_last)
                latents[index] = x[0].to(output.dtype)
        return [latents[index] for index in range(len(lanes))]
