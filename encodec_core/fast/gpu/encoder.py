"""Encoding on a GPU: convolutions in batches of alike lengths, then the LSTM and the quantizer once over all of them.

Letters in shapes: B batch, C channels, n samples of an item, t frames of it, D latent channels, K codebooks in use
(n_q), N frames of all items.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from encodec_core.fast.gpu.frames import BatchLatents, FrameEncoder
from encodec_core.fast.gpu.memory import (
    attempt,
    bytes_per_frame,
    bytes_per_sample,
    choose_budget,
    free_bytes,
    measured_bytes_per_sample,
)
from encodec_core.fast.gpu.plan import Budget, FrameBatch, plan_batches
from encodec_core.fast.gpu.quantizer import DeviceQuantizer
from encodec_core.fast.gpu.transfers import Transfers, transfers_for
from encodec_core.fast.lanes import LaneEncoder
from encodec_core.fast.layers import FoldedConv, FoldedEncoder

__all__ = ["EncodedWaveform", "GpuEncoder"]

logger = logging.getLogger(__name__)

MAX_RUNNING = 2
"""Batches on the device at once: while one computes, the next one's audio is packed and sent."""
TILE_SAMPLES = 2**20
"""Samples in a tile of an item that is too long for the convolutions at once, where the budget allows so many."""
SMALLEST_TILE = 2**16
"""Where memory does not suffice for a tile of so many, there is nothing smaller to try."""
FREE_ELSEWHERE = 2**33
"""Bytes that count as free on a device that does not say."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedWaveform:
    """What one waveform became. On the CPU."""

    codes: Tensor
    """uint16 `[K, t]`."""
    scale: Tensor | None
    """0-dimensional: the loudness divided out; None where nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Running:
    """A batch whose codes are on their way."""

    items: tuple[int, ...]
    lengths: tuple[int, ...]
    codes: Callable[[], Tensor]
    """Waits for int16 `[K, N]`."""
    scales: Callable[[], Tensor] | None
    """Waits for `[B]`."""

    def wait(self) -> Iterator[tuple[int, EncodedWaveform]]:
        """Yield each item's number and what it became."""
        codes = self.codes().view(torch.uint16)
        scales = [None] * len(self.items) if self.scales is None else list(self.scales().clone())
        for item, piece, scale in zip(self.items, torch.split(codes, list(self.lengths), dim=1), scales, strict=True):
            # Copied: a view would keep the whole batch in pinned memory.
            yield item, EncodedWaveform(codes=piece.clone(memory_format=torch.contiguous_format), scale=scale)


