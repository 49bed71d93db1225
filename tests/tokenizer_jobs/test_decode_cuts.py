"""Laws of cuts and channels: a cut is what a file of just its samples would be, whatever else is decoded or damaged."""

import io
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import CONTAINERS, RATE, MemorySource, encode, speechlike
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.decode.opened import InputBytes
from tokenizer_jobs.decode.readers import SoundfileReader
from tokenizer_jobs.errors import RejectReason, Stage
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem, RowPlace

SECONDS = 6
MONO = AudioTarget(sample_rate=RATE, channels=1)
KEEP = AudioTarget(sample_rate=RATE, channels=1, on_truncated="keep")
NAME = "recording.bin"


class CountingSource(MemorySource):
    """Counts how often each recording is opened, whichever item asks for it."""

    opened: list[str]

    def open(self, item: Item) -> IO[bytes]:
        self.opened.append(item.id)
        content = self.contents[item.source_uri]
        assert isinstance(content, bytes)
        return io.BytesIO(content)


def cut(start: float | None, duration: float | None, **fields: Any) -> Item:
    identity = f"{start}-{duration}-{fields.get('channel')}"
    return Item(id=identity, source_uri=NAME, start_seconds=start, duration_seconds=duration, **fields)


def decode_cuts(content: bytes, cuts: Sequence[Item], *, target: AudioTarget = MONO) -> list[Decoded]:
    """What each cut becomes, in one pass, with one row each."""
    source = CountingSource({NAME: content})
    source.opened = []
    decoded = list(decode_items(list(enumerate(cuts)), source=source, target=target))
    assert len(source.opened) == 1
    assert [each.position for each in decoded] == list(range(len(cuts)))
    return decoded


def accepted(decoded: Decoded) -> DecodedItem:
    assert isinstance(decoded, DecodedItem), decoded
    return decoded


def reasons(decoded: Sequence[Decoded]) -> list[str]:
    return ["row" if isinstance(each, DecodedItem) else each.reason.value for each in decoded]  # type: ignore[union-attr]


@lru_cache
def intact(kind: str, *, channels: int = 1, rate: int = RATE) -> bytes:
    container, coding = CONTAINERS[kind]
    waveform = speechlike(SECONDS * rate, channels=channels, rate=rate)
    return encode(waveform, container=container, coding=coding, rate=rate)


@lru_cache
def samples(content: bytes) -> npt.NDArray[np.float32]:
    """All samples [n, c], read on without seeking."""
    with SoundfileReader(InputBytes(io.BytesIO(content), name="x").view(head=b"", skip=0)) as reader:
        return np.concatenate(list(reader.blocks(np.float32, block_values=1 << 14))).astype(np.float32)


@pytest.mark.parametrize("kind", ["wav", "wavfloat", "flac", "flac24", "mp3", "ogg", "aiff", "caf"])
@pytest.mark.parametrize(("rate", "target_rate"), [(RATE, RATE), (44100, 24000), (8000, 24000)])
def test_a_cut_is_a_file_of_just_its_samples(kind: str, rate: int, target_rate: int) -> None:
    content = intact(kind, channels=2, rate=rate)
    cuts = [cut(0.0, 1.0), cut(0.25, 2.5), cut(0.2501, 0.003), cut(3.1234567, 1.7), cut(4.2, None)]
    target = AudioTarget(sample_rate=target_rate, channels=1)
    for item, decoded in zip(cuts, decode_cuts(content, cuts, target=target), strict=True):
        first = round((item.start_seconds or 0) * rate)
        stop = None if item.duration_seconds is None else first + round(item.duration_seconds * rate)
        alone = encode(samples(content)[first:stop], container="WAV", coding="FLOAT", rate=rate)
        (expected,) = decode_items(
            [(0, Item(id="a", source_uri="a"))], source=MemorySource({"a": alone}), target=target
        )
        found = accepted(decoded)
        np.testing.assert_array_equal(found.float_waveform(), accepted(expected).float_waveform())
        assert found.place == RowPlace(start_sample=round((item.start_seconds or 0) * target_rate))
        assert found.facts.rms_db == accepted(expected).facts.rms_db


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["wav", "flac", "ogg"]),
    st.lists(st.tuples(st.integers(0, SECONDS * 1000), st.integers(1, 3000)), min_size=1, max_size=6),
    st.booleans(),
)
def test_cuts_do_not_depend_on_those_decoded_with_them(
    kind: str, places: list[tuple[int, int]], in_order: bool
) -> None:
    content = intact(kind)
    cuts = [cut(start / 1000, length / 1000) for start, length in (sorted(places) if in_order else places)]
    for item, together in zip(cuts, decode_cuts(content, cuts), strict=True):
        (alone,) = decode_cuts(content, [item])
        assert reasons([together]) == reasons([alone])
        if isinstance(alone, DecodedItem):
            assert accepted(together).waveform.tobytes() == alone.waveform.tobytes()
            assert accepted(together).facts == alone.facts


