"""A codec of one's own: named by its class, checked when it is loaded, refused where only EnCodec will do.

That a whole job runs with one, `docs/extending.md` shows, whose blocks `tests/test_docs.py` runs.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenizer_jobs.auditing.codecs import load_highest
from tokenizer_jobs.config import CodecRecipe, JobConfig
from tokenizer_jobs.encoding import Waveform, describe_codec, load_codec, make_codec
from tokenizer_jobs.encoding.own import load_own_codec
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import UNKNOWN_WEIGHTS, CodecFacts
from tokenizer_jobs.records import EncodedItem
from tokenizer_jobs.source_config import PluginSource
from tokenizer_jobs.submission import packed

MODEL = f"{__name__}:Signs"
FACTS = CodecFacts(
    name=MODEL,
    revision=None,
    weights_sha256="ab" * 32,
    file_sha256={},
    config={"codec": "signs"},
    sample_rate=8_000,
    channels=1,
    hop_length=1,
    frame_rate=8_000.0,
    num_codebooks=1,
    bandwidth_kbps=8.0,
    codebook_size=2,
    precision="fp32",
    windowed=False,
    grain_samples=1,
    streamed=False,
)


class Signs:
    """One bit a sample."""

    facts = FACTS

    def __init__(self, recipe: CodecRecipe, *, device: str) -> None:
        self.device = device

    def encode(self, waveforms: Sequence[Waveform]) -> list[EncodedItem]:
        return [EncodedItem(codes=(waveform > 0).astype(np.uint16)) for waveform in waveforms]

    def decode(self, encoded: Sequence[EncodedItem], *, num_samples: Sequence[int]) -> list[Waveform]:
        return [item.codes[:, :n].astype(np.float32) for item, n in zip(encoded, num_samples, strict=True)]

    def describe(self) -> CodecFacts:
        return self.facts


def recipe_of(model: str = MODEL) -> CodecRecipe:
    return CodecRecipe(model=model, bandwidth_kbps=8.0)


def test_it_is_built_on_the_device_that_was_chosen() -> None:
    codec = make_codec(recipe_of(), device="cpu")
    assert isinstance(codec, Signs)
    assert codec.device == "cpu"
    assert describe_codec(recipe_of()) == FACTS


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "signs"},
        {"bandwidth_kbps": 6.0},
        {"precision": "bf16"},
        {"weights_sha256": "none"},
        {"weights_sha256": UNKNOWN_WEIGHTS},
        {"weights_sha256": None},
        {"codebook_size": 0},
        {"codebook_size": "2"},
        {"codebook_size": 65_537},
        {"streamed": True},
    ],
    ids=str,
)
def test_facts_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]) -> None:
    monkeypatch.setattr(Signs, "facts", replace(FACTS, **wrong))
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = .*, expected"):
        make_codec(recipe_of(), device="cpu")


@pytest.mark.parametrize("name", ["no_such_module:Codec", f"{__name__}:Missing", "not_python:Codec", ".relative:Codec"])
def test_what_cannot_be_imported_says_why(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a codec and of a source."""
    (tmp_path / "not_python.py").write_text("def")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^recipe.codec.model = .* cannot be imported .*importable where the job runs"
    ):
        load_own_codec(recipe_of(name), device="cpu")
    with pytest.raises(ConfigError, match=r"^selection.source.kind = .* cannot be imported .*importable where the job"):
        PluginSource(kind=name).load()


def test_a_class_with_another_constructor_says_which_is_asked_for() -> None:
    with pytest.raises(ConfigError, match=r"built as Class\(recipe, device="):
        make_codec(recipe_of("pathlib:Path"), device="cpu")


class Mute:
    """A codec that does not say what it is."""

    def __init__(self, recipe: CodecRecipe, *, device: str) -> None: ...

    encode, decode = Signs.encode, Signs.decode


def test_a_codec_that_does_not_say_what_it_is_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"Mute' has no `describe`; expected"):
        make_codec(recipe_of(f"{__name__}:Mute"), device="cpu")
    monkeypatch.setattr(Signs, "facts", {"name": MODEL})
    with pytest.raises(ConfigError, match=r"describe\(\) gave a dict, expected CodecFacts"):
        make_codec(recipe_of(), device="cpu")


@pytest.mark.parametrize("model", ["demo", "facebook/encodec_24khz", "s3://bucket/codec", "/models/a:b", "codec.th"])
def test_other_names_are_of_encodec(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(name: str, **_: Any) -> None:
        asked.append(name)
        raise ValueError("not here")

    monkeypatch.setattr("encodec_core.model.EncodecModel.from_pretrained", refuse)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        make_codec(CodecRecipe(model=model, bandwidth_kbps=7.0), device="cpu")
    assert asked == [model]


def test_what_compares_with_the_plain_model_refuses_it() -> None:
    with pytest.raises(ConfigError, match="works with EnCodec alone"):
        load_codec(recipe_of(), device="cpu")
    with pytest.raises(ConfigError, match="works with EnCodec alone"):
        load_highest(MODEL)


def test_its_module_is_sent_with_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "signs_codec.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    config = JobConfig.parse(
        {
            "output": "s3://bucket/signs",
            "recipe": {"codec": {"model": "signs_codec:Signs"}},
            "selection": {"source": {"kind": "demo"}},
        },
        origin="here",
    )
    with packed(config) as submission:
        assert (submission.working_dir / "signs_codec.py").is_file()
    assert "signs_codec" not in sys.modules
