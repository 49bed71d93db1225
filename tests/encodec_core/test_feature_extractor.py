"""The feature extractor against transformers', over its arguments."""

import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from encodec_core import EncodecFeatureExtractor

Arguments = dict[str, Any]

MONO: Arguments = {"feature_size": 1, "sampling_rate": 24_000}
WINDOWS: Arguments = {"feature_size": 2, "sampling_rate": 48_000, "chunk_length_s": 1.0, "overlap": 0.01}
LEFT: Arguments = MONO | {"padding_side": "left", "padding_value": 0.5}


def recordings(extractor: Arguments, lengths: tuple[int, ...]) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    if extractor["feature_size"] == 1:
        return [generator.standard_normal(length) for length in lengths]
    return [generator.standard_normal((2, length)) for length in lengths]


def outcome(extractor: Any, audio: Any, arguments: Arguments) -> Any:
    try:
        return extractor(audio, sampling_rate=extractor.sampling_rate, **arguments)
    except ValueError as error:
        return type(error)


def assert_same(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, type):
        assert ours is theirs
        return
    assert list(ours) == list(theirs)
    for name in theirs:
        mine, other = ours[name], theirs[name]
        assert type(mine) is type(other)
        assert getattr(mine, "dtype", None) == getattr(other, "dtype", None)
        assert len(mine) == len(other)
        for one, another in zip(mine, other, strict=True):
            assert one.dtype == another.dtype
            np.testing.assert_array_equal(np.asarray(one), np.asarray(another))


@pytest.mark.parametrize("keys", [MONO, WINDOWS, LEFT], ids=["mono", "windows", "left"])
@pytest.mark.parametrize("lengths", [(100,), (1, 500, 320), (48_000, 47_520, 100_000)], ids=str)
def test_every_combination_of_arguments(keys: Arguments, lengths: tuple[int, ...]) -> None:
    ours, theirs = EncodecFeatureExtractor(**keys), transformers.EncodecFeatureExtractor(**keys)
    audio = recordings(keys, lengths)
    paddings = (None, True, False, "longest", "max_length", "do_not_pad")
    for padding, truncation, max_length, tensors in itertools.product(
        paddings, (False, True), (None, 200, 60_000), (None, "np", "pt")
    ):
        arguments = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": tensors,
        }
        assert_same(outcome(ours, audio, arguments), outcome(theirs, audio, arguments))


@pytest.mark.parametrize(
    "audio",
    [
        np.arange(5, dtype=np.float64),
        np.arange(5, dtype=np.float32),
        [0.0, 0.5, 1.0],
        [[0.0, 0.5], [1.0, 0.25]],
        (np.zeros(3), np.ones(3)),
    ],
    ids=["float64", "float32", "numbers", "lists of numbers", "tuple of arrays"],
)
def test_every_kind_of_input(audio: Any) -> None:
    ours, theirs = EncodecFeatureExtractor(), transformers.EncodecFeatureExtractor()
    arguments = {"return_tensors": "pt"}
    assert_same(outcome(ours, audio, arguments), outcome(theirs, audio, arguments))


@pytest.mark.parametrize(
    ("keys", "shape"), [(MONO, (1, 50)), (MONO, (2, 2, 50)), (WINDOWS, (3, 50)), (WINDOWS, (1, 50))], ids=str
)
def test_another_number_of_channels_is_refused(keys: Arguments, shape: tuple[int, ...]) -> None:
    for extractor in (EncodecFeatureExtractor(**keys), transformers.EncodecFeatureExtractor(**keys)):
        with pytest.raises(ValueError, match=r"shape|channels"):
            extractor(np.zeros(shape), sampling_rate=keys["sampling_rate"])


def test_an_unknown_padding_is_refused() -> None:
    with pytest.raises(ValueError, match="'sideways' is unknown"):
        EncodecFeatureExtractor(**WINDOWS)(np.zeros((2, 10)), padding="sideways", sampling_rate=48_000)


def test_another_rate_is_refused() -> None:
    with pytest.raises(ValueError, match=r"16000 Hz.*takes 24000 Hz.*resample"):
        EncodecFeatureExtractor()(np.zeros(10), sampling_rate=16_000)


def test_a_missing_rate_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="encodec_core.audio"):
        EncodecFeatureExtractor()(np.zeros(10))
    assert "sampling_rate is not given" in caplog.text


def test_integers_become_float32() -> None:
    features = EncodecFeatureExtractor()(np.arange(5, dtype=np.int16), sampling_rate=24_000, return_tensors="pt")
    assert features.input_values.dtype == torch.float32


def test_features_are_read_as_attributes_and_moved() -> None:
    features = EncodecFeatureExtractor()(np.zeros(5), sampling_rate=24_000, return_tensors="pt")
    halves = features.to("cpu", torch.float16)
    assert halves.input_values.dtype == torch.float16
    assert halves.padding_mask.dtype == torch.int32
    with pytest.raises(AttributeError, match="input_values"):
        _ = features.codes


