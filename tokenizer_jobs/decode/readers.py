"""Block-wise readers with one face: soundfile first, FFmpeg (PyAV, the extra `av`) for what it cannot read."""

import importlib.util
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import soundfile

from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.ogg import is_opus
from tokenizer_jobs.decode.opened import DecoderView, InputBytes, MemoryView
from tokenizer_jobs.decode.sniff import AudioKind, Sniffed
from tokenizer_jobs.errors import ItemError, RejectReason, Stage

__all__ = ["BLOCK_VALUES", "Reader", "ffmpeg_is_installed", "open_reader"]

BLOCK_VALUES = 1 << 16
"""Samples times channels in one block."""

_SOUNDFILE_KINDS = frozenset(
    {AudioKind.WAV, AudioKind.W64, AudioKind.AIFF, AudioKind.AU, AudioKind.CAF, AudioKind.NIST}
    | {AudioKind.FLAC, AudioKind.OGG, AudioKind.MPEG}
)
_SEEKABLE_CONTAINERS = frozenset({"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC"})
_SEEKABLE_CODINGS = frozenset({"PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"})
"""Samples of a fixed size; of FLAC, frames that say which samples they hold."""
_LONGEST_KNOWN = 1 << 48
"""libsndfile says more samples than this where it does not know their number."""
_FALLBACK_BYTES = 1024
"""An input larger than this that shows no samples is given to the other decoder."""


