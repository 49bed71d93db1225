"""One batch of waveforms to its latents on a device, in few large steps and without waiting for any.

Letters in shapes: B batch, C channels, n samples of the longest item, T frames of the longest item, D latent channels,
N frames of all items.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encodec_core.fast.gpu.plan import FrameBatch
from encodec_core.fast.gpu.transfers import Transfers
from encodec_core.fast.layers import FoldedConv, FoldedEncoder
from encodec_core.fast.loudness import batch_loudness
from encodec_core.fast.padded import Layout, can_share_batches, lay_out, run_padded

__all__ = ["BatchLatents", "FrameEncoder", "LoadedGroup"]

LSTM_FRAMES = 2**17
"""Frames, padding and all, in one call of the LSTM: cuDNN's workspace for them is about a gigabyte."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedGroup:
    """Waveforms that go through the convolutions together, on the device."""

    audio: Tensor
    """`[B, C, n]`: at the loudness and in the dtype of the convolutions."""
    layout: Layout
    scales: Tensor | None
    """`[B]`: the loudness divided out; None where nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BatchLatents:
    """What the items of a batch became, on the device."""

    latents: Tensor
    """`[B, D, T]`."""
    lengths: tuple[int, ...]
    """Frames of each item."""
    scales: Tensor | None
    """`[B]`; None where nothing was divided out."""


class FrameEncoder:
    """Runs a folded encoder over batches of waveforms.

    Args:
        encoder: on the device.
        convolution_dtype: what convolutions compute in.
        normalize: divide each waveform by its loudness first.
        transfers: ways between host and device.
        filler: what padding is filled with. No latent depends on it, which a test shows.
    """

    def __init__(
        self,
        encoder: FoldedEncoder,
        *,
        convolution_dtype: torch.dtype,
        normalize: bool,
        transfers: Transfers,
        filler: float,
    ) -> None:
        self._encoder = encoder
        # cuDNN keeps what gradients need of a module in training.
        self._encoder.lstm.eval()
        self._convolution_dtype = convolution_dtype
        self._normalize = normalize
        self._transfers = transfers
        self._filler = filler
        self.hop_length = math.prod(stage.stride for stage in encoder.front if isinstance(stage, FoldedConv))
        """Samples per frame."""
        self.can_share_batches = can_share_batches(encoder)
        """Whether items of different lengths can go through the convolutions together."""

    def load(self, waveforms: Sequence[Tensor]) -> LoadedGroup:
        """Send waveforms `[C, n_i]` to the device, in one piece."""
        device, first = self._encoder.device, waveforms[0]
        lengths = [waveform.shape[-1] for waveform in waveforms]
        shape = (len(waveforms), first.shape[0], max(lengths))
        is_there = device.type != "cpu" and all(waveform.device == device for waveform in waveforms)
        batch = first.new_empty(shape) if is_there else self._transfers.empty(shape, first.dtype)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[:, : waveform.shape[-1]] = waveform
            row[:, waveform.shape[-1] :] = self._filler
        layout = lay_out(lengths, self._encoder.front, upload=self._upload_numbers)
        audio = batch if is_there else self._transfers.upload(batch)
        scales = None
        if self._normalize:
            scales = batch_loudness(audio, layout.device_lengths[0])
            audio = audio / scales[:, None, None]
        return LoadedGroup(audio=audio.to(self._convolution_dtype), layout=layout, scales=scales)

    def convolve(self, group: LoadedGroup) -> Tensor:
        """Return what the convolutions before the LSTM make of a group: `[B, C, T]`."""
        return run_padded(group.audio, self._encoder.front, group.layout)

    def encode(self, waveforms: Sequence[Tensor], batch: FrameBatch, *, max_lstm_frames: int) -> BatchLatents:
        """Encode the waveforms `[C, n_i]` that `batch` names.

        Args:
            waveforms: among others, those of the batch.
            batch: longest item first.
            max_lstm_frames: in one call of the LSTM, padding counted.
        """
        lengths = tuple(-(-waveforms[index].shape[-1] // self.hop_length) for index in batch.items)
        # In the LSTM's layout. What follows an item's end never reaches it: the LSTM goes one way.
        num_channels = self._encoder.lstm.input_size
        steps = torch.zeros(
            lengths[0], len(lengths), num_channels, dtype=self._encoder.dtype, device=self._encoder.device
        )
        scales, first = [], 0
        for members in batch.groups:
            group = self.load([waveforms[index] for index in members])
            x = self.convolve(group)
            steps[: x.shape[-1], first : first + len(members)] = x.permute(2, 0, 1)
            first += len(members)
            scales += [] if group.scales is None else [group.scales]
        self._run_lstm(steps, max_frames=max_lstm_frames)
        layout = lay_out(lengths, self._encoder.back, upload=self._upload_numbers)
        x = run_padded(steps.permute(1, 2, 0).to(self._convolution_dtype), self._encoder.back, layout)
        return BatchLatents(
            latents=x.to(self._encoder.dtype), lengths=lengths, scales=torch.cat(scales) if scales else None
        )

    def frames(self, batch: BatchLatents) -> Tensor:
        """Return the frames of all items, one item after the other: `[N, D]`."""
        frames = batch.latents.transpose(1, 2).flatten(0, 1)
        longest = batch.latents.shape[-1]
        if min(batch.lengths) == longest:
            return frames
        places = [torch.arange(length) + row * longest for row, length in enumerate(batch.lengths)]
        return frames.index_select(0, self._upload_numbers(torch.cat(places)))

    def _run_lstm(self, steps: Tensor, *, max_frames: int) -> None:
        """Add the LSTM's output to `steps` `[T, B, C]`, in place."""
        num_steps = max(1, min(LSTM_FRAMES, max_frames) // steps.shape[1])
        state = None
        for chunk in torch.split(steps, num_steps):
            hidden, state = self._encoder.lstm(chunk, state)
            chunk += hidden

    def _upload_numbers(self, numbers: Tensor) -> Tensor:
        host = self._transfers.empty(numbers.shape, numbers.dtype)
        return self._transfers.upload(host.copy_(numbers))
