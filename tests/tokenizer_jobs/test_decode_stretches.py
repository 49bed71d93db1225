"""Laws of long audio: stretches and slices, put together, are the whole waveform with its facts, in bounded memory."""

import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import MemorySource, encode, speechlike
from tokenizer_jobs.decode import AudioTarget, decode_item, decode_items
from tokenizer_jobs.decode.levels import Level, LevelMeter
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason
from tokenizer_jobs.records import Decoded, DecodedItem, DecodedStretch, Item, RejectedItem

SOURCE_RATE, RATE = 8000, 12000
SECONDS = 10
SLICE = 3 * RATE + 777
STREAMED = AudioTarget(sample_rate=RATE, channels=1, streamed=True)


@lru_cache
def clip(*, channels: int = 1, rate: int = SOURCE_RATE) -> bytes:
    waveform = speechlike(SECONDS * rate + 123, channels=channels, rate=rate)
    waveform[rate : 2 * rate] *= 1e-4
    waveform[3 * rate : 3 * rate + 50] = 1.0
    return encode(waveform, container="FLAC", coding="PCM_16", rate=rate)


def decode(content: bytes, *, target: AudioTarget, item: Item | None = None) -> list[Decoded]:
    item = Item(id="a", source_uri="a") if item is None else item
    return list(decode_items([(3, item)], source=MemorySource({item.id: content}), target=target))


def put_together(pieces: list[Decoded]) -> npt.NDArray[np.float32]:
    """Pieces of one row, or of the slices of one channel."""
    return np.concatenate([piece.float_waveform() for piece in pieces if not isinstance(piece, RejectedItem)], axis=1)


