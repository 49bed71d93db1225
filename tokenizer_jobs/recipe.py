"""The resolved recipe of an output: what decides an item's codes, down to the weights; its hash is the recipe id.

`recipe.json` is published once, before the first plan. Every later run compares itself with it.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenizer_jobs.config import AudioRecipe, CodecRecipe, Recipe
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.format_version import FORMAT_VERSION, check_format_version, first_fault
from tokenizer_jobs.hub_features import METADATA_KEY as HUB_KEY
from tokenizer_jobs.hub_features import features_metadata
from tokenizer_jobs.storage import Storage, is_url, public_uri

__all__ = [
    "IMPORTED",
    "METADATA_KEY",
    "RECIPE_PATH",
    "UNKNOWN_WEIGHTS",
    "CodecFacts",
    "ResolvedRecipe",
    "file_metadata",
    "read_recipe",
    "store_recipe",
]

RECIPE_PATH = "recipe.json"
METADATA_KEY = b"tokenizer_jobs"

UNKNOWN_WEIGHTS = "0" * 64
"""Stands for the weights of imported codes whose codec is not at hand."""

IMPORTED = "imported"
"""Key of a recipe's `codec_config`, true where the codes were made elsewhere: nothing proves that the codec named made
them, so the recipe is another one than that of codes made here, and the two are never mixed."""

# Keys of a codec's config that say how it was saved, not what it computes.
_BOOKKEEPING = frozenset({"architectures", "dtype", "torch_dtype", "transformers_version", "return_dict"})

# What names the weights without deciding the codes: the weights' own sha256 stands for them.
_NAMES_ONLY = frozenset({"codec.model", "codec.revision"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFacts:
    """What a loaded codec says of itself."""

    name: str
    """As the recipe names the model."""
    revision: str | None
    weights_sha256: str
    """Hex; over the tensors that inference uses, so that all file formats of one model agree."""
    file_sha256: Mapping[str, str]
    """Hex sha256 of each file that was read, by file name."""
    config: Mapping[str, Any]
    """Its architecture, as JSON types."""
    sample_rate: int
    """In Hz."""
    channels: int
    hop_length: int
    """Samples per frame."""
    frame_rate: float
    """Frames per second."""
    num_codebooks: int
    """In use at the bandwidth."""
    bandwidth_kbps: float
    codebook_size: int
    precision: str
    windowed: bool
    """Whether it encodes windows with a scale each."""
    grain_samples: int
    """Between the places where a recording's codes can be cut: the hop, or the stride of windows."""
    streamed: bool
    """Whether it can encode a recording of any length in bounded memory."""


