"""The decoders, and the formats they read: each is written here, half a second long, and decoded as a job does it."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any

from tokenizer_jobs.doctor.findings import Finding
from tokenizer_jobs.doctor.software import check_module, imported

__all__ = ["check_audio", "check_formats"]

RATE = 48_000
NUM_SAMPLES = RATE // 2
BLOCK = 4096
"""Samples written at once: libsndfile 1.2.2 overflows its stack when a long Vorbis clip is written in one call."""
PITCH = 440.0
"""Of the tone, in Hz."""
LEAST_RMS = 0.1
"""Of what is decoded: the tone has 0.35, and a decoder that gives silence or noise is told by it."""
MOST_PADDING = 5_000
"""Samples that a lossy coding may add or take at its ends."""

SOUNDFILE_FORMATS: Mapping[str, tuple[str, str]] = {
    "WAV": ("WAV", "PCM_16"),
    "AIFF": ("AIFF", "PCM_16"),
    "AU": ("AU", "PCM_16"),
    "CAF": ("CAF", "PCM_16"),
    "W64": ("W64", "PCM_16"),
    "FLAC": ("FLAC", "PCM_16"),
    "Ogg Vorbis": ("OGG", "VORBIS"),
    "Opus": ("OGG", "OPUS"),
    "MP3": ("MP3", "MPEG_LAYER_III"),
}
"""libsndfile's container and coding by the name of the format."""
FFMPEG_FORMATS: Mapping[str, tuple[str, str]] = {
    "m4a": ("ipod", "aac"),
    "aac": ("adts", "aac"),
    "webm": ("webm", "libopus"),
    "wma": ("asf", "wmav2"),
}
"""FFmpeg's container and encoder by the name of the format."""


def check_audio() -> Iterator[Finding]:
    """Look at the packages that read and resample audio."""
    soundfile = imported("soundfile")
    if isinstance(soundfile, str):
        yield Finding(
            subject="soundfile", state="missing", detail=soundfile, remedy="pip install soundfile", is_needed=True
        )
    else:
        detail = f"{soundfile.__version__}, libsndfile {soundfile.__libsndfile_version__}"
        yield Finding(subject="soundfile", state="ok", detail=detail, is_needed=True)
    yield check_module("soxr")
    av = imported("av")
    yield Finding(
        subject="PyAV",
        state="note" if isinstance(av, str) else "ok",
        detail=f"{av}; m4a, aac, webm and wma cannot be read without it" if isinstance(av, str) else av.__version__,
        remedy="pip install av" if isinstance(av, str) else None,
    )


def check_formats() -> Iterator[Finding]:
    """Write and decode a clip of each format that the decoders here should read."""
    soundfile, av = imported("soundfile"), imported("av")
    if isinstance(soundfile, str) or any(isinstance(imported(name), str) for name in ("numpy", "soxr", "pyarrow")):
        return  # told above and below
    clips = {name: _soundfile_clip(soundfile, *how) for name, how in SOUNDFILE_FORMATS.items()}
    remedy = "pip install --force-reinstall soundfile  (its wheel brings a full libsndfile)"
    yield _tried("formats", clips, remedy=remedy)
    if not isinstance(av, str):
        clips = {name: _ffmpeg_clip(av, *how) for name, how in FFMPEG_FORMATS.items()}
        remedy = "pip install --force-reinstall av  (its wheel brings a full FFmpeg)"
        yield _tried("formats, PyAV", clips, remedy=remedy)


def _tried(subject: str, clips: Mapping[str, bytes | str], *, remedy: str) -> Finding:
    faults = {name: fault for name, clip in clips.items() if (fault := _fault(clip, name=name)) is not None}
    good = ", ".join(name for name in clips if name not in faults)
    if not faults:
        return Finding(subject=subject, state="ok", detail=f"decoded here: {good}")
    bad = "; ".join(f"{name}: {fault}" for name, fault in faults.items())
    return Finding(subject=subject, state="missing", detail=f"{bad} (decoded: {good or 'none'})", remedy=remedy)


def _soundfile_clip(soundfile: ModuleType, container: str, coding: str) -> bytes | str:
    """The tone as a file, or why there is none."""
    content = io.BytesIO()
    try:
        with soundfile.SoundFile(content, "w", RATE, 1, subtype=coding, format=container) as file:
            for start in range(0, NUM_SAMPLES, BLOCK):
                file.write(_tone()[start : start + BLOCK])
    except (soundfile.SoundFileError, ValueError) as error:
        return f"cannot be written to be tried ({error})"
    return content.getvalue()


def _ffmpeg_clip(av: ModuleType, container: str, encoder: str) -> bytes | str:
    """The tone as a file, or why there is none."""
    import numpy as np

    content = io.BytesIO()
    try:
        with av.open(content, "w", format=container) as file:
            stream = file.add_stream(encoder, rate=RATE, layout="mono")
            stream.codec_context.bit_rate = 64_000  # WMA knows no default
            frame = av.AudioFrame.from_ndarray((_tone()[None] * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            context = stream.codec_context
            resampler = av.AudioResampler(
                format=context.format, layout="mono", rate=RATE, frame_size=context.frame_size or 4096
            )
            for part in (*resampler.resample(frame), *resampler.resample(None), None):
                file.mux(stream.encode(part))
    except (av.error.FFmpegError, ValueError) as error:
        return f"cannot be written to be tried ({error})"
    return content.getvalue()


def _tone() -> Any:
    """Samples [n] within ±0.5, float32."""
    import numpy as np

    return (0.5 * np.sin(2 * np.pi * PITCH * np.arange(NUM_SAMPLES) / RATE)).astype(np.float32)


def _fault(clip: bytes | str, *, name: str) -> str | None:
    """What is wrong with what a clip is decoded to; None: nothing."""
    import numpy as np

    from tokenizer_jobs.decode import AudioTarget, decode_item
    from tokenizer_jobs.errors import ItemError
    from tokenizer_jobs.records import Item

    if isinstance(clip, str):
        return clip
    item = Item(id=name, source_uri=f"clip.{name.partition(' ')[0].lower()}")
    target = AudioTarget(sample_rate=RATE, channels=1)
    try:
        samples = decode_item(item, position=0, source=_Clip(clip), target=target).float_waveform()
    except ItemError as error:
        return f"is a reject, {error.reason}: {error}"
    except (OSError, RuntimeError) as error:
        return f"cannot be decoded, {type(error).__name__}: {error}"
    if abs(samples.shape[1] - NUM_SAMPLES) > MOST_PADDING:
        return f"gives {samples.shape[1]:,} samples of {NUM_SAMPLES:,}"
    rms = float(np.sqrt(np.mean(samples**2)))
    return None if rms > LEAST_RMS else f"gives a tone of 0.35 RMS back with {rms:.2g}"


@dataclass(frozen=True, slots=True)
class _Clip:
    """A source of one clip."""

    content: bytes

    def list(self) -> Any:
        raise NotImplementedError("a clip is opened, and never listed")

    def open(self, _item: object) -> IO[bytes]:
        return io.BytesIO(self.content)