def test_what_waits_behind_a_long_cut_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = [cut(0.0, 5.0), cut(0.5, 1.0), cut(1.0, 2.0), cut(1.5, 1.0), cut(5.5, 0.25)]
    expected = decode_cuts(intact("flac"), cuts)
    monkeypatch.setattr("tokenizer_jobs.decode.passes.WAITING_BYTES", 1 << 17)
    for found, wanted in zip(decode_cuts(intact("flac"), cuts), expected, strict=True):
        np.testing.assert_array_equal(accepted(found).waveform, accepted(wanted).waveform)


@pytest.mark.parametrize(
    ("start", "duration", "expected"),
    [
        (SECONDS - 1, 1.0, "row"),
        (SECONDS - 1, 1.09, "row"),
        (SECONDS - 1, 1.2, "truncated"),
        (0.0, SECONDS * 1.009, "row"),
        (0.0, SECONDS + 0.2, "truncated"),
        (SECONDS - 0.01, None, "row"),
        (SECONDS, None, "outside"),
        (SECONDS + 5, 1.0, "outside"),
        (-0.5, 1.0, "outside"),
        (float("nan"), 1.0, "outside"),
        (1.0, 0.0, "empty"),
        (1.0, float("inf"), "empty"),
        (None, SECONDS * 1.009, "row"),
        (None, SECONDS - 3, "row"),
        (None, SECONDS + 0.2, "truncated"),
    ],
)
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_cuts_at_and_beyond_the_end(kind: str, start: float | None, duration: float | None, expected: str) -> None:
    (decoded,) = decode_cuts(intact(kind), [cut(start, duration)])
    assert reasons([decoded]) == [expected]
    (kept,) = decode_cuts(intact(kind), [cut(start, duration)], target=KEEP)
    if expected == "truncated":
        assert accepted(kept).facts.truncated
        assert accepted(kept).facts.num_samples == SECONDS * RATE - round((start or 0) * RATE)
    else:
        assert reasons([kept]) == [expected]
        assert not isinstance(kept, DecodedItem) or not kept.facts.truncated


CUTS = [cut(index / 2, 0.5) for index in range(2 * SECONDS)]


def whole_cuts(kind: str) -> list[Decoded]:
    return decode_cuts(intact(kind), CUTS)


@pytest.mark.parametrize("kind", ["wav", "w64", "aiff", "au", "caf", "flac", "flac24", "ogg", "mp3"])
@settings(max_examples=8, deadline=None)
@given(share=st.floats(0.2, 0.999))
def test_a_lost_end_costs_the_cuts_that_it_held(kind: str, share: float) -> None:
    size = int(len(intact(kind)) * share)
    for target in (MONO, KEEP):
        found = decode_cuts(intact(kind)[:size], CUTS, target=target)
        expected = whole_cuts(kind)
        whole = [isinstance(each, DecodedItem) and not each.facts.truncated for each in found]
        assert whole == sorted(whole, reverse=True)
        if kind in ("wav", "w64", "aiff", "au", "caf"):
            assert sum(whole) in (int(share * len(CUTS)), int(share * len(CUTS)) - 1)
        elif kind in ("flac", "flac24"):  # the last block that was whole is of 4,096 samples
            assert sum(whole) >= int(share * len(CUTS)) - 2
        else:
            assert sum(whole) >= int(share * len(CUTS)) - 4
        for each, wanted in zip(found[: sum(whole)], expected, strict=False):
            # A cut CAF is read by FFmpeg, which gives float32.
            np.testing.assert_array_equal(accepted(each).float_waveform(), accepted(wanted).float_waveform())
        for each in found[sum(whole) :]:
            assert reasons([each]) in (["truncated"], ["row"])
            assert not isinstance(each, DecodedItem) or (target is KEEP and each.facts.truncated)


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.3, 0.9), length=st.integers(1, 3000))
def test_damage_inside_costs_the_cuts_that_it_touches(kind: str, share: float, length: int) -> None:
    content = bytearray(intact(kind))
    place = int(share * len(content))
    length = min(length, len(content) - place)
    content[place : place + length] = bytes(length)
    found = decode_cuts(bytes(content), CUTS)
    before = int(share * len(CUTS)) - (5 if kind == "ogg" else 4)  # pages of Ogg hold up to a second
    assert reasons(found[: max(0, before)]) == ["row"] * max(0, before)
    for each, wanted in zip(found, whole_cuts(kind), strict=True):
        if isinstance(each, DecodedItem) and (kind != "mp3" or length > 600):
            assert each.waveform.tobytes() == accepted(wanted).waveform.tobytes()
    if kind == "flac" and share < 0.6:  # its frames say which samples they hold; near the end the search may fail
        assert reasons(found[-1:]) == ["row"]


