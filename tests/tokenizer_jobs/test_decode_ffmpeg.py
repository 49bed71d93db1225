"""The fallback decoder: what soundfile cannot read, with the same promises about damage."""

import io
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest

from tests.tokenizer_jobs.clips import CONTAINERS, MemorySource, decode_bytes, encode, speechlike
from tests.tokenizer_jobs.test_damage import accepted, reason, without_xing
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.decode.ffmpeg import FfmpegReader
from tokenizer_jobs.decode.opened import MemoryView
from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item

av = pytest.importorskip("av", reason="the extra `av` is not installed")

RATE = 48000
TARGET = AudioTarget(sample_rate=RATE, channels=1)
KEEP = AudioTarget(sample_rate=RATE, channels=1, on_truncated="keep")
FORMATS = {
    "m4a": ("ipod", "aac", 2048),
    "webm": ("webm", "libopus", 400),
    "mka": ("matroska", "flac", 0),
    "oggflac": ("ogg", "flac", 0),
    "opus": ("ogg", "libopus", 0),
    "aac": ("adts", "aac", 2048),
}
"""FFmpeg's container and encoder, and how many samples of padding the decoder may add."""


def encode_by_ffmpeg(kind: str, num_samples: int = 2 * RATE) -> bytes:
    container_name, codec, _ = FORMATS[kind]
    content = io.BytesIO()
    with av.open(content, "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=RATE, layout="mono")
        samples = (speechlike(num_samples, rate=RATE).T * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        size = stream.codec_context.frame_size or 4096
        converter = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=RATE, frame_size=size)
        for part in (*converter.resample(frame), *converter.resample(None), None):
            container.mux(stream.encode(part))
    return content.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_beyond_soundfile(kind: str) -> None:
    item = accepted(decode_bytes(encode_by_ffmpeg(kind), target=TARGET))
    assert 0 <= item.facts.num_samples - 2 * RATE <= FORMATS[kind][2]
    assert item.facts.source_format.endswith(("AAC", "OPUS", "FLAC", "AAC_LATM"))
    assert 0.2 < item.facts.peak < 0.6


@pytest.mark.parametrize("kind", ["m4a", "webm", "mka", "oggflac", "opus"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 0.95])
def test_cut_files_are_rejects(kind: str, share: float) -> None:
    content = encode_by_ffmpeg(kind)
    cut = content[: int(share * len(content))]
    assert reason(decode_bytes(cut, target=TARGET)) in (RejectReason.TRUNCATED, RejectReason.CORRUPT)
    decoded = decode_bytes(cut, target=KEEP)
    assert getattr(getattr(decoded, "facts", None), "truncated", True)


@pytest.mark.parametrize("name", [b"mdhd", b"stts", b"stsz"])
def test_an_mp4_without_one_of_its_tables_is_damaged(name: bytes) -> None:
    content = encode_by_ffmpeg("m4a", RATE // 2)
    assert content.count(name) == 1
    assert reason(decode_bytes(content.replace(name, b"free"), target=TARGET)) is RejectReason.CORRUPT


@pytest.mark.parametrize(
    ("name", "offset", "value"),
    [
        (b"mdhd", 16, 0),  # time scale
        (b"mdhd", 20, RATE // 8),  # duration
        (b"stts", 12, 7),  # packets of a duration
        (b"stts", 16, 256),  # their duration
        (b"stsz", 12, 7),  # packets
        (b"stsz", 40, 1 << 30),  # size of one
    ],
)
def test_an_mp4_whose_tables_contradict_each_other_is_damaged(name: bytes, offset: int, value: int) -> None:
    content = encode_by_ffmpeg("m4a", RATE // 2)
    place = content.index(name) + offset
    lying = content[:place] + value.to_bytes(4, "big") + content[place + 4 :]
    assert reason(decode_bytes(lying, target=TARGET)) is RejectReason.CORRUPT


@pytest.mark.parametrize("codec", ["ac3", "eac3"])
@pytest.mark.parametrize("rate", [32000, 44100, 48000])
def test_ac3_without_the_end_of_its_last_frame_is_truncated(codec: str, rate: int) -> None:
    content = encode_ac3(codec, rate)
    target = AudioTarget(sample_rate=rate, channels=1)
    whole = accepted(decode_bytes(content, target=target))
    assert 0 <= whole.facts.num_samples - 2 * rate <= 1536
    for lost in (1, 5, 100):
        assert reason(decode_bytes(content[:-lost], target=target)) is RejectReason.TRUNCATED


def encode_ac3(codec: str, rate: int) -> bytes:
    content = io.BytesIO()
    with av.open(content, "w", format=codec) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.codec_context.bit_rate = 96_000
        samples = (speechlike(2 * rate, rate=rate).T * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        size = stream.codec_context.frame_size
        converter = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate, frame_size=size)
        for part in (*converter.resample(frame), *converter.resample(None), None):
            container.mux(stream.encode(part))
    return content.getvalue()


@pytest.mark.parametrize("kind", ["m4a", "webm", "oggflac", "opus"])
def test_parts_of_a_recording_are_its_samples(kind: str) -> None:
    content = encode_by_ffmpeg(kind)
    whole = accepted(decode_bytes(content, target=TARGET)).waveform
    places = [(0.0, 0.5), (0.25, 1.0), (0.9, None)]
    items = [
        Item(id=f"{start}", source_uri="a", start_seconds=start, duration_seconds=duration)
        for start, duration in places
    ]
    source = MemorySource({item.id: content for item in items})
    decoded = decode_items(list(enumerate(items)), source=source, target=TARGET)
    for found, (start, duration) in zip(decoded, places, strict=True):
        stop = None if duration is None else round(start * RATE) + round(duration * RATE)
        np.testing.assert_array_equal(accepted(found).waveform, whole[:, round(start * RATE) : stop])


class BrokenInTheMiddle(FfmpegReader):
    """Gives the first packets, then the fault of a decoder that met damage."""

    def _packets(self) -> Iterator[npt.NDArray[np.float32]]:
        yield from islice(super()._packets(), 7)
        raise ItemError("damage", stage=Stage.DECODE, reason=RejectReason.CORRUPT)


@pytest.mark.parametrize("reader_class", [FfmpegReader, BrokenInTheMiddle])
def test_the_size_of_blocks_changes_no_sample_not_even_before_a_fault(reader_class: type[FfmpegReader]) -> None:
    content = encode_by_ffmpeg("webm")
    fine, coarse = (read_blocks(reader_class, content, block_values=size) for size in (1, 1 << 20))
    assert len(fine) > 1
    assert len(coarse) == 1
    np.testing.assert_array_equal(np.concatenate(fine), coarse[0])


def read_blocks(
    reader_class: type[FfmpegReader], content: bytes, *, block_values: int
) -> list[npt.NDArray[np.generic]]:
    """Samples [n, c] until the end or the first fault."""
    blocks: list[npt.NDArray[np.generic]] = []
    with reader_class(MemoryView(content), container_format=None) as reader, suppress(ItemError):
        blocks.extend(reader.blocks(np.float32, block_values=block_values))
    return blocks


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bits_never_raise(kind: str) -> None:
    content = encode_by_ffmpeg(kind, RATE // 2)
    draw = np.random.default_rng(5)
    for _ in range(20):
        damaged = bytearray(content)
        damaged[int(draw.integers(0, min(len(content), 2000)))] ^= 1 << int(draw.integers(0, 8))
        decode_bytes(bytes(damaged), target=TARGET)


def test_raw_g722_is_known_by_its_extension() -> None:
    content = bytes(np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8))
    assert reason(decode_bytes(content, name="prompt.wav")) is RejectReason.NOT_AUDIO
    assert accepted(decode_bytes(content, name="prompt.g722")).facts.num_samples == 8000


def test_without_the_extra_the_reject_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer_jobs.decode.readers.ffmpeg_is_installed", lambda: False)
    decoded = decode_bytes(encode_by_ffmpeg("m4a"), target=TARGET)
    assert reason(decoded) is RejectReason.NOT_AUDIO
    assert "tokenizer-jobs[av]" in getattr(decoded, "message", "")
    opus = accepted(decode_bytes(encode_by_ffmpeg("opus"), target=TARGET))
    assert opus.facts.num_samples == 2 * RATE


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("variable", [False, True])
def test_mp3_without_a_header_has_the_samples_that_ffmpeg_finds(rate: int, variable: bool) -> None:
    container, coding = CONTAINERS["mp3"]
    whole = encode(
        speechlike(3 * rate, rate=rate), container=container, coding=coding, rate=rate, variable_bitrate=variable
    )
    bare = without_xing(whole)
    with av.open(io.BytesIO(bare)) as opened:
        expected = np.concatenate([frame.to_ndarray() for frame in opened.decode(audio=0)], axis=1)
    item = accepted(decode_bytes(bare, target=AudioTarget(sample_rate=rate, channels=1)))
    np.testing.assert_allclose(item.float_waveform(), expected, atol=5e-6)  # two decoders' rounding, measured 2e-6
