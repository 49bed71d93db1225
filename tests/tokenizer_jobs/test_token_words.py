"""Text beside the codes: words follow a crop, and a text without words is never given for a part of its recording."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.token_outputs import WORDS, write_output
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.dataset import TokenDataset
from tokenizer_jobs.training.words import crop_words, text_stream

WORD_LIST: list[dict[str, Any]] = [
    {"text": text, "start_seconds": start, "end_seconds": end}
    for text, start, end in [("one", 0.0, 0.4), ("two", 0.5, 0.9), ("three", 1.0, 1.6), ("four", 1.7, 2.0)]
]
TEXT = "One, two, three, four."
TOLD = {"0-0": {"text": TEXT, "words": WORD_LIST}, "0-1": {"text": "One.", "words": WORD_LIST[:1]}}
BOTH = pa.schema([("text", pa.string()), ("words", WORDS)])


def test_a_crop_has_the_words_that_are_heard_in_it(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [[150, 30]], user_columns=BOTH, values=TOLD)
    heard = set[str]()
    for epoch in range(20):
        dataset = TokenDataset(str(tmp_path / "out"), crop_frames=75, columns=["text", "words"])
        dataset.set_epoch(epoch)
        for sample in dataset:
            if sample["id"] == "0-1":  # shorter than a crop: the whole row, and its text as it was written
                assert (sample["text"], sample["words"]) == ("One.", WORD_LIST[:1])
                continue
            start = sample["start_frame"] / 75
            middles = {word["text"]: (word["start_seconds"] + word["end_seconds"]) / 2 for word in WORD_LIST}
            expected = [text for text, middle in middles.items() if start <= middle < start + 1]
            assert sample["text"] == " ".join(expected)
            assert [word["text"] for word in sample["words"]] == expected
            for word in sample["words"]:
                assert 0 <= word["start_seconds"] <= word["end_seconds"] <= 1.0 + 1e-9
            heard.add(sample["text"])
    assert len(heard) > 2


def test_packed_fragments_share_the_words_of_a_recording(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [[150, 30]], user_columns=BOTH, values=TOLD)
    dataset = TokenDataset(str(tmp_path / "out"), pack_tokens=40, columns=["words"])
    parts = [part for sample in dataset for part in sample["documents"] if part["id"] == "0-0"]
    parts.sort(key=lambda part: part["start_frame"])
    assert [word["text"] for part in parts for word in part["words"]] == ["one", "two", "three", "four"]


@pytest.mark.parametrize("arguments", [{"crop_frames": 20}, {"pack_tokens": 20}])
def test_a_text_without_words_is_refused_for_parts(tmp_path: Path, arguments: dict[str, Any]) -> None:
    write_output(
        tmp_path / "out", [[150]], user_columns=pa.schema([("text", pa.string())]), values={"0-0": {"text": TEXT}}
    )
    with pytest.raises(ConfigError, match=r"column 'text' cannot follow a crop: .* column `words`"):
        TokenDataset(str(tmp_path / "out"), columns=["text"], **arguments)
    (whole,) = TokenDataset(str(tmp_path / "out"), columns=["text"])
    assert whole["text"] == TEXT


def test_a_row_whose_words_are_missing_is_named(tmp_path: Path) -> None:
    write_output(tmp_path / "out", [[150]], user_columns=BOTH, values={"0-0": {"text": TEXT}})
    with pytest.raises(ConfigError, match="'0-0' is a part of a recording"):
        list(TokenDataset(str(tmp_path / "out"), crop_frames=20, columns=["text"]))


def test_a_slice_has_the_words_of_its_place_in_the_recording(tmp_path: Path) -> None:
    values = {row: {"text": TEXT, "words": WORD_LIST} for row in ("0-0", "0-1")}
    places = {"0-0": {"start_sample": 0, "slice_count": 2}, "0-1": {"start_sample": 24000, "slice_count": 2}}
    write_output(tmp_path / "out", [[75, 75]], user_columns=BOTH, values=values, places=places)
    samples = list(TokenDataset(str(tmp_path / "out"), columns=["text", "start_sample"]))
    assert {sample["start_sample"]: sample["text"] for sample in samples} == {0: "one two", 24000: "three four"}


@given(st.lists(st.tuples(st.floats(0, 20), st.floats(0, 3)), max_size=8), st.floats(0.1, 7))
def test_of_stretches_that_follow_one_another_each_word_has_one(
    times: list[tuple[float, float]], length: float
) -> None:
    words: list[dict[str, Any]] = [
        {"text": str(i), "start_seconds": at, "end_seconds": at + long} for i, (at, long) in enumerate(times)
    ]
    found = []
    for number in range(int(25 / length) + 1):
        cut = crop_words(words, start_seconds=number * length, end_seconds=(number + 1) * length)
        found += [word["text"] for word in cut]
        assert all(0 <= word["start_seconds"] <= word["end_seconds"] <= length + 1e-9 for word in cut)
    assert sorted(found) == sorted(word["text"] for word in words)


def test_a_text_stream_begins_each_word_at_its_frame() -> None:
    words = [
        {"text": "the", "start_seconds": 0.16, "end_seconds": 0.2},
        {"text": "cat", "start_seconds": 0.4, "end_seconds": 0.6},
    ]
    stream = text_stream(
        words, num_frames=8, frame_rate=12.5, tokenize=lambda text: [ord(c) for c in text][:2], pad_id=3,
        end_of_padding_id=0,
    )  # fmt: skip
    t, h, c, a = (ord(letter) for letter in "thca")
    assert stream.tolist() == [3, 0, t, h, 0, c, a, 3]


def test_a_text_stream_holds_words_that_come_too_fast_and_ends_with_the_frames() -> None:
    words = [
        {"text": "ab", "start_seconds": 0.0, "end_seconds": 0.1},
        {"text": "cd", "start_seconds": 0.1, "end_seconds": 0.2},
        {"text": "ef", "start_seconds": 0.3, "end_seconds": 0.5},
    ]
    stream = text_stream(
        words, num_frames=5, frame_rate=10, tokenize=lambda text: [ord(c) for c in text], pad_id=3, end_of_padding_id=0
    )
    assert stream.tolist() == [*map(ord, "abcde")]