class ResolvedRecipe(BaseModel):
    """A recipe together with the weights and the architecture that it led to: what `recipe.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    format_version: int = Field(default=FORMAT_VERSION, ge=1, le=FORMAT_VERSION)
    """Of the files of the output."""
    codec: CodecRecipe
    audio: AudioRecipe
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the tensors that inference uses."""
    codec_config: dict[str, Any]
    """The codec's architecture."""

    @classmethod
    def resolve(cls, recipe: Recipe, facts: CodecFacts) -> Self:
        """Bind a recipe to the codec that was loaded for it."""
        config = {
            key: value for key, value in facts.config.items() if key not in _BOOKKEEPING and not key.startswith("_")
        }
        codec = recipe.codec.model_copy(update={"model": _public_name(recipe.codec.model)})
        return cls(codec=codec, audio=recipe.audio, weights_sha256=facts.weights_sha256, codec_config=config)

    @property
    def recipe_id(self) -> str:
        """64 hex digits: sha256 over the canonical JSON, the names of the weights left out."""
        content = self.model_dump(mode="json")
        for name in _NAMES_ONLY:
            section, key = name.split(".")
            del content[section][key]
        return hashlib.sha256(_canonical_json(content)).hexdigest()

    @property
    def is_imported(self) -> bool:
        """Whether the codes were made elsewhere, so that how they were made is hearsay."""
        return bool(self.codec_config.get(IMPORTED, False))

    @property
    def has_unknown_codec(self) -> bool:
        """Whether not even the weights are named, so that nothing can decode the codes."""
        return self.weights_sha256 == UNKNOWN_WEIGHTS

    def difference(self, other: "ResolvedRecipe") -> list[str]:
        """Say in lines for a person where another recipe departs from this stored one; none where ids are equal."""
        stored, asked = dict(_flat(self.model_dump(mode="json"))), dict(_flat(other.model_dump(mode="json")))
        keys = [*stored, *(key for key in asked if key not in stored)]
        return [
            f"{key}: {_shown(stored, key)} stored, {_shown(asked, key)} asked"
            for key in keys
            if key not in _NAMES_ONLY and stored.get(key, _MISSING) != asked.get(key, _MISSING)
        ]

    def to_json(self) -> bytes:
        """The content of `recipe.json`: the fields, and beside them their id."""
        return json.dumps({"recipe_id": self.recipe_id, **self.model_dump(mode="json")}, indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, content: bytes, *, origin: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            content: The bytes.
            origin: Names them in messages.

        Raises:
            NewerFormatError: it has a higher format version.
            IntegrityError: it is no recipe, has fields that are not known, or its id is not that of its fields.
        """
        try:
            fields = json.loads(content)
            check_format_version(fields.get("format_version"), origin=origin)
            recipe_id = fields.pop("recipe_id")
            recipe = cls.model_validate(fields)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise IntegrityError(_refusal(error, origin=origin)) from error
        if recipe_id != recipe.recipe_id:
            raise IntegrityError(
                f"{origin} says recipe id {recipe_id}, its fields hash to {recipe.recipe_id}: "
                "it was edited; restore the file, or write to another output"
            )
        return recipe


def store_recipe(storage: Storage, recipe: ResolvedRecipe) -> None:
    """Give an output its recipe, or check that it has this one.

    Crash points: the file appears whole or not at all; without it the output has no plan and no shard either.

    Raises:
        ConfigError: the output has another recipe; the message lists the differences.
        IntegrityError: the stored recipe is unreadable.
    """
    if not storage.exists(RECIPE_PATH):
        _refuse_foreign_files(storage)
    if storage.put_if_absent(RECIPE_PATH, recipe.to_json()):
        return
    stored = read_recipe(storage)
    if stored.recipe_id != recipe.recipe_id:
        raise ConfigError(
            f"output {storage.name!r} has another recipe ({'; '.join(stored.difference(recipe))}); "
            "an output has one recipe, so choose another `output` or go back to the stored values"
        )


def _refuse_foreign_files(storage: Storage) -> None:
    """Refuse a folder that somebody else's files are in: readers would take them for ours."""
    found = [*storage.list("codes"), *storage.list("rejects")]
    if found:
        raise ConfigError(
            f"output {storage.name!r} holds {found[0].path} and no {RECIPE_PATH}, so it is no output of ours; "
            "choose another `output`"
        )


def read_recipe(storage: Storage) -> ResolvedRecipe:
    """Read the recipe of an output.

    Raises:
        ConfigError: there is none, so this is no output.
        IntegrityError: it is unreadable.
    """
    try:
        content = storage.read_bytes(RECIPE_PATH)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ConfigError(
            f"{storage.name!r} holds no {RECIPE_PATH}, so it is no output; expected a folder that `run` wrote to"
        ) from error
    return ResolvedRecipe.from_json(content, origin=f"{storage.name}/{RECIPE_PATH}")


def file_metadata(
    recipe: ResolvedRecipe, facts: CodecFacts, versions: Mapping[str, str], *, schema: pa.Schema
) -> dict[bytes, bytes]:
    """The metadata of every file of a generation: a pure function of its arguments.

    Args:
        recipe: Of the output.
        facts: Of the codec that encodes.
        versions: Decoder and resampler, by name.
        schema: The rows' schema; `datasets` restores its types from the `huggingface` key.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "recipe_id": recipe.recipe_id,
        "codec": _public_name(facts.name),
        "revision": facts.revision,
        "weights_sha256": facts.weights_sha256,
        "file_sha256": dict(facts.file_sha256),
        "codec_config": dict(facts.config),
        "sample_rate": facts.sample_rate,
        "channels": facts.channels,
        "hop_length": facts.hop_length,
        "frame_rate": facts.frame_rate,
        "n_q": facts.num_codebooks,
        "bandwidth_kbps": facts.bandwidth_kbps,
        "codebook_size": facts.codebook_size,
        "precision": facts.precision,
        "windowed": facts.windowed,
        "long_audio": recipe.audio.long_audio,
        "resampler": recipe.audio.resampler,
        "channel_policy": recipe.audio.channels,
        "on_truncated": recipe.audio.on_truncated,
        "versions": dict(versions),
        "package_version": importlib.metadata.version("tokenizer-jobs"),
    }
    return {METADATA_KEY: _canonical_json(content), HUB_KEY: features_metadata(schema)}


def _refusal(error: Exception, *, origin: str) -> str:
    """What to say of a recipe that cannot be understood."""
    if not isinstance(error, ValidationError):
        return f"{origin} is not a recipe ({error!r}); restore the file, or write to another output"
    details = error.errors()
    unknown = [".".join(map(str, detail["loc"])) for detail in details if detail["type"] == "extra_forbidden"]
    if unknown and len(unknown) == len(details):
        return (
            f"{origin} has {', '.join(unknown)}, which this tokenizer-jobs does not know. The recipe id stands for all "
            "fields, so that none can be passed over: use the tokenizer-jobs that wrote the output, or a newer one"
        )
    return (
        f"{origin} is not a recipe that this tokenizer-jobs understands ({first_fault(error)}); if a newer one wrote "
        "it, use that, else restore the file, or write to another output"
    )


def _public_name(model: str) -> str:
    return public_uri(model) if is_url(model) else model


def _canonical_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_MISSING = object()


def _shown(content: Mapping[str, Any], key: str) -> str:
    return json.dumps(content[key]) if key in content else "nothing"