def test_a_data_chunk_that_says_too_little_costs_what_it_leaves_out() -> None:
    content = intact("wav")
    lying = content[:40] + struct.pack("<I", 2 * 3 * RATE) + content[44:]
    assert reasons(decode_cuts(lying, [cut(0.0, 1.0), cut(2.0, 1.0), cut(2.5, 1.0), cut(4.0, None)])) == [
        "row",
        "row",
        "corrupt",
        "corrupt",
    ]


def test_samples_that_no_recording_holds_cost_the_cut_that_has_them() -> None:
    waveform = speechlike(4 * RATE)
    waveform[RATE + 5] = np.nan
    content = encode(waveform, container="WAV", coding="FLOAT")
    assert reasons(decode_cuts(content, [cut(0.0, 1.0), cut(0.5, 1.0), cut(2.0, 1.0)])) == ["row", "non_finite", "row"]


def test_an_unreadable_recording_costs_all_its_cuts() -> None:
    found = decode_cuts(b"<html>not found</html>" * 99, [cut(0.0, 1.0), cut(0.5, 1.0)])
    assert reasons(found) == ["not_audio"] * 2


class CountingReader(SoundfileReader):
    """Counts the samples that are decoded."""

    num_decoded = 0

    def blocks(self, dtype: Any, **options: Any) -> Any:
        for block in super().blocks(dtype, **options):
            type(self).num_decoded += len(block)
            yield block


