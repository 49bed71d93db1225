"""Laws of the recipe: its id, its file, and the refusal of another one."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizer_jobs.factories import FACTS, NO_COLUMNS, RECIPE
from tokenizer_jobs.config import AudioRecipe, CodecRecipe, Recipe
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.recipe import ResolvedRecipe, file_metadata, read_recipe, store_recipe
from tokenizer_jobs.schema import row_schema
from tokenizer_jobs.storage import Storage


def resolved(*, model: str = "demo", revision: str | None = None, kbps: float = 6.0, **facts: Any) -> ResolvedRecipe:
    codec = CodecRecipe(model=model, revision=revision, bandwidth_kbps=kbps)
    return ResolvedRecipe.resolve(Recipe(codec=codec), replace(FACTS, **facts))


def test_names_of_the_weights_do_not_enter_the_id() -> None:
    assert resolved(model="/some/folder", revision="main").recipe_id == RECIPE.recipe_id
    assert resolved(config={**FACTS.config, "transformers_version": "6"}).recipe_id == RECIPE.recipe_id


@pytest.mark.parametrize(
    "other",
    [
        resolved(kbps=3.0),
        resolved(weights_sha256="ef" * 32),
        resolved(config={"sampling_rate": 48000}),
        ResolvedRecipe.resolve(Recipe(audio=AudioRecipe(resampler="reference")), FACTS),
        ResolvedRecipe.resolve(Recipe(audio=AudioRecipe(on_truncated="keep")), FACTS),
    ],
)
def test_what_decides_codes_enters_the_id(other: ResolvedRecipe) -> None:
    assert other.recipe_id != RECIPE.recipe_id
    assert RECIPE.difference(other)


def test_the_id_does_not_change_between_versions() -> None:
    assert RECIPE.recipe_id == "313ea793840a5cf7b7268b8f8e02a617ccbb9e71fe2394c6990b335ba077d564"


def test_differences_are_lines_for_a_person() -> None:
    assert RECIPE.difference(resolved(kbps=3.0, model="else")) == ["codec.bandwidth_kbps: 6.0 stored, 3.0 asked"]
    assert RECIPE.difference(resolved(config={"sampling_rate": 24000})) == [
        "codec_config.upsampling_ratios: [8, 5, 4, 2] stored, nothing asked"
    ]


def test_a_recipe_survives_its_file(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    store_recipe(storage, RECIPE)
    store_recipe(storage, RECIPE)
    assert read_recipe(storage) == RECIPE
    assert json.loads((tmp_path / "recipe.json").read_bytes())["recipe_id"] == RECIPE.recipe_id


def test_another_recipe_is_refused_with_the_difference(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    store_recipe(storage, RECIPE)
    with pytest.raises(ConfigError, match=r"codec\.bandwidth_kbps: 6\.0 stored, 3\.0 asked.*choose another `output`"):
        store_recipe(storage, resolved(kbps=3.0))
    assert read_recipe(storage) == RECIPE


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content.replace(b"6.0", b"3.0"),
        lambda content: content[:100],
        lambda content: b"[]",
        lambda content: content.replace(b'"recipe_id"', b'"id"'),
        lambda content: content.replace(b'"format_version": 1', b'"format_version": 2'),
    ],
)
def test_a_damaged_recipe_is_named(tmp_path: Path, damage: Any) -> None:
    storage = Storage.open(tmp_path)
    storage.replace("recipe.json", damage(RECIPE.to_json()))
    with pytest.raises(IntegrityError, match=r"recipe\.json"):
        read_recipe(storage)


def test_a_folder_without_recipe_is_no_output(tmp_path: Path) -> None:
    for storage in (Storage.at(tmp_path), Storage.at(tmp_path / "none")):
        with pytest.raises(ConfigError, match=r"holds no recipe\.json"):
            read_recipe(storage)


def test_no_credential_reaches_the_recipe_or_the_files() -> None:
    url = "https://me:word@host/model.th?sig=1"
    recipe = resolved(model=url)
    metadata = file_metadata(recipe, replace(FACTS, name=url), {}, schema=row_schema(NO_COLUMNS))
    for content in (recipe.to_json(), *metadata.values()):
        assert b"word" not in content
        assert b"sig=1" not in content


def test_file_metadata_is_complete_and_a_pure_function() -> None:
    versions = {"soxr": "1.1.0", "soundfile": "0.14.0"}
    metadata = file_metadata(RECIPE, FACTS, versions, schema=row_schema(NO_COLUMNS))
    again = file_metadata(RECIPE, FACTS, dict(reversed(versions.items())), schema=row_schema(NO_COLUMNS))
    assert metadata == again
    content = json.loads(metadata[b"tokenizer_jobs"])
    assert content["recipe_id"] == RECIPE.recipe_id
    assert content["versions"] == versions
    expected = {
        *("format_version", "codec", "revision", "weights_sha256", "codec_config", "sample_rate", "hop_length"),
        *("frame_rate", "n_q", "bandwidth_kbps", "codebook_size", "precision", "long_audio", "resampler"),
        *("versions", "package_version", "recipe_id"),
    }
    assert expected <= content.keys()
    assert json.loads(metadata[b"huggingface"])["info"]["features"]["codes"]["_type"] == "List"
