"""The config against transformers', key by key."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from encodec_core import EncodecConfig

DERIVED = ("chunk_length", "chunk_stride", "hop_length", "frame_rate", "codebook_nbits", "num_quantizers")
PRESETS = (EncodecConfig.encodec_24khz, EncodecConfig.encodec_48khz, EncodecConfig.musicgen_32khz)


def test_keys_and_defaults_are_those_of_transformers() -> None:
    ours, theirs = EncodecConfig().to_dict(), transformers.EncodecConfig().to_dict()
    assert {key: theirs[key] for key in ours} == ours
    diff = transformers.EncodecConfig().to_diff_dict()
    assert diff.keys() - {"transformers_version"} <= ours.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_derived_properties_are_those_of_transformers(preset: Any) -> None:
    ours = preset()
    theirs = transformers.EncodecConfig(**ours.to_dict())
    for name in DERIVED:
        assert getattr(ours, name) == getattr(theirs, name), name
    odd: dict[str, Any] = {"sampling_rate": 22_050, "upsampling_ratios": [7, 3], "chunk_length_s": 0.7, "overlap": 0.33}
    ours, theirs = EncodecConfig(**odd), transformers.EncodecConfig(**odd)
    for name in DERIVED:
        assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize(
    ("preset", "frame_rate", "codebooks"),
    [
        (EncodecConfig.encodec_24khz, 75, {1.5: 2, 3: 4, 6: 8, 12: 16, 24: 32}),
        (EncodecConfig.encodec_48khz, 150, {3: 2, 6: 4, 12: 8, 24: 16}),
        (EncodecConfig.musicgen_32khz, 50, {2.2: 4}),
    ],
)
def test_published_frame_rates_and_codebooks(preset: Any, frame_rate: int, codebooks: dict[float, int]) -> None:
    config = preset()
    assert config.frame_rate == frame_rate
    assert config.num_quantizers == max(codebooks.values())
    assert {bandwidth: config.n_q_for(bandwidth) for bandwidth in config.target_bandwidths} == codebooks


@pytest.mark.parametrize("preset", PRESETS)
def test_either_reads_the_config_that_the_other_wrote(preset: Any, tmp_path: Path) -> None:
    config = preset()
    config.save_pretrained(tmp_path / "ours")
    theirs = transformers.EncodecConfig.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = EncodecConfig.from_pretrained(tmp_path / "theirs")
    written = config.to_dict()
    assert {key: again.to_dict()[key] for key in written} == written
    assert EncodecConfig(**config.to_dict()) == config


def test_a_json_file_is_read_by_either(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    EncodecConfig.encodec_48khz(note="kept").to_json_file(path)
    assert EncodecConfig.from_json_file(path) == EncodecConfig.encodec_48khz(note="kept")
    transformers.EncodecConfig.from_json_file(path).to_json_file(path)
    assert EncodecConfig.from_json_file(path).overlap == 0.01


def test_keys_that_no_module_reads_survive(tmp_path: Path) -> None:
    config = EncodecConfig(architectures=["EncodecModel"], note="ours")
    config.save_pretrained(tmp_path)
    assert EncodecConfig.from_pretrained(tmp_path).note == "ours"
    assert EncodecConfig(**transformers.EncodecConfig().to_dict()).architectures is None


@pytest.mark.parametrize("keys", [{"norm_type": "layer_norm"}, {"pad_mode": "zero"}], ids=str)
def test_unknown_kinds_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="choose one of"):
        EncodecConfig(**keys)


def test_the_config_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "dac"}), encoding="utf-8")
    with pytest.raises(ValueError, match="'dac' is not an EnCodec"):
        EncodecConfig.from_pretrained(tmp_path)


def test_a_key_that_no_module_reads_can_be_changed() -> None:
    config: Any = EncodecConfig(note="old")
    config.note = "new"
    assert config.to_dict()["note"] == config.note == "new"
