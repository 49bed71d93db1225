"""What a user gets wrong in a source is told with what is there instead, and what to do."""

from pathlib import Path

import pytest

from tests.tokenizer_jobs.layouts import add_part, few_clips
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.sources import make_source


@pytest.mark.parametrize(
    ("content", "keys", "told"),
    [
        ("clips/a.wav,hello\nclips/b.wav,you\n", {}, "the first line of CSV and TSV has to name the columns"),
        ("path,text\na.wav,hello\n", {"id_column": "uid"}, "no field 'uid' among path, text"),
        ("path,text\na.wav,hello\n", {"path_column": "pth"}, r"\(path, text\) is pth"),
        ("path,text\na.wav,hello\n", {"columns": ["txet"]}, "'txet' is in no line; choose from path, text"),
    ],
)
def test_columns_of_a_manifest(tmp_path: Path, content: str, keys: dict[str, object], told: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(ConfigError, match=told):
        listed({"kind": "manifest", "paths": [str(tmp_path / "list.csv")], **keys})


@pytest.mark.parametrize(("kind", "told"), [("manifest", r"\.jsonl"), ("tar", r"\.tar\.gz"), ("files", "an audio")])
def test_a_folder_without_what_is_meant(tmp_path: Path, kind: str, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"nothing found at .*{told}.*other entries there: 0"):
        listed({"kind": kind, "paths": [str(tmp_path)]})


def test_a_column_that_no_archive_has(tmp_path: Path) -> None:
    source = add_part("tar", str(tmp_path), few_clips(0, 2), part=1)
    with pytest.raises(ConfigError, match="no file beside the audio has txet; expected keys of"):
        listed({**source, "columns": ["txet"]})


def listed(source: dict[str, object]) -> object:
    content = {"output": "out", "recipe": {"codec": {"model": "demo"}}, "selection": {"source": source}}
    return make_source(JobConfig.parse(content, origin="test").selection.source).list()
