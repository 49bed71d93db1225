"""Laws of decoding: blocks, channels, resampling, 16 bits, levels, filters, memory, and real recordings."""

import csv
import io
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import CONTAINERS, RATE, MemorySource, decode_bytes, encode, speechlike
from tokenizer_jobs.decode import AudioTarget, decode_item, decode_items
from tokenizer_jobs.decode.channels import choose_channels
from tokenizer_jobs.decode.opened import DecoderView, InputBytes
from tokenizer_jobs.decode.resample import ReferenceResampler, Resampler, SoxrResampler
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, TransientError
from tokenizer_jobs.records import DecodedItem, Item, RejectedItem
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import Source, make_source

RECORDINGS = Path(__file__).parents[3] / "shared" / "audio"
RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000]


def accepted(decoded: object) -> DecodedItem:
    assert isinstance(decoded, DecodedItem), decoded
    return decoded


def pieces(waveform: npt.NDArray[np.float32], cuts: list[int]) -> Iterator[npt.NDArray[np.float32]]:
    places = [0, *sorted(cut % (len(waveform) + 1) for cut in cuts), len(waveform)]
    for start, end in itertools.pairwise(places):
        yield waveform[start:end]


def stream(resampler: Resampler, waveform: npt.NDArray[np.float32], cuts: list[int]) -> npt.NDArray[np.generic]:
    return np.concatenate([*(resampler.push(piece) for piece in pieces(waveform, cuts)), resampler.flush()])


lengths = st.one_of(st.integers(1, 40), st.integers(1, 6000))
cut_lists = st.lists(st.integers(0, 6000), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from(RATES), lengths, cut_lists, st.integers(1, 2))
def test_soxr_in_blocks_is_soxr_at_once(a: int, b: int, length: int, cuts: list[int], channels: int) -> None:
    if a == b:
        return
    waveform = speechlike(length, channels=channels)
    streamed = stream(SoxrResampler(source_rate=a, target_rate=b, channels=channels), waveform, cuts)
    np.testing.assert_array_equal(streamed, soxr.resample(waveform, a, b, quality="HQ"))
    assert len(streamed) == int(length * b / a + 0.5)


@pytest.mark.parametrize(("a", "b"), [(44100, 24000), (8000, 24000), (44101, 16000)])
@pytest.mark.parametrize("length", [1, 40, 4001])
def test_lengths_of_the_reference_are_foretold(a: int, b: int, length: int) -> None:
    made = stream(ReferenceResampler(source_rate=a, target_rate=b, channels=1), speechlike(length), [])
    assert len(made) == -(-length * b // a)


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
@pytest.mark.parametrize(
    ("channels", "codec_channels", "policy"),
    [(1, 1, "auto"), (2, 2, "auto"), (1, 2, "auto"), (2, 1, "first"), (2, 1, "right"), (2, 2, "left"), (1, 1, "mono")],
)
def test_sixteen_bits_are_kept_and_equal_the_float_path(
    container: str, channels: int, codec_channels: int, policy: str
) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, (70_000, channels)).astype(np.int16)
    samples[:2] = [[-32768], [32767]]
    content = encode(samples, container=container, coding="PCM_16")
    target = AudioTarget(sample_rate=RATE, channels=codec_channels, channel_policy=policy)  # type: ignore[arg-type]
    item = accepted(decode_bytes(content, target=target))
    assert item.waveform.dtype == np.int16
    assert item.waveform.flags.c_contiguous
    as_float, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    picked = {"first": as_float[:, :1], "left": as_float[:, :1], "right": as_float[:, 1:]}.get(policy, as_float)
    expected = np.broadcast_to(picked.T, (codec_channels, len(samples)))
    np.testing.assert_array_equal(item.float_waveform(), expected)