class GpuEncoder:
    """Encodes waveforms of any lengths in few large steps; equal, up to rounding, to encoding each alone.

    Nothing in it but its speed depends on a GPU: on another device it computes the same, waiting for every copy.

    Args:
        encoder: on the device.
        quantizer: on the same device.
        convolution_dtype: what convolutions compute in.
        normalize: divide each waveform by its loudness first.
        budget: what is on the device at once; None: sized at the first call from the memory that is free then.
        transfers: ways between host and device; None: those that suit the device.
        filler: what padding is filled with.
    """

    def __init__(
        self,
        encoder: FoldedEncoder,
        quantizer: DeviceQuantizer,
        *,
        convolution_dtype: torch.dtype,
        normalize: bool,
        budget: Budget | None = None,
        transfers: Transfers | None = None,
        filler: float = 0.0,
    ) -> None:
        self._encoder = encoder
        self._quantizer = quantizer
        self._budget = budget
        self._transfers = transfers_for(encoder.device) if transfers is None else transfers
        self._frames = FrameEncoder(
            encoder,
            convolution_dtype=convolution_dtype,
            normalize=normalize,
            transfers=self._transfers,
            filler=filler,
        )
        self._convolution_dtype = convolution_dtype
        self._lanes: LaneEncoder | None = None
        self.num_padded_samples = 0
        """Samples, so far, with which `encode` filled items up to the longest of their convolution batch."""

    @property
    def budget(self) -> Budget:
        """What is on the device at once; asking for it the first time measures."""
        if self._budget is None:
            with _on(self._encoder.device), torch.no_grad():
                self._budget = self._size_budget()
        return self._budget

    @torch.no_grad()
    def encode(self, waveforms: Sequence[Tensor]) -> list[EncodedWaveform]:
        """Encode waveforms `[C, n]`, n > 0.

        A batch for which the device has no memory is halved, and later ones are not made larger again; an item that
        does not fit alone goes through the convolutions in tiles, where the encoder can.

        Raises:
            torch.OutOfMemoryError: not even the smallest step fits.
        """
        encoded: dict[int, EncodedWaveform] = {}
        with _on(self._encoder.device):
            self._quantizer.choose_kernel()
            short, long = self._by_route(waveforms, range(len(waveforms)))
            encoded.update(self._encode_short(waveforms, short))
            encoded.update(self._encode_long(waveforms, long))
        return [encoded[index] for index in range(len(waveforms))]

    @torch.no_grad()
    def latents(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Return what `encode` quantizes: for each waveform `[D, t]`, on the device."""
        found: dict[int, Tensor] = {}
        with _on(self._encoder.device):
            short, long = self._by_route(waveforms, range(len(waveforms)))
            for batch in self._plan(waveforms, short):
                encoded = self._encode_frames(waveforms, batch)
                for index, latents, length in zip(batch.items, encoded.latents, encoded.lengths, strict=True):
                    found[index] = latents[:, :length]
            for group in self._lane_groups(waveforms, long):
                audio = [self._frames.load([waveforms[index]]).audio[0] for index in group]
                found |= zip(group, self._lane_encoder().encode(audio, finish=list), strict=True)
        return [found[index] for index in range(len(waveforms))]

    def _by_route(self, waveforms: Sequence[Tensor], indices: Sequence[int]) -> tuple[list[int], list[int]]:
        """Say which waveforms go through the convolutions whole, and which in tiles."""
        limit = self.budget.samples
        short: list[int] = []
        long: list[int] = []
        for index in indices:
            is_long = self._encoder.can_be_tiled and waveforms[index].shape[-1] > limit
            (long if is_long else short).append(index)
        return short, long

    def _encode_short(
        self, waveforms: Sequence[Tensor], indices: Sequence[int]
    ) -> Iterator[tuple[int, EncodedWaveform]]:
        waiting = deque(self._plan(waveforms, indices))
        running: deque[_Running] = deque()
        too_long: list[int] = []
        while waiting:
            batch = waiting.popleft()
            can_shrink = self._can_shrink(waveforms, batch.items)
            started = attempt(partial(self._start, waveforms, batch), can_shrink=can_shrink)
            if started is None:
                while running:
                    yield from running.popleft().wait()
                self._halve_budget(waveforms, batch)
                left, long = self._by_route(
                    waveforms, [*batch.items, *(index for other in waiting for index in other.items)]
                )
                waiting = deque(self._plan(waveforms, left))
                too_long += long
                continue
            running.append(started)
            if len(running) == MAX_RUNNING:
                yield from running.popleft().wait()
        while running:
            yield from running.popleft().wait()
        yield from self._encode_long(waveforms, too_long)

    def _encode_long(
        self, waveforms: Sequence[Tensor], indices: Sequence[int]
    ) -> Iterator[tuple[int, EncodedWaveform]]:
        waiting = deque(self._lane_groups(waveforms, indices))
        while waiting:
            group = waiting.popleft()
            tile = self._tile_samples()
            can_shrink = len(group) > 1 or tile > SMALLEST_TILE
            found = attempt(partial(self._run_lanes, waveforms, group), can_shrink=can_shrink)
            if found is not None:
                yield from zip(group, found, strict=True)
            elif len(group) > 1:
                half = len(group) // 2
                waiting.extendleft([group[half:], group[:half]])
            else:
                self._limit(samples=tile // 2, frames=self.budget.frames)
                waiting.appendleft(group)

    def _plan(self, waveforms: Sequence[Tensor], indices: Sequence[int]) -> list[FrameBatch]:
        batches = plan_batches(
            [waveforms[index].shape[-1] for index in indices],
            hop_length=self._frames.hop_length,
            budget=self.budget,
            can_share_batches=self._frames.can_share_batches,
        )
        return [
            FrameBatch(groups=tuple(tuple(indices[place] for place in group) for group in batch.groups))
            for batch in batches
        ]

    def _start(self, waveforms: Sequence[Tensor], batch: FrameBatch) -> _Running:
        encoded = self._encode_frames(waveforms, batch)
        codes = self._quantizer.encode(self._frames.frames(encoded))
        for group in batch.groups:
            lengths = [waveforms[index].shape[-1] for index in group]
            self.num_padded_samples += len(lengths) * max(lengths) - sum(lengths)
        return _Running(
            items=batch.items,
            lengths=encoded.lengths,
            codes=self._transfers.download(codes),
            scales=None if encoded.scales is None else self._transfers.download(encoded.scales),
        )

    def _encode_frames(self, waveforms: Sequence[Tensor], batch: FrameBatch) -> BatchLatents:
        return self._frames.encode(waveforms, batch, max_lstm_frames=max(1, self.budget.frames // 4))

    def _lane_groups(self, waveforms: Sequence[Tensor], indices: Sequence[int]) -> list[list[int]]:
        groups = self._lane_encoder().groups([waveforms[index].shape[-1] for index in indices])
        return [[indices[place] for place in group] for group in groups]

    def _run_lanes(self, waveforms: Sequence[Tensor], indices: Sequence[int]) -> list[EncodedWaveform]:
        loaded = [self._frames.load([waveforms[index]]) for index in indices]
        codes = self._lane_encoder().encode([group.audio[0] for group in loaded], finish=self._quantize)
        scales = [None if group.scales is None else group.scales[0].cpu() for group in loaded]
        return [
            EncodedWaveform(codes=one.cpu().view(torch.uint16), scale=scale)
            for one, scale in zip(codes, scales, strict=True)
        ]

    def _lane_encoder(self) -> LaneEncoder:
        if self._lanes is None:
            self._lanes = LaneEncoder(
                self._encoder, convolution_dtype=self._convolution_dtype, tile_samples=self._tile_samples()
            )
        return self._lanes

    def _tile_samples(self) -> int:
        return max(SMALLEST_TILE, min(TILE_SAMPLES, self.budget.samples))

    def _quantize(self, latents: list[Tensor]) -> list[Tensor]:
        codes = self._quantizer.encode(torch.cat([piece.t() for piece in latents]))
        return list(torch.split(codes, [piece.shape[-1] for piece in latents], dim=1))

    def _size_budget(self) -> Budget:
        device, per_sample, free = self._encoder.device, bytes_per_sample(self._encoder), FREE_ELSEWHERE
        if device.type == "cuda":
            per_sample = measured_bytes_per_sample(self._run_front, device=device, expected=per_sample)
            free = free_bytes(device)
        per_frame = bytes_per_frame(self._encoder, n_q=self._quantizer.n_q)
        return choose_budget(free=free, per_sample=per_sample, per_frame=per_frame)

    def _run_front(self, num_samples: int) -> Tensor:
        first = self._encoder.front[0]
        assert isinstance(first, FoldedConv)
        ramp = torch.linspace(-1, 1, num_samples, dtype=self._encoder.dtype)
        return self._frames.convolve(self._frames.load([ramp.expand(first.weight.shape[1], num_samples)]))

    def _can_shrink(self, waveforms: Sequence[Tensor], indices: Sequence[int]) -> bool:
        is_alone = len(indices) == 1
        return not is_alone or (self._encoder.can_be_tiled and waveforms[indices[0]].shape[-1] > SMALLEST_TILE)

    def _halve_budget(self, waveforms: Sequence[Tensor], batch: FrameBatch) -> None:
        """Allow half of what was too much, which leaves at least one item less in a batch, or sends one into tiles."""
        longest = [waveforms[group[0]].shape[-1] for group in batch.groups]
        samples = max(len(group) * length for group, length in zip(batch.groups, longest, strict=True))
        frames = len(batch.items) * -(-longest[0] // self._frames.hop_length)
        logger.warning(
            "%s has no memory for %d items of up to %d samples", self._encoder.device, len(batch.items), longest[0]
        )
        self._limit(samples=samples // 2, frames=frames // 2)

    def _limit(self, *, samples: int, frames: int) -> None:
        self._budget, self._lanes = Budget(samples=max(1, samples), frames=max(1, frames)), None
        logger.warning(
            "from now on batches on %s have at most %d samples and %d frames",
            self._encoder.device,
            self._budget.samples,
            self._budget.frames,
        )


def _on(device: torch.device) -> AbstractContextManager[object]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
