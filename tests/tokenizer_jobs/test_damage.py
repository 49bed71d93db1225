"""No damage passes as success: whatever happened to a file, it is a whole item or a reject with its reason."""

import errno
import io
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import CONTAINERS, MONO, RATE, MemorySource, decode_bytes, encode, speechlike
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.decode.ogg import _checksum
from tokenizer_jobs.errors import RejectReason, Stage, TransientError
from tokenizer_jobs.records import Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources import make_source

NUM_SAMPLES = 2 * RATE
KEEP = AudioTarget(sample_rate=RATE, channels=1, on_truncated="keep")
LOUD = AudioTarget(sample_rate=44100, channels=1)


@lru_cache
def intact(kind: str) -> bytes:
    container, coding = CONTAINERS[kind]
    return encode(speechlike(NUM_SAMPLES), container=container, coding=coding)


def reason(decoded: Decoded) -> RejectReason:
    assert isinstance(decoded, RejectedItem), decoded
    return decoded.reason


def accepted(decoded: Decoded) -> DecodedItem:
    assert isinstance(decoded, DecodedItem), decoded
    return decoded


@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_whole_file_has_all_its_samples(kind: str) -> None:
    item = accepted(decode_bytes(intact(kind)))
    assert item.facts.num_samples == NUM_SAMPLES
    assert not item.facts.truncated


@pytest.mark.parametrize("kind", CONTAINERS)
@settings(max_examples=25, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), last_bytes=st.booleans())
def test_a_cut_file_is_a_reject(kind: str, share: float, last_bytes: bool) -> None:
    content = intact(kind)
    size = len(content) - 1 - int(share * 40) if last_bytes else int(share * len(content))
    expected = {RejectReason.TRUNCATED} if size >= 16 else set(RejectReason)
    assert reason(decode_bytes(content[:size])) in expected


