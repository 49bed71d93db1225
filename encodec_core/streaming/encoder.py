"""StreamingEncoder: audio to codes while it arrives.

Letters in shapes: N streams, C audio channels, n samples, K codebooks in use (n_q), t frames, S windows.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from encodec_core.codes import Codes
from encodec_core.fast.layers import fold_encoder
from encodec_core.fast.placement import checked_dtype, resolve_device
from encodec_core.fast.precision import exact_float32
from encodec_core.model import EncodecModel
from encodec_core.streaming.latents import LatentPiece, latents_of
from encodec_core.streaming.quantizer import stream_quantizer
from encodec_core.streaming.streamable import (
    as_batch,
    check_batch_size,
    check_streamable,
    check_waveform,
    from_batch,
)

__all__ = ["StreamingEncoder"]


class StreamingEncoder:
    """Encodes recordings of any length as they arrive, in memory that does not grow with them.

    Args:
        model: float32 or float64, causal (24 kHz) or with windows (48 kHz); copied.
        bandwidth_kbps: one of the model's.
        batch_size: N, streams that run in lockstep: each push brings as many samples of every one.
        device: of torch; "auto": a GPU where torch sees one, else the CPU.

    All that `push` and `flush` return, one after the other, is what `BatchEncoder` gives for the whole recording: on a
    CPU to the last bit, wherever it was cut and whatever the other streams are. After `flush` the next push begins a
    new stream. The exception, where the kernels of `fast.native` run, are near ties of a causal codec in recordings
    below half a second (at 24 kHz) and in a recording's last 31 frames: `BatchEncoder` rounds there as torch does for
    a whole of that length, which a stream cannot know.

        causal       codes of frame f come with sample (f + 1) * hop_length; those of the first frames with that of
                     the seventh (at 24 kHz with sample 2,240), because the last convolution reflects the start
        windows      codes of a window come with its last sample, after 1 s, or with `flush`

    One thread at a time may use an encoder.

    Raises:
        ValueError: the codec needs the whole recording (32 kHz); the bandwidth is not offered, `batch_size` is below 1,
            or the model is of another dtype.
    """

    def __init__(
        self,
        model: EncodecModel,
        bandwidth_kbps: float = 6.0,
        *,
        batch_size: int = 1,
        device: str | torch.device = "auto",
    ) -> None:
        check_streamable(model.config)
        check_batch_size(batch_size)
        self._config = model.config
        self.n_q = model.config.n_q_for(bandwidth_kbps)
        """Codebooks in use."""
        self.batch_size = batch_size
        """N."""
        self.device = resolve_device(device)
        """Where codes are computed."""
        self._dtype = checked_dtype(model.dtype)
        with torch.no_grad(), exact_float32():
            encoder = fold_encoder(model.encoder, device=self.device, convolution_dtype=self._dtype)
            codebooks = model.quantizer.codebooks[: self.n_q]
            self._latents = latents_of(model.config, encoder, codebooks, num_streams=batch_size)
            self._quantizer = stream_quantizer(encoder, codebooks, has_windows=model.config.chunk_length is not None)

    def push(self, waveform: Tensor) -> Tensor:
        """Take the next samples and return the codes that they complete.

        Args:
            waveform: `[C, n]` (`[N, C, n]` where `batch_size` is above 1), n >= 0, of the model's dtype (float32), in
                [-1, 1] at the model's rate. Values are not checked.

        Returns:
            uint16 `[K, t]` (`[N, K, t]`) on the CPU, t >= 0. Where the codec has windows, decoding needs more than
            codes: see `push_windows`.

        Raises:
            ValueError: the shape or dtype is another. The streams are then as they were.
        """
        return self._joined(self._pushed(waveform))

    def flush(self) -> Tensor:
        """End the streams and return the codes that are left, as `push` does; the next push begins new streams."""
        return self._joined(self._flushed())

    def push_windows(self, waveform: Tensor) -> list[Codes]:
        """Do as `push` for a codec with windows, and return all that decoding needs.

        Returns:
            For each of the N streams the codes, scales and frames of the windows that are complete, S >= 0.

        Raises:
            ValueError: the codec has no windows; or as of `push`.
        """
        self._check_windows()
        return self._records(self._pushed(waveform))

    def flush_windows(self) -> list[Codes]:
        """Do as `flush` for a codec with windows; returns what `push_windows` does."""
        self._check_windows()
        return self._records(self._flushed())

    def _pushed(self, waveform: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        channels = self._config.audio_channels
        shape = [channels] if self.batch_size == 1 else [self.batch_size, channels]
        check_waveform(waveform, shape=shape, dtype=self._dtype)
        batch = as_batch(waveform, batch_size=self.batch_size).to(self.device)
        return self._quantized(lambda: self._latents.push(batch))

    def _flushed(self) -> list[tuple[Tensor, Tensor | None]]:
        return self._quantized(self._latents.flush)

    @torch.no_grad()
    def _quantized(self, pieces: Callable[[], Iterator[LatentPiece]]) -> list[tuple[Tensor, Tensor | None]]:
        """Return codes int32 `[N, K, t]` on the CPU, and scales `[N]`, of each piece."""
        with exact_float32():
            return [(self._quantizer.encode([piece])[0], piece.scales) for piece in pieces()]

    def _joined(self, pieces: list[tuple[Tensor, Tensor | None]]) -> Tensor:
        nothing = torch.zeros(self.batch_size, self.n_q, 0, dtype=torch.int32)
        codes = torch.cat([nothing, *(codes for codes, _ in pieces)], -1).to(torch.uint16)
        return from_batch(codes, batch_size=self.batch_size)

    def _records(self, pieces: list[tuple[Tensor, Tensor | None]]) -> list[Codes]:
        nothing = torch.zeros(self.batch_size, self.n_q, 0, dtype=torch.int32)
        codes = torch.cat([nothing, *(codes for codes, _ in pieces)], -1).to(torch.uint16)
        ones = torch.ones(self.batch_size)
        scales = [ones if scale is None else scale.float().cpu() for _, scale in pieces]
        by_stream = torch.stack(scales, 1) if scales else torch.zeros(self.batch_size, 0)
        window_frames = torch.tensor([codes.shape[-1] for codes, _ in pieces], dtype=torch.int32)
        return [
            Codes(codes=codes[stream].contiguous(), scales=by_stream[stream].clone(), window_frames=window_frames)
            for stream in range(self.batch_size)
        ]

    def _check_windows(self) -> None:
        if self._config.chunk_length is None:
            raise ValueError("this codec has no windows; use push and flush, whose codes are all that decoding needs")
