"""YAML files: merge keys work as everywhere, and a key that is given twice is refused wherever it stands."""

from pathlib import Path

import pytest

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.yaml_files import load_yaml

BASE = "base: &base {model: demo, bandwidth_kbps: 3}\n"


def _load(path: Path, text: str) -> object:
    path.write_text(text)
    return load_yaml(path)["codec"]


@pytest.mark.parametrize(
    ("codec", "expected"),
    [
        ("{<<: *base}", {"model": "demo", "bandwidth_kbps": 3}),
        ("{<<: *base, bandwidth_kbps: 6}", {"model": "demo", "bandwidth_kbps": 6}),
        ("{bandwidth_kbps: 6, <<: *base}", {"model": "demo", "bandwidth_kbps": 6}),
        ("{<<: [{model: other}, *base]}", {"model": "other", "bandwidth_kbps": 3}),
    ],
)
def test_what_is_merged_in_gives_way_to_what_stands_beside_it(codec: str, expected: object, tmp_path: Path) -> None:
    assert _load(tmp_path / "job.yaml", f"{BASE}codec: {codec}\n") == expected


@pytest.mark.parametrize(
    ("codec", "key"),
    [
        ("{<<: *base, model: a, model: b}", "model"),
        ("{<<: {model: a, model: b}}", "model"),
        ("{<<: *base, <<: {precision: bf16}}", "<<"),
        ("{model: a}\ncodec: {}", "codec"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(codec: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"key '{key}' is given twice"):
        _load(tmp_path / "job.yaml", f"{BASE}codec: {codec}\n")
