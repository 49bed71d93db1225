"""Latents to audio while they arrive: for a causal codec frame by frame, for one with windows window by window.

Letters in shapes: N streams, C audio channels, n samples, D latent channels, t frames.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from encodec_core.fast.layers import fold_decoder
from encodec_core.fast.native.decoder import BlockedDecoder, can_decode_blocked
from encodec_core.fast.native.stream import BlockedNetwork
from encodec_core.fast.plain import without_weight_norm
from encodec_core.fast.streams import Network, StreamPush
from encodec_core.model import EncodecModel
from encodec_core.streaming.latents import tile_samples
from encodec_core.streaming.network import StreamNetwork
from encodec_core.streaming.overlap import OverlapAdder

__all__ = ["CausalWaveforms", "WindowWaveforms"]


class CausalWaveforms:
    """Audio of a causal codec: that of a frame comes with it, after a start of seven frames."""

    def __init__(self, model: EncodecModel, *, num_streams: int, device: torch.device) -> None:
        decoder = fold_decoder(model.decoder, device=device)
        self._network: Network = BlockedNetwork(decoder) if can_decode_blocked(decoder) else StreamNetwork(decoder)
        self._nothing = torch.zeros(num_streams, model.config.hidden_size, 0, dtype=model.dtype, device=device)
        self._tile_frames = max(1, tile_samples(num_streams, device=device) // model.config.hop_length)
        self._state = self._network.start(num_streams)

    def push(self, latents: Tensor) -> Iterator[Tensor]:
        """Take the next latents `[N, D, t]`, t >= 0, and yield the audio that they complete, `[N, C, n]`."""
        for tile in torch.split(latents, self._tile_frames, -1):
            yield from self._network.push([StreamPush(inputs=tile, state=self._state, is_last=False)])

    def flush(self) -> Iterator[Tensor]:
        """End the streams and yield what is left; the next latents begin new ones."""
        completed = self._network.push([StreamPush(inputs=self._nothing, state=self._state, is_last=True)])
        self._state = self._network.start(self._nothing.shape[0])
        yield from completed


class WindowWaveforms:
    """Audio of a codec with windows: that before the start of the next window comes with a window."""

    def __init__(self, model: EncodecModel, *, device: torch.device) -> None:
        assert model.config.chunk_length is not None
        folded = fold_decoder(model.decoder, device=device)
        self._decode: Callable[[Tensor], Tensor]
        if can_decode_blocked(folded):
            self._decode = partial(_decode_blocked, BlockedDecoder(folded, hop_length=model.config.hop_length))
        else:
            self._decode = without_weight_norm(model.decoder).to(device)
        self._adder = OverlapAdder(stride=model.config.chunk_stride or model.config.chunk_length)

    def push(self, latents: Tensor, *, scales: Tensor) -> Tensor:
        """Take the latents `[N, D, t]` and scales `[N]` of the next window; return the audio completed, `[N, C, n]`."""
        return self._adder.push(self._decode(latents) * scales[:, None, None])

    def flush(self) -> Iterator[Tensor]:
        """End the streams and yield what is left; the next window begins new ones."""
        yield from self._adder.flush()


def _decode_blocked(decoder: BlockedDecoder, latents: Tensor) -> Tensor:
    """`[N, D, t]` -> `[N, C, n]`."""
    return torch.stack(decoder.decode(list(latents), begin=lambda frames: frames))
