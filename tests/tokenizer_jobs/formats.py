"""The table of `docs/formats.md`: every format is encoded, decoded, and decoded again from its first half.

`python -m tests.tokenizer_jobs.formats > docs/formats.md` writes it anew.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from tests.tokenizer_jobs.clips import decode_bytes, encode, speechlike
from tokenizer_jobs.decode import AudioTarget
from tokenizer_jobs.records import DecodedItem, RejectedItem

__all__ = ["FORMATS", "Format", "Outcome", "page", "try_format"]

RATE = 48_000
NUM_SAMPLES = 2 * RATE
LEAST_DB = 8.0
"""Signal to noise that a decoded clip must have, after the best shift: what a lossy coding at its least keeps."""
LARGEST_SHIFT = 4_800

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One container and coding."""

    name: str
    extensions: tuple[str, ...]
    """Usual ones; files are recognised by their content."""
    encoder: tuple[str, ...]
    """soundfile's format and subtype; or `av`, FFmpeg's container and its encoder."""
    rate: int = RATE
    """In Hz, of the clip that is encoded."""

    @property
    def needs_av(self) -> bool:
        """Whether the clip is made by PyAV."""
        return self.encoder[0] == "av"


def _soundfile(name: str, extensions: Sequence[str], container: str, coding: str, rate: int = RATE) -> Format:
    return Format(name=name, extensions=tuple(extensions), encoder=(container, coding), rate=rate)


def _ffmpeg(name: str, extensions: Sequence[str], container: str, encoder: str, rate: int = RATE) -> Format:
    return Format(name=name, extensions=tuple(extensions), encoder=("av", container, encoder), rate=rate)