class Reader(Protocol):
    """An opened input: its facts, then its samples in blocks."""

    sample_rate: int
    channels: int
    num_frames: int | None
    """Samples per channel that the decoder expects; None when it cannot know."""
    source_format: str
    is_pcm16: bool
    """Whether int16 holds the samples exactly."""

    can_seek: bool
    """Whether reading can begin anywhere and gives the same samples."""

    def blocks(
        self, dtype: type[np.generic], *, block_values: int, first_frame: int = 0
    ) -> Iterator[npt.NDArray[np.generic]]:
        """Samples [n, c] as float32 or, for 16-bit sources, int16, in blocks of about `block_values` values.

        Args:
            dtype: float32 or int16.
            block_values: Samples times channels in a block.
            first_frame: Where reading begins; not 0 only where `can_seek`. Beyond the end there is nothing.

        Raises:
            ItemError: of reason `corrupt`, where the decoder fails.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def ffmpeg_is_installed() -> bool:
    """Whether the extra `av` is there."""
    return importlib.util.find_spec("av") is not None


@contextmanager
def open_reader(data: InputBytes, sniffed: Sniffed, inspection: Inspection) -> Iterator[Reader]:
    """Open an input with the decoder for its kind.

    Raises:
        ItemError: no decoder takes it.
    """
    if sniffed.kind in (AudioKind.TEXT, AudioKind.UNKNOWN):
        seen = "text" if sniffed.kind is AudioKind.TEXT else f"bytes that begin with {data.read_at(0, 8).hex()}"
        raise _refusal(f"{seen}, expected audio", RejectReason.NOT_AUDIO)
    with ExitStack() as stack:
        yield stack.enter_context(_choose(data, sniffed, inspection))


def _choose(data: InputBytes, sniffed: Sniffed, inspection: Inspection) -> AbstractContextManager[Reader]:
    prefers_ffmpeg = sniffed.kind is AudioKind.OGG and is_opus(data, sniffed.start)  # 2.5 times as fast there
    if sniffed.kind not in _SOUNDFILE_KINDS or (prefers_ffmpeg and ffmpeg_is_installed()):
        return _open_ffmpeg(data, sniffed, inspection)
    try:
        reader = SoundfileReader(data.view(head=inspection.head, skip=inspection.skip))
    except soundfile.LibsndfileError as error:
        if not ffmpeg_is_installed():
            raise _refusal(
                f"soundfile: {error.error_string}; the extra `av` reads more formats: pip install 'tokenizer-jobs[av]'",
                RejectReason.CORRUPT,
            ) from error
        return _open_ffmpeg(data, sniffed, inspection)
    if inspection.counted_head and (reader.num_frames or 0) < (inspection.promised_frames or 0):
        with reader:
            view = data.view(head=inspection.counted_head, skip=inspection.skip)
            return SoundfileReader(view, delay=inspection.counted_delay)
    if reader.num_frames == 0 and data.size > _FALLBACK_BYTES and ffmpeg_is_installed():
        with reader:
            return _open_ffmpeg(data, sniffed, inspection)
    return reader


def _open_ffmpeg(data: InputBytes, sniffed: Sniffed, inspection: Inspection) -> AbstractContextManager[Reader]:
    if not ffmpeg_is_installed():
        raise _refusal(
            f"{sniffed.kind.name} needs the extra `av`: pip install 'tokenizer-jobs[av]'", RejectReason.NOT_AUDIO
        )
    from tokenizer_jobs.decode.ffmpeg import FfmpegReader

    hint = "g722" if sniffed.kind is AudioKind.G722 else None
    return FfmpegReader(data.view(head=inspection.head, skip=inspection.skip), container_format=hint)


def _refusal(message: str, reason: RejectReason) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=reason)


class _SequentialFile(soundfile.SoundFile):  # type: ignore[misc]  # soundfile publishes no types
    """A SoundFile that is only read on, as it would be if its input could not seek.

    soundfile seeks to the place where it is after every read. In mp3 that makes mpg123 start anew without the bits
    that a frame borrows from earlier ones: measured at 22,050 Hz mono, samples after a block's end were off by up to
    0.23, without an error.
    """

    def seekable(self) -> bool:
        """Say no."""
        return False


class SoundfileReader:
    """soundfile (libsndfile) over a view of the bytes.

    Args:
        view: What is decoded.
        delay: Samples before the audio, not shown.

    Raises:
        soundfile.LibsndfileError: it does not take the input.
        ItemError: the storage failed.
    """

    def __init__(self, view: DecoderView | MemoryView, *, delay: int = 0) -> None:
        self._view = view
        self._delay = delay
        try:
            self._file = _SequentialFile(view)
        finally:
            view.raise_fault()
        self.sample_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.num_frames: int | None = max(0, self._file.frames - delay)
        container, coding = self._file.format, self._file.subtype  # each asks libsndfile
        self.source_format = f"{container}/{coding}"
        self.is_pcm16: bool = coding == "PCM_16"
        self.can_seek: bool = (
            delay == 0
            and container in _SEEKABLE_CONTAINERS
            and coding in _SEEKABLE_CODINGS
            and 0 < self._file.frames < _LONGEST_KNOWN
        )
        self._place = 0

    def blocks(
        self, dtype: type[np.generic], *, block_values: int, first_frame: int = 0
    ) -> Iterator[npt.NDArray[np.generic]]:
        """Samples in blocks; see `Reader`."""
        if self.can_seek and first_frame >= self._file.frames:
            return
        num_frames, dtype_name = max(1, block_values // self.channels), np.dtype(dtype).name
        to_drop = self._delay
        if first_frame != self._place:
            self._seek(first_frame)
        while True:
            try:
                block = self._file.read(num_frames, dtype=dtype_name, always_2d=True)
            except soundfile.LibsndfileError as error:
                self._view.raise_fault()
                raise _refusal(f"soundfile: {error.error_string}", RejectReason.CORRUPT) from error
            self._view.raise_fault()
            if len(block) == 0:
                return
            self._place += len(block)
            yield block[to_drop:]
            to_drop = max(0, to_drop - len(block))
            if self.can_seek and self._place >= (self.num_frames or 0):
                return  # asking once more would make and drop another block

    def _seek(self, frame: int) -> None:
        try:
            self._file.seek(frame)
        except soundfile.LibsndfileError as error:
            self._view.raise_fault()
            raise _refusal(f"soundfile: {error.error_string} at sample {frame}", RejectReason.CORRUPT) from error
        self._view.raise_fault()
        self._place = frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