@pytest.mark.parametrize(
    ("source_channels", "codec_channels", "policy", "expected", "channel"),
    [
        (1, 1, "auto", [1.0], -1),
        (2, 1, "auto", [1.5], -1),
        (1, 2, "auto", [1.0, 1.0], -1),
        (2, 2, "auto", [1.0, 2.0], -1),
        (6, 1, "auto", None, -1),
        (3, 2, "auto", None, -1),
        (6, 1, "mono", [3.5], -1),
        (2, 2, "mono", [1.5, 1.5], -1),
        (1, 2, "stereo", [1.0, 1.0], -1),
        (2, 2, "stereo", [1.0, 2.0], -1),
        (3, 2, "stereo", None, -1),
        (6, 1, "first", [1.0], 0),
        (2, 2, "first", [1.0, 1.0], 0),
        (2, 1, "left", [1.0], 0),
        (2, 1, "right", [2.0], 1),
        (2, 2, "right", [2.0, 2.0], 1),
        (1, 1, "right", None, -1),
    ],
)
def test_channel_policies(
    source_channels: int, codec_channels: int, policy: str, expected: list[float] | None, channel: int
) -> None:
    levels = np.arange(1, source_channels + 1, dtype=np.float32) / 8
    content = encode(np.tile(levels, (100, 1)), container="WAV", coding="FLOAT")
    target = AudioTarget(sample_rate=RATE, channels=codec_channels, channel_policy=policy)  # type: ignore[arg-type]
    decoded = decode_bytes(content, target=target)
    if expected is None:
        assert isinstance(decoded, RejectedItem)
        assert decoded.reason is RejectReason.UNSUPPORTED_CHANNELS
        return
    item = accepted(decoded)
    np.testing.assert_array_equal(item.waveform[:, 50], np.array(expected, np.float32) / 8)
    assert (item.facts.channel, item.facts.source_channels) == (channel, source_channels)


def test_stereo_for_a_mono_codec_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="stereo codec"):
        AudioTarget(sample_rate=24000, channels=1, channel_policy="stereo")


def test_mp3_in_blocks_is_mp3_at_once() -> None:
    # Low bitrates borrow bits from frames far back; block ends fall into them.
    content = encode(speechlike(400_000, rate=22050), container="MP3", coding="MPEG_LAYER_III", rate=22050)
    whole, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    item = accepted(decode_bytes(content, target=AudioTarget(sample_rate=22050, channels=1)))
    # soundfile.read seeks to 0 first, after which mpg123 rounds otherwise; seeking between blocks costs up to 0.2.
    np.testing.assert_allclose(item.waveform, whole.T, rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize("resampler", ["soxr_hq", "reference"])
def test_decoding_is_reading_mixing_and_resampling(kind: str, resampler: str) -> None:
    container, coding = CONTAINERS[kind]
    content = encode(speechlike(150_001, channels=2, rate=44100), container=container, coding=coding, rate=44100)
    target = AudioTarget(sample_rate=24000, channels=1, resampler=resampler)  # type: ignore[arg-type]
    item = accepted(decode_bytes(content, target=target))
    whole, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    mono = whole.mean(axis=1, dtype=np.float32, keepdims=True)
    if resampler == "soxr_hq":
        expected: npt.NDArray[np.generic] = soxr.resample(mono, 44100, 24000, quality="HQ")
    else:
        expected = stream(ReferenceResampler(source_rate=44100, target_rate=24000, channels=1), mono, [])
    np.testing.assert_array_equal(item.waveform, expected.T)
    assert item.facts.source_sample_rate == 44100


def test_levels_are_those_of_the_waveform() -> None:
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 440 * time)
    quiet = np.full(RATE, 1e-4)
    clipped = np.clip(4 * tone, -1, 1)
    waveform = np.concatenate([tone / 2, quiet, clipped]).astype(np.float32)[:, None]
    facts = accepted(decode_bytes(encode(waveform, container="WAV", coding="FLOAT"))).facts
    assert facts.peak == 1.0
    assert facts.rms_db == pytest.approx(10 * np.log10(np.mean(waveform.astype(np.float64) ** 2)), abs=1e-6)
    assert facts.silent_fraction == pytest.approx(1 / 3, abs=0.01)
    assert facts.clipped_fraction == pytest.approx(np.mean(np.abs(waveform) >= 1), abs=1e-6)