@pytest.mark.parametrize("kind", CONTAINERS)
@settings(max_examples=15, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_that_is_kept_is_flagged(kind: str, share: float) -> None:
    decoded = decode_bytes(intact(kind)[: int(share * len(intact(kind)))], target=KEEP)
    if isinstance(decoded, DecodedItem):
        assert decoded.facts.truncated
        assert decoded.facts.num_samples <= NUM_SAMPLES + 1152  # mpg123 drops the encoder's padding only at the end


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_what_is_kept_of_a_cut_file_is_its_beginning(kind: str) -> None:
    whole = accepted(decode_bytes(intact(kind))).float_waveform()
    item = accepted(decode_bytes(intact(kind)[: len(intact(kind)) * 3 // 4], target=KEEP))
    assert 0.3 * NUM_SAMPLES < item.facts.num_samples < NUM_SAMPLES
    # The last Vorbis packet misses the overlap with the next.
    length = item.facts.num_samples - 2048
    np.testing.assert_array_equal(item.float_waveform()[:, :length], whole[:, :length])


@pytest.mark.parametrize("kind", CONTAINERS)
@settings(max_examples=40, deadline=None)
@given(places=st.lists(st.integers(0, 1 << 40), min_size=1, max_size=4), near_start=st.booleans())
def test_flipped_bits_never_raise(kind: str, places: list[int], near_start: bool) -> None:
    content = bytearray(intact(kind))
    for place in places:
        content[place // 8 % (128 if near_start else len(content))] ^= 1 << place % 8
    decode_bytes(bytes(content))
    decode_bytes(bytes(content), target=KEEP)


@pytest.mark.parametrize("kind", ["flac", "ogg", "mp3"])
@settings(max_examples=25, deadline=None)
@given(place=st.integers(600, 1 << 30), length=st.integers(600, 4000))
def test_a_hole_in_the_audio_never_shortens_it(kind: str, place: int, length: int) -> None:
    content = intact(kind)
    place = 600 + place % (len(content) - 1200)
    length = min(length, len(content) - place)
    decoded = decode_bytes(content[:place] + bytes(length) + content[place + length :])
    if isinstance(decoded, DecodedItem):
        assert decoded.facts.num_samples >= NUM_SAMPLES


def renumbered(content: bytes, offset: int) -> bytes:
    """An Ogg as if cut out of a longer one: every position is `offset` later."""
    pages, place = [], 0
    while place < len(content):
        count = content[place + 26]
        end = place + 27 + count + sum(content[place + 27 : place + 27 + count])
        page = bytearray(content[place:end])
        position = struct.unpack("<q", page[6:14])[0]
        if position > 0:
            page[6:14] = struct.pack("<q", position + offset)
        page[22:26] = bytes(4)
        page[22:26] = struct.pack("<I", _checksum(bytes(page)))
        pages.append(bytes(page))
        place = end
    return b"".join(pages)


@pytest.mark.parametrize("offset", [1000, 44100, 10**9])
def test_ogg_that_was_cut_out_of_a_longer_one_is_whole(offset: int) -> None:
    item = accepted(decode_bytes(renumbered(intact("ogg"), offset)))
    assert item.facts.num_samples == NUM_SAMPLES


def test_chained_ogg_is_not_taken_for_its_first_link() -> None:
    # libsndfile reads the first link and says nothing; FFmpeg gives up where the channels change.
    chained = intact("ogg") + encode(speechlike(RATE, channels=2), container="OGG", coding="VORBIS")
    assert reason(decode_bytes(chained)) is RejectReason.TRUNCATED
    kept = accepted(decode_bytes(chained, target=KEEP))
    assert (kept.facts.num_samples, kept.facts.truncated) == (NUM_SAMPLES, True)


def test_damage_inside_flac_is_not_called_a_cut() -> None:
    content = bytearray(intact("flac"))
    content[len(content) // 2] ^= 0x10
    assert reason(decode_bytes(bytes(content))) is RejectReason.CORRUPT
    assert reason(decode_bytes(bytes(content), target=KEEP)) is RejectReason.CORRUPT


def test_flac_that_says_less_than_it_holds_is_damage() -> None:
    content = bytearray(intact("flac"))
    content[24:26] = struct.pack(">H", 5000)  # the low half of STREAMINFO's number of samples
    assert reason(decode_bytes(bytes(content))) is RejectReason.CORRUPT


@pytest.mark.parametrize(("riff", "data"), [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (36, 0), (0x7FFFF024, 0x7FFFF000)])
def test_wav_from_a_pipe_is_whole(riff: int, data: int) -> None:
    content = intact("wav")
    piped = content[:4] + struct.pack("<I", riff) + content[8:40] + struct.pack("<I", data) + content[44:]
    item = accepted(decode_bytes(piped))
    assert item.facts.num_samples == NUM_SAMPLES
    np.testing.assert_array_equal(item.waveform, accepted(decode_bytes(content)).waveform)


@pytest.mark.parametrize("size", [NUM_SAMPLES * 2 + 2, 1 << 31, 0xFFFFFFF0])
def test_wav_that_promises_more_than_it_holds_is_truncated(size: int) -> None:
    content = intact("wav")
    lying = content[:40] + struct.pack("<I", size) + content[44:]
    assert reason(decode_bytes(lying)) is RejectReason.TRUNCATED
    assert accepted(decode_bytes(lying, target=KEEP)).facts.num_samples == NUM_SAMPLES


def test_wav_that_promises_less_than_it_holds_is_damage() -> None:
    content = intact("wav")
    assert reason(decode_bytes(content[:40] + struct.pack("<I", 4000) + content[44:])) is RejectReason.CORRUPT


def test_chunks_and_tags_after_the_audio_are_no_damage() -> None:
    tag = b"TAG" + bytes(125)
    listed = b"LIST" + struct.pack("<I", 4) + b"INFO"
    wav = intact("wav")
    wav = wav[:4] + struct.pack("<I", len(wav) - 8 + len(listed)) + wav[8:] + listed
    for content in (wav, wav + tag, intact("mp3") + tag, b"ID3\x04\0\0\0\0\x02\0" + bytes(256) + intact("mp3")):
        assert accepted(decode_bytes(content)).facts.num_samples == NUM_SAMPLES


def without_xing(content: bytes) -> bytes:
    return content[content.index(content[:2], 4) :]


def test_mp3_without_a_header_is_decoded_to_its_end() -> None:
    # Loud first, so that the bitrate of the first frames is no measure of the rest.
    quiet = np.zeros((44100 * 8, 1), np.float32)
    loud = np.random.default_rng(1).normal(size=(44100, 1)).astype(np.float32) * 0.3
    for parts in ((loud, quiet), (quiet, loud)):
        waveform = np.concatenate(parts)
        whole = encode(waveform, container="MP3", coding="MPEG_LAYER_III", rate=44100, variable_bitrate=True)
        item = accepted(decode_bytes(without_xing(whole), target=LOUD))
        # With the header went what tells the encoder's delay and padding: three frames at most.
        assert 0 <= item.facts.num_samples - len(waveform) <= 3 * 1152


def test_mp3_with_lost_frames_is_damage() -> None:
    content = intact("mp3")
    third, rest = len(content) // 3, len(content) // 2
    assert reason(decode_bytes(content[:third] + content[rest:])) in (RejectReason.TRUNCATED, RejectReason.CORRUPT)
    bare = without_xing(content)
    assert reason(decode_bytes(bare[:third] + bytes(1000) + bare[third + 1000 :])) is RejectReason.CORRUPT
    assert reason(decode_bytes(bare[:third] + bytes(len(bare) - third))) in (
        RejectReason.TRUNCATED,
        RejectReason.CORRUPT,
    )


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_mp3_whose_last_frames_became_zeros_is_truncated(frames: int) -> None:
    content = intact("mp3")
    starts = [place for place in range(len(content)) if content.startswith(content[:2], place)]
    zeros = content[: starts[-frames]] + bytes(len(content) - starts[-frames])
    assert reason(decode_bytes(zeros)) is RejectReason.TRUNCATED
    accepted(decode_bytes(content + bytes(5000)))  # padding after the last frame is none of it


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>Not found</body></html>" * 40,
        "Ünïcode text, line after line\n".encode() * 100,
        b'{"error": 404}',
        bytes(5000),
        np.random.default_rng(0).bytes(5000),
    ],
    ids=["html", "text", "json", "zeros", "noise"],
)
def test_what_is_no_audio_is_named_so(content: bytes) -> None:
    assert reason(decode_bytes(content, name="song.mp3")) is RejectReason.NOT_AUDIO


def test_no_bytes_and_no_samples_are_empty() -> None:
    nothing = decode_bytes(b"")
    assert reason(nothing) is RejectReason.EMPTY
    assert isinstance(nothing, RejectedItem)
    assert nothing.stage is Stage.READ
    for kind in ("wav", "flac", "aiff"):
        container, coding = CONTAINERS[kind]
        silent = encode(np.zeros((0, 1), np.float32), container=container, coding=coding)
        assert reason(decode_bytes(silent)) is RejectReason.EMPTY, kind


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (np.nan, RejectReason.NON_FINITE),
        (np.inf, RejectReason.NON_FINITE),
        (-np.inf, RejectReason.NON_FINITE),
        (4.5, RejectReason.ABSURD_PEAK),
        (-27.0, RejectReason.ABSURD_PEAK),
    ],
)
def test_samples_that_no_recording_holds_are_refused(sample: float, expected: RejectReason) -> None:
    waveform = speechlike(100_000)
    waveform[90_000] = sample
    assert reason(decode_bytes(encode(waveform, container="WAV", coding="FLOAT"))) is expected


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (FileNotFoundError(2, "No such file"), RejectReason.VANISHED),
        (PermissionError(13, "Permission denied"), RejectReason.PERMISSION_DENIED),
        (IsADirectoryError(21, "Is a directory"), RejectReason.UNREADABLE),
        (OSError(22, "not a regular file"), RejectReason.UNREADABLE),
    ],
)
def test_faults_of_reading_have_their_reasons(fault: Exception, expected: RejectReason) -> None:
    decoded = decode_bytes(fault)
    assert reason(decoded) is expected
    assert isinstance(decoded, RejectedItem)
    assert decoded.stage is Stage.READ