FORMATS = (
    _soundfile("WAV, 8 bits", ["wav"], "WAV", "PCM_U8"),
    _soundfile("WAV, 16 bits", ["wav"], "WAV", "PCM_16"),
    _soundfile("WAV, 24 bits", ["wav"], "WAV", "PCM_24"),
    _soundfile("WAV, 32 bits", ["wav"], "WAV", "PCM_32"),
    _soundfile("WAV, 32-bit float", ["wav"], "WAV", "FLOAT"),
    _soundfile("WAV, 64-bit float", ["wav"], "WAV", "DOUBLE"),
    _soundfile("WAV, µ-law", ["wav"], "WAV", "ULAW"),
    _soundfile("WAV, A-law", ["wav"], "WAV", "ALAW"),
    _soundfile("WAV, IMA ADPCM", ["wav"], "WAV", "IMA_ADPCM"),
    _soundfile("WAV, Microsoft ADPCM", ["wav"], "WAV", "MS_ADPCM"),
    _soundfile("RF64 and BW64", ["wav", "rf64"], "RF64", "PCM_16"),
    _soundfile("Wave64", ["w64"], "W64", "PCM_16"),
    _soundfile("AIFF", ["aiff", "aif"], "AIFF", "PCM_16"),
    _soundfile("AU", ["au", "snd"], "AU", "PCM_16"),
    _soundfile("Core Audio", ["caf"], "CAF", "PCM_16"),
    _soundfile("NIST SPHERE, uncompressed", ["sph"], "NIST", "PCM_16"),
    _soundfile("FLAC, 16 bits", ["flac"], "FLAC", "PCM_16"),
    _soundfile("FLAC, 24 bits", ["flac"], "FLAC", "PCM_24"),
    _soundfile("MP3", ["mp3"], "MP3", "MPEG_LAYER_III"),
    _soundfile("Ogg Vorbis", ["ogg", "oga"], "OGG", "VORBIS"),
    _soundfile("Ogg Opus", ["opus", "ogg"], "OGG", "OPUS"),
    _ffmpeg("FLAC in Ogg", ["oga", "ogg"], "ogg", "flac"),
    _ffmpeg("AAC in MP4", ["m4a", "m4b", "mp4"], "ipod", "aac"),
    _ffmpeg("Apple Lossless in MP4", ["m4a"], "ipod", "alac"),
    _ffmpeg("AAC, raw (ADTS)", ["aac"], "adts", "aac"),
    _ffmpeg("Opus in WebM", ["webm"], "webm", "libopus"),
    _ffmpeg("FLAC in Matroska", ["mka"], "matroska", "flac"),
    _ffmpeg("Windows Media Audio", ["wma"], "asf", "wmav2", 44_100),
    _ffmpeg("AC-3", ["ac3"], "ac3", "ac3"),
    _ffmpeg("WavPack", ["wv"], "wv", "wavpack"),
    _ffmpeg("True Audio", ["tta"], "tta", "tta"),
    _ffmpeg("WAV, G.722", ["wav"], "wav", "g722", 16_000),
    _ffmpeg("G.722, raw", ["g722"], "g722", "g722", 16_000),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What decoding made of one format."""

    without_av: str
    """What becomes of it where the extra `av` is not installed."""
    extra_samples: int
    """Decoded beyond those that were encoded: padding of the codec."""
    snr_db: float
    """Of the decoded clip, after the best shift."""
    half: str
    """What becomes of the first half of the file."""


def try_format(tried: Format) -> Outcome:
    """Encode a clip, decode it, and decode its first half."""
    waveform = speechlike(2 * tried.rate, rate=tried.rate)
    content = _encoded(tried, waveform)
    target = AudioTarget(sample_rate=tried.rate, channels=1)
    name = f"clip.{tried.extensions[0]}"
    decoded = decode_bytes(content, target=target, name=name)
    assert isinstance(decoded, DecodedItem), f"{tried.name}: {decoded}"
    half = decode_bytes(content[: len(content) // 2], target=target, name=name)
    with patch("tokenizer_jobs.decode.readers.ffmpeg_is_installed", lambda: False):
        without_av = decode_bytes(content, target=target, name=name)
    return Outcome(
        without_av="read" if isinstance(without_av, DecodedItem) else _rejected(without_av),
        extra_samples=decoded.facts.num_samples - len(waveform),
        snr_db=_snr_db(waveform[:, 0], decoded.float_waveform()[0]),
        half="a shorter recording, unnoticed" if isinstance(half, DecodedItem) else _rejected(half),
    )


def _rejected(decoded: object) -> str:
    assert isinstance(decoded, RejectedItem)
    return f"a reject, `{decoded.reason}`"


def page() -> str:
    """The text of `docs/formats.md`."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Audio formats"
    yield ""
    yield (
        "Made by `python -m tests.tokenizer_jobs.formats`, which encodes two seconds in each format, decodes them, and "
        "decodes the\nfirst half of the file; a test compares it with this page."
    )
    yield ""
    yield (
        "Files are recognised by their content, never by their names; an extension only decides which files of a folder"
        "\nare looked at, and tells raw G.722. libsndfile reads most; FFmpeg reads the rest, through the extra `av`"
        "\n(`pip install 'tokenizer-jobs[av]'`), and Opus too where it is there, in half the time."
    )
    yield ""
    yield "| format | extensions | without the extra `av` | length | a file cut in half is |"
    yield "| --- | --- | --- | --- | --- |"
    for tried in FORMATS:
        outcome = try_format(tried)
        extensions = ", ".join(tried.extensions)
        yield f"| {tried.name} | {extensions} | {outcome.without_av} | {_length(outcome)} | {outcome.half} |"


def _length(outcome: Outcome) -> str:
    if outcome.extra_samples == 0:
        return "exact"
    return f"{outcome.extra_samples:+,} samples of padding".replace("-", "−")


def _encoded(tried: Format, waveform: Samples) -> bytes:
    if not tried.needs_av:
        container, coding = tried.encoder
        return encode(waveform, container=container, coding=coding, rate=tried.rate)
    import av

    _, container, encoder = tried.encoder
    content = io.BytesIO()
    with av.open(content, "w", format=container) as file:
        stream = file.add_stream(encoder, rate=tried.rate, layout="mono")
        stream.codec_context.bit_rate = 64_000  # WMA knows no default
        frame = av.AudioFrame.from_ndarray((waveform.T * 32767).astype(np.int16), format="s16", layout="mono")
        frame.sample_rate, frame.pts = tried.rate, 0
        size = stream.codec_context.frame_size or 4096
        converter = av.AudioResampler(
            format=stream.codec_context.format, layout="mono", rate=tried.rate, frame_size=size
        )
        for part in (*converter.resample(frame), *converter.resample(None), None):
            file.mux(stream.encode(part))
    return content.getvalue()


def _snr_db(original: Samples, decoded: Samples) -> float:
    """Of the middle, after the best shift and gain."""
    middle = original[len(original) // 4 : len(original) // 2].astype(np.float64)
    start = len(original) // 4
    window = decoded[max(0, start - LARGEST_SHIFT) : start + len(middle) + LARGEST_SHIFT].astype(np.float64)
    size = 1 << (len(window) + len(middle)).bit_length()
    products = np.fft.irfft(np.fft.rfft(window, size) * np.conj(np.fft.rfft(middle, size)), size)
    shift = int(np.argmax(products[: len(window) - len(middle) + 1]))
    found = window[shift : shift + len(middle)]
    gain = float(middle @ found) / float(found @ found)
    noise = middle - gain * found
    return float(10 * np.log10(float(middle @ middle) / max(float(noise @ noise), 1e-20)))


if __name__ == "__main__":
    print(page(), end="")