def test_digital_silence_is_minus_infinity() -> None:
    facts = accepted(decode_bytes(encode(np.zeros((1, 1), np.float32), container="WAV", coding="PCM_16"))).facts
    assert facts.rms_db == -math.inf
    assert (facts.peak, facts.silent_fraction, facts.clipped_fraction) == (0.0, 1.0, 0.0)


def test_levels_do_not_depend_on_the_sample_type() -> None:
    samples = np.random.default_rng(3).integers(-32768, 32768, (50_000, 1)).astype(np.int16)
    kept = accepted(decode_bytes(encode(samples, container="WAV", coding="PCM_16"))).facts
    as_float = (samples / 32768).astype(np.float32)
    computed = accepted(decode_bytes(encode(as_float, container="WAV", coding="FLOAT"))).facts
    for name in ("rms_db", "peak", "clipped_fraction", "silent_fraction"):
        assert getattr(kept, name) == getattr(computed, name), name


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [(RATE - 1, RejectReason.TOO_SHORT), (RATE, None), (2 * RATE, None), (2 * RATE + 1, RejectReason.TOO_LONG)],
)
def test_filters_go_by_the_decoded_duration(num_samples: int, expected: RejectReason | None) -> None:
    target = AudioTarget(sample_rate=24000, channels=1, min_seconds=1.0, max_seconds=2.0)
    decoded = decode_bytes(encode(speechlike(num_samples), container="FLAC", coding="PCM_16"), target=target)
    if expected is None:
        accepted(decoded)
    else:
        assert isinstance(decoded, RejectedItem)
        assert (decoded.stage, decoded.reason) == ("filter", expected)


def test_items_come_in_the_order_given() -> None:
    good = encode(speechlike(100), container="WAV", coding="PCM_16")
    source = MemorySource({"a": good, "b": b"", "c": good})
    items = [(position, Item(id=name, source_uri=name)) for position, name in ((5, "c"), (2, "b"), (9, "a"))]
    decoded = decode_items(items, source=source, target=AudioTarget(sample_rate=RATE, channels=1))
    assert [item.position for item in decoded] == [5, 2, 9]


def test_an_input_of_another_size_has_changed() -> None:
    content = encode(speechlike(100), container="WAV", coding="PCM_16")
    item = Item(id="a", source_uri="a", source_size=len(content) + 1)
    with pytest.raises(ItemError) as caught:
        decode_item(
            item, position=0, source=MemorySource({"a": content}), target=AudioTarget(sample_rate=RATE, channels=1)
        )
    assert caught.value.reason is RejectReason.CHANGED
    assert "write to a new output" in caught.value.message
    assert "--replace" not in caught.value.message


class FailingFile(io.BytesIO):
    """Fails as a lost mount does, once reading comes past a place."""

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() > 1_000_000:
            raise TransientError("the mount is gone")
        return super().read(size)


class FailingSource(MemorySource):
    def open(self, item: Item) -> IO[bytes]:
        content = self.contents[item.id]
        assert isinstance(content, bytes)
        return FailingFile(content)