def test_a_passing_fault_is_not_the_items() -> None:
    with pytest.raises(TransientError):
        decode_bytes(TransientError("the network is down"))


@pytest.mark.parametrize("rate", [1, 3_000_000])
def test_rates_that_no_recording_has_are_damage(rate: int) -> None:
    content = encode(speechlike(100), container="WAV", coding="PCM_16", rate=rate)
    assert reason(decode_bytes(content, target=MONO)) is RejectReason.CORRUPT


class FailingFile(io.BytesIO):
    """Fails the first `times` reads, as a disk or a client does."""

    def __init__(self, content: bytes, fault: Exception, times: int) -> None:
        super().__init__(content)
        self.fault, self.times = fault, times

    def read(self, size: int | None = -1, /) -> bytes:
        if self.times > 0:
            self.times -= 1
            raise self.fault
        return super().read(size)


class FailingSource(MemorySource):
    def __init__(self, fault: Exception, times: int, *, when: str) -> None:
        super().__init__({})
        self.fault, self.times, self.when = fault, times, when

    def open(self, item: Item) -> IO[bytes]:
        if self.when == "read":
            return FailingFile(intact("wav"), self.fault, self.times)
        if self.times > 0:
            self.times -= 1
            raise self.fault
        return io.BytesIO(intact("wav"))