@pytest.mark.parametrize("kind", ["wav", "wav24", "flac", "w64", "aiff", "au", "caf", "rf64"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_long_gaps_are_skipped_and_the_samples_are_the_same(
    kind: str, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not in_memory:
        monkeypatch.setattr("tokenizer_jobs.decode.opened.IN_MEMORY_BYTES", 0)
    container, coding = CONTAINERS[kind]
    content = encode(speechlike(200 * 8000, rate=8000), container=container, coding=coding, rate=8000)
    monkeypatch.setattr("tokenizer_jobs.decode.readers.SoundfileReader", CountingReader)
    cuts = [cut(50.0005, 1.0), cut(150.25, 2.0), cut(400.0, 1.0)]
    target = AudioTarget(sample_rate=8000, channels=1)
    CountingReader.num_decoded = 0
    *found, beyond = decode_cuts(content, cuts, target=target)
    assert CountingReader.num_decoded <= 2 * (3 * 8000 + 65536)
    assert reasons([beyond]) == ["outside"]
    for item, each in zip(cuts, found, strict=False):
        first = round((item.start_seconds or 0) * 8000)
        expected = samples(content)[first : first + accepted(each).facts.num_samples]
        np.testing.assert_array_equal(accepted(each).float_waveform(), expected.T)


def test_reading_ends_after_the_last_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenizer_jobs.decode.readers.SoundfileReader", CountingReader)
    content = encode(speechlike(60 * RATE), container="OGG", coding="VORBIS")
    CountingReader.num_decoded = 0
    assert reasons(decode_cuts(content, [cut(0.0, 1.0), cut(2.0, 3.0)])) == ["row", "row"]
    assert CountingReader.num_decoded < 5 * RATE + 2 * 65536


def test_the_channel_that_an_item_names_is_its_row() -> None:
    content = intact("wav", channels=3)
    stereo = AudioTarget(sample_rate=RATE, channels=2)
    items = [cut(None, None, channel=2), cut(1.0, 0.5, channel=0), cut(None, None, channel=3)]
    *found, missing = decode_cuts(content, items, target=stereo)
    assert reasons([missing]) == ["outside"]
    whole = samples(content)
    np.testing.assert_array_equal(accepted(found[0]).float_waveform(), np.stack([whole[:, 2]] * 2))
    np.testing.assert_array_equal(accepted(found[1]).float_waveform(), np.stack([whole[RATE : RATE * 3 // 2, 0]] * 2))
    assert [accepted(each).facts.channel for each in found] == [2, 0]
    assert accepted(found[0]).place == RowPlace()


@pytest.mark.parametrize("codec_channels", [1, 2])
@pytest.mark.parametrize("channels", [1, 2, 5, 64])
def test_each_channel_is_a_row(channels: int, codec_channels: int) -> None:
    content = encode(speechlike(RATE, channels=channels, rate=44100), container="WAV", coding="PCM_16", rate=44100)
    target = AudioTarget(sample_rate=24000, channels=codec_channels, channel_policy="each")
    source = MemorySource({"a": content})
    rows = list(decode_items([(0, Item(id="a", source_uri="a"))], source=source, target=target))
    assert [accepted(row).place for row in rows] == [RowPlace(channel=channel) for channel in range(channels)]
    assert [row.is_last for row in map(accepted, rows)] == [False] * (channels - 1) + [True]
    for channel in {0, channels - 1}:
        alone = encode(samples(content)[:, channel : channel + 1], container="WAV", coding="FLOAT", rate=44100)
        (expected,) = decode_items(
            [(0, Item(id="a", source_uri="a"))],
            source=MemorySource({"a": alone}),
            target=AudioTarget(sample_rate=24000, channels=codec_channels),
        )
        row = accepted(rows[channel])
        np.testing.assert_array_equal(row.float_waveform(), accepted(expected).float_waveform())
        assert (row.facts.channel, row.facts.rms_db) == (channel, accepted(expected).facts.rms_db)


def test_more_channels_than_rows_are_refused() -> None:
    content = encode(np.zeros((10, 65), np.float32), container="WAV", coding="PCM_16")
    target = AudioTarget(sample_rate=RATE, channels=1, channel_policy="each")
    (found,) = decode_items([(0, Item(id="a", source_uri="a"))], source=MemorySource({"a": content}), target=target)
    assert reasons([found]) == ["unsupported_channels"]


QUIET, LOUD = np.full(RATE, 1e-5), np.clip(9 * np.sin(np.arange(RATE)), -1, 1)


@pytest.mark.parametrize(
    ("channels", "filters", "expected"),
    [
        ((QUIET,), {"max_silent_fraction": 0.9}, RejectReason.SILENT),
        ((QUIET,), {"max_silent_fraction": 1.0}, None),
        ((LOUD,), {"max_silent_fraction": 0.0}, None),
        ((LOUD,), {"max_clipped_fraction": 0.5}, RejectReason.CLIPPED),
        ((QUIET, LOUD), {"max_silent_fraction": 0.5}, None),
        ((LOUD, QUIET), {"max_clipped_fraction": 0.5}, None),
        ((QUIET, QUIET), {"max_silent_fraction": 0.5}, RejectReason.SILENT),
        ((QUIET,), {"min_sample_rate": RATE + 1}, RejectReason.LOW_SAMPLE_RATE),
        ((QUIET,), {"min_sample_rate": RATE}, None),
    ],
)
def test_filters_judge_the_item_as_a_whole(
    channels: tuple[npt.NDArray[np.float64], ...], filters: dict[str, Any], expected: RejectReason | None
) -> None:
    content = encode(np.stack(channels, axis=1).astype(np.float32), container="WAV", coding="FLOAT")
    target = AudioTarget(sample_rate=RATE, channels=1, channel_policy="each", **filters)
    found = list(decode_items([(0, Item(id="a", source_uri="a"))], source=MemorySource({"a": content}), target=target))
    if expected is None:
        assert reasons(found) == ["row"] * len(channels)
        return
    (reject,) = found
    assert isinstance(reject, RejectedItem)
    assert (reject.stage, reject.reason) == (Stage.FILTER, expected)
    assert f"selection.filters.{next(iter(filters))} = " in reject.message


def test_lengths_are_judged_by_the_cut() -> None:
    target = AudioTarget(sample_rate=RATE, channels=1, min_seconds=1.0, max_seconds=2.0)
    cuts = [cut(0.0, 0.5), cut(0.0, 1.0), cut(1.0, 2.0), cut(1.0, 2.5)]
    assert reasons(decode_cuts(intact("flac"), cuts, target=target)) == ["too_short", "row", "row", "too_long"]


def test_duplicates_are_rejected_unopened() -> None:
    source = CountingSource({})
    source.opened = []
    items = [(0, Item(id="b", source_uri="b", duplicate_of="a")), (1, cut(0.0, 1.0, duplicate_of="x"))]
    found = list(decode_items(items, source=source, target=MONO))
    assert reasons(found) == ["duplicate", "duplicate"]
    assert isinstance(found[0], RejectedItem)
    assert found[0].stage is Stage.FILTER
    assert "'a'" in found[0].message
    assert source.opened == []


def test_soundfile_seeks_as_it_reads() -> None:
    # The claim that seeking rests on, against soundfile's own way of reading a part.
    content = intact("flac")
    part, _ = soundfile.read(io.BytesIO(content), start=12345, frames=777, dtype="float32", always_2d=True)
    np.testing.assert_array_equal(part, samples(content)[12345 : 12345 + 777])