@pytest.mark.filterwarnings("error")
def test_a_fault_inside_the_decoder_is_not_the_end_of_the_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer_jobs.decode.opened.IN_MEMORY_BYTES", 0)
    content = encode(speechlike(1_000_000), container="WAV", coding="PCM_16")
    source = FailingSource({"a": content})
    with pytest.raises(TransientError, match="mount"):
        decode_item(
            Item(id="a", source_uri="a"), position=0, source=source, target=AudioTarget(sample_rate=RATE, channels=1)
        )


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_large_inputs_decode_as_those_in_memory(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    container, coding = CONTAINERS[kind]
    content = encode(speechlike(100_000), container=container, coding=coding)
    in_memory = accepted(decode_bytes(content))
    monkeypatch.setattr("tokenizer_jobs.decode.opened.IN_MEMORY_BYTES", 0)
    streamed = accepted(decode_bytes(content))
    np.testing.assert_array_equal(streamed.waveform, in_memory.waveform)
    assert streamed.facts == in_memory.facts


@given(st.binary(max_size=50), st.binary(max_size=10), st.integers(0, 60), st.lists(st.integers(0, 70), max_size=6))
def test_a_view_is_its_head_and_the_rest(content: bytes, head: bytes, skip: int, moves: list[int]) -> None:
    view = DecoderView(InputBytes(io.BytesIO(content), name="x"), head=head, skip=skip)
    expected = io.BytesIO(head + content[skip:])
    for move in moves:
        assert view.seek(move) == expected.seek(move)
        assert view.read(move // 3) == expected.read(move // 3)
        assert view.tell() == expected.tell()


_ONE_HOUR = """
import resource, sys, threading, time
from pathlib import Path
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.decode import AudioTarget, decode_item
from tokenizer_jobs.sources import make_source
source = make_source(FilesSource(paths=(sys.argv[1],)))
(item,) = source.list().items
target = AudioTarget(sample_rate=24000, channels=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decoded = decode_item(item, position=0, source=source, target=target)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(decoded.facts.num_samples, (after - before) * 1024, decoded.waveform.nbytes)
"""


def test_memory_is_that_of_the_waveform(tmp_path: Path) -> None:
    path = tmp_path / "long.flac"
    minute = speechlike(44100 * 60, channels=2, rate=44100)
    with soundfile.SoundFile(path, "w", samplerate=44100, channels=2, subtype="PCM_16") as file:
        for _ in range(8):
            file.write(minute)
    finished = subprocess.run(
        [sys.executable, "-c", _ONE_HOUR, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    num_samples, grown, waveform_bytes = map(int, finished.stdout.split())
    assert num_samples == 8 * 60 * 24000
    # The waveform, an eighth of it in reserve, and blocks; all samples at 44.1 kHz would be 170 MB.
    assert grown < 1.25 * waveform_bytes + 24e6


def recordings() -> list[tuple[str, int, int, int, str]]:
    """A few of each format, rate and channel count: path, rate, channels, frames, format."""
    manifest = RECORDINGS / "MANIFEST.tsv"
    if not manifest.exists():
        return []
    chosen: dict[tuple[str, str, str], list[tuple[str, int, int, int, str]]] = {}
    with manifest.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            alike = chosen.setdefault((row["format"], row["sample_rate"], row["channels"]), [])
            if len(alike) < 3:
                facts = int(row["sample_rate"]), int(row["channels"]), int(row["frames"])
                alike.append((row["path"], *facts, row["format"]))
    return [recording for alike in chosen.values() for recording in alike]


@pytest.mark.skipif(not recordings(), reason=f"no recordings at {RECORDINGS}")
def test_real_recordings_have_the_frames_of_their_manifest() -> None:
    source: Source = make_source(FilesSource(paths=(str(RECORDINGS),)))
    for path, rate, channels, num_frames, source_format in recordings():
        item = Item(id=path, source_uri=str(RECORDINGS / path))
        target = AudioTarget(sample_rate=rate, channels=1)
        facts = decode_item(item, position=0, source=source, target=target).facts
        found = facts.source_sample_rate, facts.source_channels, facts.source_format
        assert found == (rate, channels, source_format), path
        # The manifest has an estimate of the length where an mp3 has no header that counts it.
        slack = 1152 if source_format.startswith("MP3") else 0
        assert abs(facts.num_samples - num_frames) <= slack, path


@given(st.lists(st.tuples(*[st.floats(-4, 4, width=32)] * 2), min_size=1, max_size=50))
def test_stereo_is_mixed_to_the_bits_of_its_mean(samples: list[tuple[float, float]]) -> None:
    block = np.array(samples, np.float32)
    mixed = choose_channels(source_channels=2, codec_channels=1, policy="mono").apply(block)
    assert mixed.tobytes() == block.mean(axis=1, dtype=np.float32, keepdims=True).tobytes()