def decode_failing(fault: Exception, *, times: int, when: str = "read", uri: str = "/data/a.wav") -> Decoded:
    source = FailingSource(fault, times, when=when)
    (decoded,) = decode_items([(0, Item(id="a", source_uri=uri))], source=source, target=MONO)
    return decoded


@pytest.mark.parametrize("when", ["open", "read"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_bad_local_file_costs_itself_after_a_second_try(number: int, when: str) -> None:
    fault = OSError(number, os.strerror(number))
    accepted(decode_failing(fault, times=1, when=when))
    rejected = decode_failing(fault, times=9, when=when)
    assert reason(rejected) is RejectReason.UNREADABLE
    assert isinstance(rejected, RejectedItem)
    assert rejected.stage is Stage.READ


def test_a_bad_local_file_is_unreadable_through_the_files_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.wav").write_bytes(intact("wav"))
    source = make_source(FilesSource(paths=(str(tmp_path),)))
    (item,) = source.list().items

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("tokenizer_jobs.storage.inputs._open_regular", fail)
    (decoded,) = decode_items([(0, item)], source=source, target=MONO)
    assert reason(decoded) is RejectReason.UNREADABLE


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ETIMEDOUT])
def test_a_local_fault_of_the_machine_is_not_the_items(number: int) -> None:
    with pytest.raises(TransientError):
        decode_failing(OSError(number, os.strerror(number)), times=9)


@pytest.mark.parametrize("fault", [OSError(errno.EIO, "Input/output error"), RuntimeError("the client is confused")])
def test_a_remote_storage_that_fails_in_the_middle_is_not_the_items(fault: Exception) -> None:
    with pytest.raises(TransientError):
        decode_failing(fault, times=9, uri="s3://bucket/a.wav")


@pytest.mark.parametrize("when", ["open", "read"])
@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError])
def test_no_secret_is_in_a_reject(kind: type[Exception], when: str) -> None:
    decoded = decode_failing(kind("https://me:hunter2@h/a.wav?sig=hunter2"), times=9, when=when, uri="https://h/a.wav")
    assert isinstance(decoded, RejectedItem)
    assert "hunter2" not in decoded.message
    assert "https://h/a.wav" in decoded.message
