"""The fallback decoder: FFmpeg through PyAV, imported only where soundfile cannot read an input."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import av
import numpy as np
import numpy.typing as npt

from tokenizer_jobs.decode.opened import DecoderView, MemoryView
from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["FfmpegReader"]

_HEADER_DURATIONS = frozenset({"mov", "matroska", "asf", "wav", "ogg", "flac", "wv", "ape", "tta", "aiff", "caf"})
"""Containers that state their duration; for the others FFmpeg guesses it from the bitrate."""
_DURATION_SLACK_SECONDS = 0.15
"""Padding of codecs: m4a +16 samples, WMA up to -4,080, and durations in milliseconds."""


class FfmpegReader:
    """FFmpeg over a view of the bytes; the first audio stream.

    Args:
        view: What is decoded.
        container_format: FFmpeg's name of a format that has no header; None lets it look.

    Raises:
        ItemError: no audio in it, or the storage failed.
    """

    def __init__(self, view: DecoderView | MemoryView, *, container_format: str | None) -> None:
        self._view = view
        try:
            self._container = av.open(view, format=container_format, metadata_errors="replace")
        except (av.FFmpegError, ValueError, OSError) as error:
            view.raise_fault()
            raise _failure(error, RejectReason.CORRUPT) from error
        if not self._container.streams.audio:
            self._container.close()
            raise ItemError("no audio stream inside", stage=Stage.DECODE, reason=RejectReason.NOT_AUDIO)
        self._stream = self._container.streams.audio[0]
        if self._stream.codec_context is None:
            self._container.close()
            raise ItemError("an audio stream of no known coding", stage=Stage.DECODE, reason=RejectReason.CORRUPT)
        self.sample_rate: int = self._stream.codec_context.sample_rate
        self.channels: int = self._stream.codec_context.channels
        container_name = self._container.format.name.split(",")[0]
        self.source_format = f"{container_name.upper()}/{self._stream.codec_context.name.upper()}"
        self.is_pcm16 = False
        self.can_seek = False
        self.num_frames = self._least_frames() if container_name in _HEADER_DURATIONS else None

    def _least_frames(self) -> int | None:
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            seconds = self._container.duration / av.time_base
        else:
            return None
        return max(0, int((seconds - _DURATION_SLACK_SECONDS) * self.sample_rate))

    def blocks(
        self,
        dtype: type[np.generic],
        *,
        block_values: int,
        first_frame: int = 0,
    ) -> Iterator[npt.NDArray[np.generic]]:
        """Samples in blocks of whole packets, from the first one on; see `Reader`."""
        assert first_frame == 0, "PyAV lands on packets, up to 0.23 s early"
        # Packets hold 20 ms or so: checked, mixed and resampled one by one they cost as much again as their decoding.
        waiting: list[npt.NDArray[np.float32]] = []
        num_values = 0
        try:
            for part in self._packets():
                waiting.append(part)
                num_values += part.size
                if num_values >= block_values:
                    yield _joined(waiting, dtype)
                    waiting, num_values = [], 0
        except ItemError:
            if waiting:
                yield _joined(waiting, dtype)  # what came before the fault
            raise
        if waiting:
            yield _joined(waiting, dtype)

    def _packets(self) -> Iterator[npt.NDArray[np.float32]]:
        """Samples [c, n] of each packet."""
        to_planar_float = av.AudioResampler(format="fltp")
        frames = self._container.decode(self._stream)
        while True:
            try:
                frame = next(frames, None)
                converted = to_planar_float.resample(frame)  # None drains it
            except (av.FFmpegError, ValueError, OSError) as error:
                self._view.raise_fault()
                raise _failure(error, RejectReason.CORRUPT) from error
            self._view.raise_fault()
            for part in converted:
                if part.sample_rate != self.sample_rate or len(part.layout.channels) != self.channels:
                    raise ItemError(
                        f"the stream changes to {part.sample_rate} Hz and {len(part.layout.channels)} channels "
                        f"from {self.sample_rate} Hz and {self.channels}",
                        stage=Stage.DECODE,
                        reason=RejectReason.CORRUPT,
                    )
                yield part.to_ndarray()
            if frame is None:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


def _joined(parts: list[npt.NDArray[np.float32]], dtype: type[np.generic]) -> npt.NDArray[np.generic]:
    """Parts [c, n] as one block [n, c]."""
    return np.concatenate(parts, axis=1).T.astype(dtype, copy=False)


def _failure(error: Exception, reason: RejectReason) -> ItemError:
    # PyAV names errors after errno: damage can surface as its own PermissionError or EOFError.
    return ItemError(f"FFmpeg: {type(error).__name__}: {error}", stage=Stage.DECODE, reason=reason)
