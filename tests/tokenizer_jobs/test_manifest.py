"""Laws of the manifest source: what lines mean, in every dialect, and that nothing of them is guessed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tokenizer_jobs.clips import MONO, RATE, encode, speechlike
from tests.tokenizer_jobs.manifests import (
    AUDIOCRAFT,
    CLIP,
    CUT,
    NEMO,
    RECORDING,
    STEREO,
    ids,
    items,
    jsonl,
    listing,
    one,
    put,
    refusal,
)
from tokenizer_jobs.decode import decode_items
from tokenizer_jobs.errors import ItemError, RejectReason
from tokenizer_jobs.records import DecodedItem, RejectedItem
from tokenizer_jobs.source_config import ManifestSource
from tokenizer_jobs.sources import make_source


def test_nemo(tmp_path: Path) -> None:
    cut = {**NEMO, "offset": 30.25}
    found = listing(put(tmp_path / "train.json", jsonl(NEMO, cut)))
    whole, part = found.items
    assert (whole.id, whole.start_seconds, whole.duration_seconds) == ("audio/a.wav", None, 4.5)
    assert (part.id, part.start_seconds, part.duration_seconds) == ("audio/a.wav@30.250-34.750", 30.25, 4.5)
    assert whole.source_uri == part.source_uri == str(tmp_path / "audio/a.wav")
    assert whole.user_columns == part.user_columns == {"text": "hello", "lang": "en"}
    assert whole.estimated_seconds == part.estimated_seconds == 4.5


def test_audiocraft(tmp_path: Path) -> None:
    item = one(tmp_path, AUDIOCRAFT)
    assert (item.id, item.source_uri) == ("/music/track 1.mp3", "/music/track 1.mp3")
    assert (item.start_seconds, item.duration_seconds) == (None, 181.2)
    assert item.user_columns == {"weight": 0.5}


def test_lhotse_cuts(tmp_path: Path) -> None:
    item = one(tmp_path, CUT)
    assert (item.id, item.source_uri) == ("lbi-1272-0", str(tmp_path / "LibriSpeech/1272.flac"))
    assert (item.start_seconds, item.duration_seconds, item.channel) == (2.5, 3.0, None)
    assert item.user_columns == {
        "text": "MISTER QUILTER",
        "speaker": "1272",
        "language": "English",
        "custom": '{"snr":21.5}',
    }


def test_lhotse_recordings_and_cuts_of_a_whole_recording_promise_their_duration(tmp_path: Path) -> None:
    whole_cut = {**CUT, "start": 0.0, "duration": 10.0}
    for line in (RECORDING, whole_cut):
        item = one(tmp_path, line)
        assert (item.id, item.start_seconds, item.duration_seconds) == (line["id"], None, 10.0)
    assert one(tmp_path, {**whole_cut, "duration": 9.9}).start_seconds == 0.0


def test_lhotse_supervisions_of_several_speakers_stay_whole(tmp_path: Path) -> None:
    said = [{"start": 2.0, "text": "two", "speaker": "B"}, {"start": 0.5, "text": "one", "speaker": "A"}]
    columns = one(tmp_path, {**CUT, "supervisions": said, "custom": None}).user_columns
    assert columns["text"] == "one two"
    assert "speaker" not in columns
    assert json.loads(columns["supervisions"]) == said
    assert "text" not in one(tmp_path, {**CUT, "supervisions": []}).user_columns


@pytest.mark.parametrize(
    ("channel", "recording", "expected"),
    [
        (0, RECORDING, [("c", None)]),
        (0, STEREO, [("c", 0)]),
        (1, STEREO, [("c", 1)]),
        ([0, 1], STEREO, [("c", None)]),
        ([1, 0], STEREO, [("c", None)]),
        ([1], STEREO, [("c", 1)]),
        (None, STEREO, [("c", None)]),
        ([5, 3], {**STEREO, "sources": [{**STEREO["sources"][0], "channels": [3, 4, 5]}]}, [("c#c3", 0), ("c#c5", 2)]),
    ],
)
def test_lhotse_channels(
    tmp_path: Path, channel: object, recording: dict[str, Any], expected: list[tuple[str, int | None]]
) -> None:
    line = {**CUT, "id": "c", "channel": channel, "recording": recording, "type": "MultiCut"}
    found = items(put(tmp_path / "cuts.jsonl", jsonl(line)))
    assert [(item.id, item.channel) for item in found] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "m", "tracks": [{"cut": CUT, "offset": 0}], "type": "MixedCut"}, "MixedCut"),
        ({**RECORDING, "sources": [{"type": "command", "channels": [0], "source": "sox a.wav -t wav -"}]}, "command"),
        ({**RECORDING, "sources": [{"type": "memory", "channels": [0], "source": "UklGRg=="}]}, "memory"),
        ({**RECORDING, "sources": RECORDING["sources"] * 2}, "2 files"),
        ({**RECORDING, "sources": []}, "sources"),
        ({**RECORDING, "transforms": [{"name": "Speed", "kwargs": {"factor": 0.9}}]}, "transforms"),
        ({**CUT, "channel": 1}, "channels"),
        ({**CUT, "channel": "left"}, "channel"),
        ({**CUT, "start": -1}, "start"),
        ({**CUT, "id": None}, "id"),
    ],
)
def test_what_lhotse_would_compute_is_refused(tmp_path: Path, line: Mapping[str, Any], message: str) -> None:
    said = refusal(put(tmp_path / "cuts.jsonl", jsonl(CUT, line)), format="lhotse")
    assert "cuts.jsonl, line 2" in said
    assert message in said


def test_plain_names(tmp_path: Path) -> None:
    for path_name in ("path", "file", "filename", "file_name", "audio", "audio_path", "wav", "uri", "url"):
        for start_name, duration_name in (("start", "duration"), ("begin", "dur"), ("start_seconds", "length_seconds")):
            item = one(tmp_path, {path_name: "a.wav", start_name: 1, duration_name: 2.5, "mood": "calm"})
            assert (item.id, item.start_seconds, item.duration_seconds) == ("a.wav@1.000-3.500", 1.0, 2.5)
            assert item.user_columns == {"mood": "calm"}
    item = one(tmp_path, {"path": "a.wav", "start": 1.5, "end": 4})
    assert (item.start_seconds, item.duration_seconds, item.user_columns) == (1.5, 2.5, {})
    item = one(tmp_path, {"path": "a.wav", "start": 1.5})
    assert (item.id, item.start_seconds, item.duration_seconds) == ("a.wav@1.500-", 1.5, None)
    assert one(tmp_path, {"path": "a.wav", "end": "late"}).user_columns == {"end": "late"}


def test_named_columns_come_first(tmp_path: Path) -> None:
    line = {"path": "wrong.wav", "clip": "a.wav", "key": 7, "from": 1, "for": 2, "start": "x", "duration": "y"}
    options = {"path_column": "clip", "id_column": "key", "start_column": "from", "duration_column": "for"}
    item = one(tmp_path, line, **options)
    assert (item.id, item.source_uri) == ("7", str(tmp_path / "a.wav"))
    assert (item.start_seconds, item.duration_seconds) == (1.0, 2.0)
    assert item.user_columns == {"path": "wrong.wav", "start": "x", "duration": "y"}


@pytest.mark.parametrize("key", ["path_column", "id_column", "start_column", "duration_column"])
def test_a_named_column_that_no_line_has_is_refused(tmp_path: Path, key: str) -> None:
    for name, content in (("m.jsonl", jsonl(NEMO)), ("m.csv", "audio_filepath,lang\na.wav,en\n")):
        said = refusal(put(tmp_path / name, content), **{key: "strat"})
        assert "strat" in said
        assert "lang" in said or key == "id_column"
    assert key in refusal(put(tmp_path / "cuts.jsonl", jsonl(CUT)), **{key: "id"}, format="lhotse")


def test_whose_fields_are_ambiguous_has_to_be_said(tmp_path: Path) -> None:
    both = put(tmp_path / "m.jsonl", jsonl({**AUDIOCRAFT, **NEMO}))
    assert "selection.source.format" in refusal(both)
    assert ids(both, format="nemo") == ["audio/a.wav"]
    assert ids(both, format="audiocraft") == ["/music/track 1.mp3"]
    assert ids(both, path_column="audio_filepath") == ["audio/a.wav"]
    said = refusal(put(tmp_path / "n.jsonl", jsonl({"song": "a.wav", "mood": "calm"})))
    assert "song, mood" in said
    assert "path_column" in said


def test_missing_and_changed_recordings_are_noticed(tmp_path: Path) -> None:
    put(tmp_path / "a.wav", CLIP)
    put(tmp_path / "b.wav", CLIP)
    lines = jsonl({"path": "a.wav"}, {"path": "b.wav"}, {"path": "gone.wav"}, {"path": "a.wav/c.wav"})
    source = make_source(ManifestSource(paths=(str(put(tmp_path / "m.jsonl", lines)),)))
    found = source.list()
    a, nested, b, gone = found.items
    assert found.num_missing == 2
    assert (a.source_size, gone.source_size, nested.source_size) == (len(CLIP), None, None)
    assert a.estimated_seconds == pytest.approx(len(CLIP) / 88_200)
    with source.open(a) as file:
        assert file.read() == CLIP
    os.utime(tmp_path / "b.wav", ns=(1, 1))
    with pytest.raises(ItemError) as caught:
        source.open(b)
    assert caught.value.reason is RejectReason.CHANGED
    with pytest.raises(FileNotFoundError):
        source.open(gone)


def test_items_decode_to_the_stretches_and_channels_that_the_lines_name(tmp_path: Path) -> None:
    stereo = speechlike(RATE, channels=2)
    put(tmp_path / "a.wav", encode(stereo, container="WAV", coding="FLOAT"))
    recording = {"id": "r", "duration": 1.0, "sources": [{"type": "file", "channels": [0, 1], "source": "a.wav"}]}
    cuts: list[tuple[float, float, Any]] = [
        (0.25, 0.5, 1),
        (0.5, 0.5, 0),
        (0.0, 1.0, [0, 1]),
        (0.125, 0.5, [0, 1]),
        (1.5, 0.5, 0),
    ]
    lines = [
        {"id": str(n), "start": start, "duration": duration, "channel": channel, "recording": recording}
        for n, (start, duration, channel) in enumerate(cuts)
    ]
    source = make_source(ManifestSource(paths=(str(put(tmp_path / "cuts.jsonl", jsonl(*lines))),)))
    listed = source.list().items
    decoded = list(decode_items(list(enumerate(listed)), source=source, target=MONO))
    found = {listed[each.position].id: each for each in decoded}
    assert len(found) == len(decoded) == 5
    outside = found.pop("4")
    assert isinstance(outside, RejectedItem)
    assert outside.reason is RejectReason.OUTSIDE
    for item_id, each in found.items():
        start, duration, channel = cuts[int(item_id)]
        stretch = stereo[round(start * RATE) : round((start + duration) * RATE)]
        expected = stretch.mean(axis=1) if isinstance(channel, list) else stretch[:, channel]
        assert isinstance(each, DecodedItem)
        np.testing.assert_allclose(each.float_waveform()[0], expected, rtol=0, atol=1e-6)


def test_a_field_named_like_one_of_lhotse_does_not_make_a_line_lhotse(tmp_path: Path) -> None:
    item = one(tmp_path, {"path": "a.wav", "recording": "session 1", "sources": 2, "tracks": "9"})
    assert item.user_columns == {"recording": "session 1", "sources": 2, "tracks": "9"}