@pytest.fixture
def short_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waveforms above 2.5 s are long, and stretches last a second."""
    monkeypatch.setattr("tokenizer_jobs.decode.rows.LONG_WAVEFORM_BYTES", int(4 * 2.5 * RATE))
    monkeypatch.setattr("tokenizer_jobs.decode.rows.STRETCH_SECONDS", 1.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=8), st.integers(1, 2), st.booleans(), st.integers(8000, 24000)
)
def test_levels_do_not_depend_on_the_pieces(lengths: list[int], channels: int, is_int16: bool, rate: int) -> None:
    waveform = speechlike(sum(lengths), channels=channels, rate=rate).T * np.float32(2)
    waveform[:, : waveform.shape[1] // 3] *= np.float32(1e-5)
    given_as = (np.clip(waveform, -1, 1) * 32767).astype(np.int16) if is_int16 else waveform
    meter = LevelMeter(sample_rate=rate)
    for piece in np.split(given_as, np.cumsum(lengths)[:-1], axis=1):
        meter.push(piece)
    assert meter.level() == measure_level(given_as, sample_rate=rate)


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [SOURCE_RATE, RATE])
def test_stretches_are_the_whole_waveform(channels: int, rate: int) -> None:
    target = replace(STREAMED, channels=channels)
    content = clip(channels=channels, rate=rate)
    pieces = decode(content, target=target)
    assert len(pieces) > 8
    assert all(isinstance(piece, DecodedStretch) and piece.position == 3 for piece in pieces)
    whole = decode_item(Item(id="a", source_uri="a"), position=3, source=MemorySource({"a": content}), target=target)
    np.testing.assert_array_equal(put_together(pieces), whole.float_waveform())
    *first, last = pieces
    assert [(piece.facts, piece.is_last) for piece in first] == [(None, False)] * len(first)  # type: ignore[union-attr]
    assert isinstance(last, DecodedStretch)
    assert (last.facts, last.is_last) == (whole.facts, True)
    assert {piece.waveform.dtype for piece in pieces} == {whole.waveform.dtype}  # type: ignore[union-attr]


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize(("num_samples", "is_long"), [(int(2.5 * RATE), False), (int(2.5 * RATE) + 1, True)])
def test_what_is_long_goes_by_the_samples_alone(num_samples: int, is_long: bool) -> None:
    content = encode(speechlike(num_samples), container="WAV", coding="PCM_16", rate=RATE)
    assert isinstance(decode(content, target=STREAMED)[0], DecodedStretch) == is_long


def measure_level(waveform: npt.NDArray[np.generic], *, sample_rate: int) -> Level:
    """Of a waveform [C, n] in one piece."""
    meter = LevelMeter(sample_rate=sample_rate)
    meter.push(waveform)
    return meter.level()


def rows_of(pieces: list[Decoded]) -> dict[tuple[int | None, int], list[DecodedStretch | DecodedItem]]:
    rows = defaultdict(list)
    for piece in pieces:
        assert not isinstance(piece, RejectedItem), piece
        rows[piece.place.channel, piece.place.slice_index].append(piece)
    return rows


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize("mode", ["exact", "restart"])
@pytest.mark.parametrize("policy", ["auto", "each"])
@pytest.mark.parametrize("start", [None, 0.5])
def test_slices_are_the_whole_waveform(mode: Any, policy: Any, start: float | None) -> None:
    content = clip(channels=2)
    item = Item(id="a", source_uri="a", start_seconds=start)
    target = replace(STREAMED, slice_samples=SLICE, long_audio=mode, channel_policy=policy)
    pieces = decode(content, target=target, item=item)
    assert [piece.is_last for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for channel in [0, 1] if policy == "each" else [None]:
        alone = replace(item, channel=channel)
        whole = decode_item(
            alone, position=3, source=MemorySource({"a": content}), target=AudioTarget(sample_rate=RATE, channels=1)
        ).waveform
        rows = {index: row for (of, index), row in rows_of(pieces).items() if of == channel}
        assert list(rows) == list(range(-(-whole.shape[1] // SLICE)))
        for index, row in rows.items():
            expected = whole[:, index * SLICE : (index + 1) * SLICE]
            np.testing.assert_array_equal(put_together(list(row)), expected)
            assert {piece.place.start_sample for piece in row} == {round((start or 0) * RATE) + index * SLICE}
            facts = row[-1].facts
            assert facts is not None
            level = measure_level(expected, sample_rate=RATE)
            assert (facts.num_samples, facts.rms_db, facts.peak) == (expected.shape[1], level.rms_db, level.peak)
            assert (facts.clipped_fraction, facts.silent_fraction) == (level.clipped_fraction, level.silent_fraction)
            assert [piece.facts for piece in row[:-1]] == [None] * (len(row) - 1)
            assert (len(row) == 1 and isinstance(row[0], DecodedItem)) == (mode == "restart")


@pytest.mark.parametrize("mode", ["exact", "restart"])
@pytest.mark.parametrize(("num_samples", "num_rows"), [(SLICE - 1, 1), (SLICE, 1), (SLICE + 1, 2), (3 * SLICE, 3)])
def test_slices_end_where_they_should(mode: Any, num_samples: int, num_rows: int) -> None:
    content = encode(speechlike(num_samples), container="WAV", coding="PCM_16", rate=RATE)
    pieces = decode(content, target=replace(STREAMED, slice_samples=SLICE, long_audio=mode))
    assert len(rows_of(pieces)) == num_rows
    assert (num_rows == 1) == (isinstance(pieces[0], DecodedItem) and pieces[0].is_last)


@pytest.mark.usefixtures("short_is_long")
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"max_seconds": 9.0}, RejectReason.TOO_LONG),
        ({"min_seconds": 11.0}, RejectReason.TOO_SHORT),
        ({"max_silent_fraction": 0.05}, RejectReason.SILENT),
        ({"max_clipped_fraction": 0.0001}, RejectReason.CLIPPED),
        # The second slice alone is more silent than this.
        ({"max_silent_fraction": 0.2}, None),
    ],
)
@pytest.mark.parametrize("slices", [{}, {"slice_samples": SLICE}, {"slice_samples": SLICE, "long_audio": "restart"}])
def test_filters_judge_the_whole_of_long_audio(
    filters: dict[str, Any], expected: RejectReason | None, slices: dict[str, Any]
) -> None:
    *_, last = pieces = decode(clip(), target=replace(STREAMED, **filters, **slices))
    assert [isinstance(piece, RejectedItem) for piece in pieces[:-1]] == [False] * (len(pieces) - 1)
    if expected is None:
        assert not isinstance(last, RejectedItem)
    else:
        assert isinstance(last, RejectedItem)
        assert last.reason is expected
        assert len(pieces) > 1


@pytest.mark.usefixtures("short_is_long")
def test_the_last_slice_of_a_kept_recording_is_the_truncated_one() -> None:
    target = replace(STREAMED, slice_samples=SLICE, on_truncated="keep", channel_policy="each")
    content = clip(channels=2)
    rows = rows_of(decode(content[: len(content) * 3 // 4], target=target))
    last = max(index for _, index in rows)
    assert last > 0
    for (_, index), row in rows.items():
        facts = row[-1].facts
        assert facts is not None
        assert facts.truncated == (index == last)


@pytest.mark.usefixtures("short_is_long")
def test_damage_after_some_stretches_voids_them() -> None:
    content = bytearray(clip())
    content[len(content) * 3 // 4] ^= 0x10
    # Small blocks, so that the decoder fails in a later one.
    for target in (STREAMED, replace(STREAMED, on_truncated="keep")):
        *_, last = decode(bytes(content), target=target)
        assert isinstance(last, RejectedItem)
        assert last.reason is RejectReason.CORRUPT


@pytest.mark.usefixtures("short_is_long")
def test_stretches_of_a_cut_are_not_given_twice_when_the_decoder_fails_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tokenizer_jobs.decode.passes.BLOCK_VALUES", 16384)
    content = bytearray(clip())
    content[len(content) * 3 // 4] ^= 0x10
    cuts = [
        (0, Item(id="a", source_uri="x", start_seconds=0.5, duration_seconds=5.6)),
        (1, Item(id="b", source_uri="x", start_seconds=6.0, duration_seconds=4.0)),
        (2, Item(id="c", source_uri="x", start_seconds=9.0, duration_seconds=1.0)),
    ]
    source = MemorySource({"a": bytes(content), "b": bytes(content), "c": bytes(content)})
    pieces = list(decode_items(cuts, source=source, target=STREAMED))
    whole = decode_item(cuts[0][1], position=0, source=MemorySource({"a": clip()}), target=STREAMED)
    np.testing.assert_array_equal(put_together([p for p in pieces if p.position == 0]), whole.float_waveform())
    last_b = [piece for piece in pieces if piece.position == 1][-1]
    assert isinstance(last_b, RejectedItem)
    assert last_b.reason is RejectReason.CORRUPT
    (last_c,) = (piece for piece in pieces if piece.position == 2)
    assert isinstance(last_c, DecodedItem)


def test_without_stretches_long_audio_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer_jobs.decode.rows.LONG_WAVEFORM_BYTES", 1)
    (item,) = decode(clip(), target=replace(STREAMED, streamed=False))
    assert isinstance(item, DecodedItem)


def test_exact_slices_need_a_codec_that_streams() -> None:
    with pytest.raises(ConfigError, match="long_audio = restart"):
        AudioTarget(sample_rate=32000, channels=1, slice_samples=640)
    AudioTarget(sample_rate=32000, channels=1, slice_samples=640, long_audio="restart")


def test_one_waveform_is_given_whatever_slices_are_asked_for() -> None:
    target = replace(STREAMED, slice_samples=SLICE)
    item = decode_item(Item(id="a", source_uri="a"), position=0, source=MemorySource({"a": clip()}), target=target)
    assert item.facts.num_samples == item.waveform.shape[1] > SLICE
    with pytest.raises(ItemError) as caught:
        decode_item(Item(id="a", source_uri="a"), position=0, source=MemorySource({"a": b"x" * 99}), target=target)
    assert caught.value.reason is RejectReason.NOT_AUDIO


_ONE_HOUR = """
import hashlib, resource, sys
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.records import DecodedStretch
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import make_source
source = make_source(FilesSource(paths=(sys.argv[1],)))
(item,) = source.list().items
target = AudioTarget(sample_rate=24000, channels=1, streamed=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
num_samples = num_stretches = 0
for piece in decode_items([(0, item)], source=source, target=target):
    assert isinstance(piece, DecodedStretch)
    num_samples += piece.waveform.shape[1]
    num_stretches += 1
    facts = piece.facts
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(num_samples, facts.num_samples, num_stretches, (after - before) * 1024)
"""


def test_an_hour_needs_the_memory_of_minutes(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    minute = (speechlike(60 * 8000, rate=8000) * 32767).astype(np.int16)
    with soundfile.SoundFile(path, "w", samplerate=8000, channels=1, subtype="PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    finished = subprocess.run(
        [sys.executable, "-c", _ONE_HOUR, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    num_samples, of_the_facts, num_stretches, grown = map(int, finished.stdout.split())
    assert num_samples == of_the_facts == 3600 * 24000
    assert num_stretches == 120
    # 64 MiB that are collected before it is known to be long, an eighth in reserve, stretches; whole it is 346 MB.
    assert grown < 110e6