@pytest.mark.parametrize("keys", [MONO, WINDOWS, LEFT], ids=["mono", "windows", "left"])
def test_either_reads_what_the_other_wrote(keys: Arguments, tmp_path: Path) -> None:
    EncodecFeatureExtractor(**keys).save_pretrained(tmp_path / "ours")
    theirs = transformers.EncodecFeatureExtractor.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = EncodecFeatureExtractor.from_pretrained(tmp_path / "theirs")
    assert again.to_dict() == EncodecFeatureExtractor(**keys).to_dict() == theirs.to_dict()


@pytest.mark.parametrize("keys", [MONO, WINDOWS, LEFT], ids=["mono", "windows", "left"])
def test_padding_alone_is_that_of_transformers(keys: Arguments) -> None:
    ours, theirs = EncodecFeatureExtractor(**keys), transformers.EncodecFeatureExtractor(**keys)
    audio = [recording.T for recording in recordings(keys, (7, 300, 260))]
    for padding, truncation, max_length, multiple, mask, tensors in itertools.product(
        (True, False, "max_length"), (False, True), (None, 250, 400), (None, 64), (None, False), (None, "np", "pt")
    ):
        arguments = {
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "pad_to_multiple_of": multiple,
            "return_attention_mask": mask,
            "return_tensors": tensors,
        }

        def padded(extractor: Any, arguments: Arguments = arguments) -> Any:
            try:
                return extractor.pad({"input_values": list(audio)}, **arguments)
            except ValueError as error:
                return type(error)

        assert_same(padded(ours), padded(theirs))


@pytest.mark.parametrize("audio", [[torch.ones(3), torch.ones(5)], [[0.5, 1.0], [0.25]]], ids=["tensors", "lists"])
def test_items_of_a_data_loader_are_padded_as_in_transformers(audio: Any) -> None:
    items = [{"input_values": values, "attention_mask": [1] * len(values)} for values in audio]
    assert_same(EncodecFeatureExtractor().pad(items), transformers.EncodecFeatureExtractor().pad(items))


def test_features_without_audio_are_not_padded() -> None:
    with pytest.raises(ValueError, match=r"no 'input_values' to pad, only values"):
        EncodecFeatureExtractor().pad({"values": [[1.0]]})


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "no items to pad"),
        ([{"input_values": [1.0]}, {}], "item 1 has no input_values, only nothing"),
        ([{"input_values": [1.0]}, {"values": [1.0]}], "item 1 has no input_values, only values"),
        ([{"values": [1.0]}, {"input_values": [1.0]}], "item 1 has no values, only input_values"),
    ],
    ids=["no items", "empty", "other", "first"],
)
def test_items_without_audio_are_not_padded(items: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EncodecFeatureExtractor().pad(items)


def test_a_padding_of_transformers_enum_is_taken() -> None:
    longest = transformers.utils.PaddingStrategy.LONGEST
    features = EncodecFeatureExtractor()([np.zeros(3), np.zeros(5)], padding=longest, sampling_rate=24_000)
    assert features.padding_mask.sum(1).tolist() == [3, 5]


def test_a_json_file_holds_all_keys(tmp_path: Path) -> None:
    extractor = EncodecFeatureExtractor(**WINDOWS, note="kept")
    extractor.to_json_file(tmp_path / "keys.json")
    assert EncodecFeatureExtractor.from_json_file(tmp_path / "keys.json").to_dict() == extractor.to_dict()
    assert extractor.save_pretrained(tmp_path) == [str(tmp_path / "preprocessor_config.json")]


def test_a_key_that_is_not_read_can_be_changed() -> None:
    extractor: Any = EncodecFeatureExtractor(note="old")
    extractor.note = "new"
    assert extractor.to_dict()["note"] == "new"


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [
        (("cpu",), {}),
        ((torch.float16,), {}),
        (("cpu", torch.float16), {}),
        ((), {"device": "cpu", "dtype": torch.float64, "non_blocking": True}),
        ((), {"dtype": torch.bfloat16}),
        ((torch.device("meta"),), {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("tensors", ["pt", None])
def test_features_move_in_place_as_those_of_transformers(arguments: Any, keywords: Any, tensors: str | None) -> None:
    def moved(extractor: Any) -> dict[str, Any]:
        features = extractor(np.zeros(5), sampling_rate=24_000, return_tensors=tensors)
        assert features.to(*arguments, **keywords) is features
        return {
            name: (type(value), str(getattr(value, "dtype", "")), str(getattr(value, "device", "")))
            for name, value in features.items()
        }

    assert moved(EncodecFeatureExtractor()) == moved(transformers.EncodecFeatureExtractor())
