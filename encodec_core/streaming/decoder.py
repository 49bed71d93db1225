"""StreamingDecoder: codes to audio while they arrive.

Letters in shapes: N streams, C audio channels, n samples, K codebooks, t frames.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from encodec_core.codes import Codes
from encodec_core.fast.placement import checked_dtype, resolve_device
from encodec_core.fast.precision import exact_float32
from encodec_core.fast.quantizer import FrameDequantizer
from encodec_core.model import EncodecModel
from encodec_core.streaming.streamable import as_batch, check_batch_size, check_streamable, from_batch
from encodec_core.streaming.waveforms import CausalWaveforms, WindowWaveforms

__all__ = ["StreamingDecoder"]


class StreamingDecoder:
    """Decodes recordings of any length as their codes arrive, in memory that does not grow with them.

    Args:
        model: float32 or float64, causal (24 kHz) or with windows (48 kHz); copied.
        batch_size: N, streams that run in lockstep: each push brings as many frames of every one.
        device: of torch; "auto": a GPU where torch sees one, else the CPU.

    All that `push` and `flush` return, one after the other, is what the model decodes the whole recording to: whole
    frames, to be cut to the length of the audio. On a CPU bits do not depend on where codes were cut nor on the other
    streams; where the kernels of `fast.native` run, they are those of `BatchEncoder.decode`. After `flush` the next
    push begins a new stream.

        causal       audio of frame f comes with its codes; that of the first frames with the codes of the seventh,
                     because the first convolution reflects the start
        windows      audio up to the start of the next window comes with a window's codes

    One thread at a time may use a decoder.

    Raises:
        ValueError: the codec needs the whole recording (32 kHz), `batch_size` is below 1, or the model is of another
            dtype.
    """

    def __init__(self, model: EncodecModel, *, batch_size: int = 1, device: str | torch.device = "auto") -> None:
        check_streamable(model.config)
        check_batch_size(batch_size)
        self._config = model.config
        self.batch_size = batch_size
        """N."""
        self.device = resolve_device(device)
        """Where audio is computed."""
        self._dtype = checked_dtype(model.dtype)
        with torch.no_grad(), exact_float32():
            self._dequantizer = FrameDequantizer(model.quantizer.codebooks, device=self.device)
            self._waveforms: CausalWaveforms | WindowWaveforms
            if model.config.chunk_length is None:
                self._waveforms = CausalWaveforms(model, num_streams=batch_size, device=self.device)
            else:
                self._waveforms = WindowWaveforms(model, device=self.device)

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """Take the next frames of a codec without windows and return the audio that they complete.

        Args:
            codes: integers `[K, t]` (`[N, K, t]` where `batch_size` is above 1), t >= 0; K may be lower than the
                codec's.

        Returns:
            `[C, n]` (`[N, C, n]`) of the model's dtype on the CPU, n >= 0.

        Raises:
            ValueError: the codec has windows, or the codes have another shape or dtype, or name no entry. The streams
                are then as they were.
        """
        if not isinstance(self._waveforms, CausalWaveforms):
            raise ValueError(
                "this codec decodes windows with their scales; give push_windows what the encoder's returned"
            )
        self._check_layout(codes)
        batch = self._checked(as_batch(codes, batch_size=self.batch_size))
        with exact_float32():
            return self._joined(self._waveforms.push(self._dequantizer.decode(batch)))

    @torch.no_grad()
    def push_windows(self, windows: Sequence[Codes]) -> Tensor:
        """Take the next windows of each of the N streams and return the audio that they complete, as `push` does.

        Args:
            windows: one record for each stream, with as many windows of as many frames; a record may have none.

        Raises:
            ValueError: the codec has no windows, or the records have none, differ in shape, name no entry, or go on
                after a recording's last window.
        """
        if not isinstance(self._waveforms, WindowWaveforms):
            raise ValueError("this codec has no windows; give push the codes")
        window_frames = self._checked_window_frames(windows)
        codes = self._checked(torch.stack([item.codes for item in windows]))
        scales = torch.stack([item.scales for item in windows if item.scales is not None]).to(self.device, self._dtype)
        pieces = []
        with exact_float32():
            for place, window in enumerate(torch.split(codes, window_frames, dim=-1)):
                pieces.append(self._waveforms.push(self._dequantizer.decode(window), scales=scales[:, place]))
        return self._joined(pieces)

    @torch.no_grad()
    def flush(self) -> Tensor:
        """End the streams and return the audio that is left, as `push` does; the next push begins new streams."""
        with exact_float32():
            return self._joined(self._waveforms.flush())

    def _joined(self, pieces: Iterable[Tensor]) -> Tensor:
        nothing = torch.zeros(self.batch_size, self._config.audio_channels, 0, dtype=self._dtype)
        waveform = torch.cat([nothing, *(piece.cpu() for piece in pieces)], -1)
        return from_batch(waveform, batch_size=self.batch_size)

    def _check_layout(self, codes: Tensor) -> None:
        streams = self.batch_size
        is_batch = codes.dim() == 3 and codes.shape[0] == streams
        if not (codes.dim() == 2 if streams == 1 else is_batch):
            layout = "codebooks, frames" if streams == 1 else f"{streams}, codebooks, frames"
            raise ValueError(f"the codes have the shape {list(codes.shape)}; batch_size = {streams} takes [{layout}]")

    def _checked_window_frames(self, windows: Sequence[Codes]) -> list[int]:
        if len(windows) != self.batch_size:
            raise ValueError(f"{len(windows)} records of codes for batch_size = {self.batch_size}; give one a stream")
        first = windows[0]
        for item in windows:
            if item.window_frames is None:
                raise ValueError(f"{item} has no windows, the codec has; were they made by another codec?")
            if item.codes.shape != first.codes.shape or not torch.equal(item.window_frames, _frames(first)):
                raise ValueError(f"{item} beside {first}; streams in lockstep have windows of equal frames")
        return [int(num_frames) for num_frames in _frames(first)]

    def _checked(self, codes: Tensor) -> Tensor:
        """Return codes `[N, K, t]` as int64 on the device."""
        num_codebooks = self._config.num_quantizers
        if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
            raise ValueError(f"the codes are {codes.dtype}; expected integers, as the encoder gives them")
        if not 0 < codes.shape[1] <= num_codebooks:
            raise ValueError(
                f"the codes have {codes.shape[1]} codebooks, the model {num_codebooks}; "
                "were they made by another model?"
            )
        codes = codes.to(torch.int64)
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self._config.codebook_size:
            raise ValueError(
                f"the codes go from {int(codes.min())} to {int(codes.max())}; expected 0 to "
                f"{self._config.codebook_size - 1}, without offsets or special tokens"
            )
        return codes.to(self.device)


def _frames(item: Codes) -> Tensor:
    assert item.window_frames is not None
    return item.window_frames
