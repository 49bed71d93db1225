"""StreamingLanes: many recordings to codes while they arrive, each in its own time.

stream a   ── 30 s ── 30 s ── 4 s |
stream b           ── 30 s ── 30 s ── 30 s ──        convolutions one stream after the other, in tiles;
stream c                   ── 30 s ── 30 s ──        the LSTM and the quantizer once for all that are pushed together

Letters in shapes: C audio channels, n samples, K codebooks in use (n_q), t frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.placement import checked_dtype, resolve_device
from encodec_core.fast.precision import exact_float32
from encodec_core.fast.streams import StreamPush
from encodec_core.model import EncodecModel
from encodec_core.streaming.latents import LatentPiece, network_of, tile_samples
from encodec_core.streaming.quantizer import stream_quantizer
from encodec_core.streaming.streamable import check_streamable, check_waveform

__all__ = ["Lane", "StreamingLanes"]


@dataclass(slots=True, eq=False)
class Lane:
    """What one stream of a `StreamingLanes` has heard; less than a megabyte."""

    state: Any
    """Of the networks."""
    num_frames: int = 0
    """Whose codes were returned."""


@dataclass(slots=True, eq=False)
class _Pushed:
    lane: Lane
    tiles: Sequence[Tensor]
    """`[1, C, n]` each."""
    codes: list[Tensor] = field(default_factory=list)
    """int32 `[1, K, t]` each."""


class StreamingLanes:
    """Encodes recordings of a causal codec as they arrive; those that are pushed together take less time than alone.

    Args:
        model: float32 or float64, causal (24 kHz); copied once, however many streams there are.
        bandwidth_kbps: one of the model's.
        device: of torch; "auto": a GPU where torch sees one, else the CPU.

    A stream's codes are those of a `StreamingEncoder` that it has for itself: on a CPU to the last bit, whatever is
    pushed with it, and wherever it and others are cut. On a GPU the shapes of all steps follow from the stream's own
    pushes, and streams gain by company only where as many frames of them come at once.

    Threads may push different streams at once.

    Raises:
        ValueError: the codec needs the whole recording (32 kHz), or has windows, which `BatchEncoder` takes in any
            company; the bandwidth is not offered, or the model is of another dtype.
    """

    def __init__(
        self, model: EncodecModel, bandwidth_kbps: float = 6.0, *, device: str | torch.device = "auto"
    ) -> None:
        check_streamable(model.config)
        if model.config.chunk_length is not None:
            raise ValueError("this codec has windows, which do not depend on one another; use BatchEncoder")
        self._channels = model.config.audio_channels
        self.n_q = model.config.n_q_for(bandwidth_kbps)
        """Codebooks in use."""
        self.device = resolve_device(device)
        """Where codes are computed."""
        self._dtype = checked_dtype(model.dtype)
        self._tile_samples = tile_samples(1, device=self.device)
        with torch.no_grad(), exact_float32():
            encoder = fold_encoder(model.encoder, device=self.device, convolution_dtype=self._dtype)
            codebooks = model.quantizer.codebooks[: self.n_q]
            self._network = network_of(encoder, codebooks)
            self._quantizer = stream_quantizer(encoder, codebooks, has_windows=False)

    def start(self) -> Lane:
        """Begin a stream."""
        return Lane(self._network.start(1))

    def push(self, pushes: Sequence[tuple[Lane, Tensor]]) -> list[Tensor]:
        """Take the next samples of some streams, and return the codes that they complete.

        Args:
            pushes: streams, each once, with `[C, n]`, n >= 0, of the model's dtype (float32), in [-1, 1] at the model's
                rate. Values are not checked.

        Returns:
            For each stream uint16 `[K, t]` on the CPU, t >= 0.

        Raises:
            ValueError: a shape or dtype is another, or a stream is there twice. All streams are then as they were.
        """
        for _, waveform in pushes:
            check_waveform(waveform, shape=[self._channels], dtype=self._dtype)
        pushed = [_Pushed(lane, torch.split(waveform[None], self._tile_samples, -1)) for lane, waveform in pushes]
        _check_once([lane for lane, _ in pushes])
        for place in range(max((len(one.tiles) for one in pushed), default=0)):
            self._take_tiles([one for one in pushed if place < len(one.tiles)], place, are_last=False)
        return [self._joined(one.codes) for one in pushed]

    def flush(self, lanes: Sequence[Lane]) -> list[Tensor]:
        """End some streams and return the codes that are left, as `push` does; a lane's next push begins a new one."""
        _check_once(lanes)
        nothing = torch.zeros(1, self._channels, 0, dtype=self._dtype)
        pushed = [_Pushed(lane, [nothing]) for lane in lanes]
        self._take_tiles(pushed, 0, are_last=True)
        for lane in lanes:
            lane.state, lane.num_frames = self._network.start(1), 0
        return [self._joined(one.codes) for one in pushed]

    @torch.no_grad()
    def _take_tiles(self, pushed: Sequence[_Pushed], place: int, *, are_last: bool) -> None:
        with exact_float32():
            latents = self._network.push(
                [
                    StreamPush(inputs=one.tiles[place].to(self.device), state=one.lane.state, is_last=are_last)
                    for one in pushed
                ]
            )
            pieces = [
                LatentPiece(latents=own, scales=None, first_frame=one.lane.num_frames)
                for own, one in zip(latents, pushed, strict=True)
            ]
            for one, codes in zip(pushed, self._quantizer.encode(pieces) if pieces else [], strict=True):
                one.codes.append(codes)
                one.lane.num_frames += codes.shape[-1]

    def _joined(self, codes: Sequence[Tensor]) -> Tensor:
        nothing = torch.zeros(1, self.n_q, 0, dtype=torch.int32)
        return torch.cat([nothing, *codes], -1)[0].to(torch.uint16)


def _check_once(lanes: Sequence[Lane]) -> None:
    if len({id(lane) for lane in lanes}) < len(lanes):
        raise ValueError(f"{len(lanes)} streams are given, and one of them twice; give each once, its samples joined")
