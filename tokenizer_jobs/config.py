"""The job file, one frozen pydantic tree.

`recipe` decides an item's codes, `selection` which items and how they are grouped, `runtime` only speed.
"""

import importlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.yaml_files import Frozen, OutputFile

__all__ = [
    "AudioRecipe",
    "CodecRecipe",
    "DemoSource",
    "FilesSource",
    "Filters",
    "JobConfig",
    "PluginSource",
    "Recipe",
    "Runtime",
    "Selection",
    "Shards",
    "SourceConfig",
]

Auto = Literal["auto"]


class CodecRecipe(Frozen):
    """Which codec, and how it is used."""

    model: str = "facebook/encodec_24khz"
    """Hub id, local folder, a `.th` file, or `demo` (small, inside the package)."""
    revision: str | None = None
    """Commit or tag of a hub id; null takes the hub's default."""
    bandwidth_kbps: float = Field(default=6.0, gt=0)
    """One of the model's bandwidths in kbit/s; it decides the number of codebooks."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Arithmetic of the convolutions; only fp32 gives the reference's codes."""


class AudioRecipe(Frozen):
    """How a file becomes a waveform at the codec's rate."""

    resampler: Literal["soxr_hq", "reference"] = "soxr_hq"
    """soxr's HQ, or the sinc-Hann kernel of EnCodec's own `convert_audio`."""
    channels: Literal["auto", "mono", "stereo", "first", "left", "right"] = "auto"
    """auto: mean to a mono codec, mono duplicated to a stereo codec, more than 2 channels are a reject."""
    long_audio: Literal["exact"] = "exact"
    """exact: codes equal those of the whole file, however long."""
    slice_seconds: None = None
    """null: one row per item."""
    on_truncated: Literal["reject", "keep"] = "reject"
    """What to do with audio that is shorter than its header says; kept rows are flagged `truncated`."""


class Recipe(Frozen):
    """Everything that decides an item's codes; hashed into every file."""

    codec: CodecRecipe = CodecRecipe()
    audio: AudioRecipe = AudioRecipe()


class FilesSource(Frozen):
    """Folders, globs and single files, local or behind any fsspec URL."""

    kind: Literal["files"] = "files"
    paths: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Folders (read recursively), globs, or files."""
    pattern: str | None = None
    """Glob on the path below a folder, such as `**/*.flac`; null takes every file with an audio extension."""

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class DemoSource(Frozen):
    """A few dozen short clips made by code."""

    kind: Literal["demo"] = "demo"


class PluginSource(BaseModel):
    """A source of one's own: `kind` is `package.module:Class`, every other key goes to its constructor."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = Field(pattern=r"^[\w.]+:\w+$")

    @property
    def options(self) -> Mapping[str, Any]:
        """The keyword arguments of the source's constructor."""
        return dict(self.model_extra or {})

    def load(self) -> Any:
        """Import and build the source.

        Raises:
            ConfigError: the module or the class cannot be found.
        """
        module_name, _, class_name = self.kind.partition(":")
        try:
            factory = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"selection.source.kind = {self.kind!r} cannot be imported ({error}); "
                "expected package.module:Class importable where the job runs"
            ) from error
        try:
            return factory(**self.options)
        except TypeError as error:
            raise ConfigError(
                f"selection.source: {self.kind} does not take the keys {', '.join(self.options) or 'given'}: {error}"
            ) from error


def _source_tag(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return "plugin" if isinstance(kind, str) and ":" in kind else kind


SourceConfig = Annotated[
    Annotated[FilesSource, Tag("files")] | Annotated[DemoSource, Tag("demo")] | Annotated[PluginSource, Tag("plugin")],
    Discriminator(
        _source_tag,
        custom_error_type="source_kind",
        custom_error_message="selection.source.kind must be one of files, demo, or package.module:Class",
    ),
]


class Filters(Frozen):
    """Items outside these bounds are rejects of stage `filter`."""

    min_seconds: float | None = Field(default=None, gt=0)
    """Shortest duration that is tokenized; null: any."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Longest duration that is tokenized; null: any."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_seconds is not None and self.max_seconds is not None and self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds = {self.min_seconds} is above max_seconds = {self.max_seconds}")
        return self


class Shards(Frozen):
    """How items are grouped and stored."""

    format: Literal["parquet", "arrow"] = "parquet"
    """parquet, or arrow (IPC files)."""
    unit_minutes: Auto | Annotated[float, Field(gt=0)] = "auto"
    """Minutes of audio in one work unit; auto: total / 1024, kept between 2 minutes and 24 hours."""


class Selection(Frozen):
    """Which items, and how they are grouped."""

    source: SourceConfig
    filters: Filters = Filters()
    max_reject_fraction: float | None = Field(default=None, ge=0, le=1)
    """The job fails when more than this share of its items are rejects (filtered ones not counted); null: never."""
    shards: Shards = Shards()


class Runtime(Frozen):
    """Changes only speed."""

    executor: Literal["auto", "inline", "ray"] = "auto"
    """inline: this process; ray: pinned actors; auto: ray where it pays."""
    ray_address: str = "auto"
    """auto: RAY_ADDRESS, or the cluster of the Ray job we are in, else a private local Ray."""
    encoders: Auto | Annotated[int, Field(gt=0)] = "auto"
    """Number of encoder actors; more than GPUs share them evenly. auto: one per GPU, else one per CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where encoders run."""
    batch_seconds: float = Field(default=120.0, gt=0)
    """Audio encoded in one call, at most; fewer than 16 long items may be 256 MiB, and one item is never split."""
    decode_tasks: Auto | Annotated[int, Field(gt=0)] = "auto"
    """Decode tasks per work unit in flight, each with a fixed share of the unit."""
    decode_cpus: float = Field(default=0.25, ge=0.25)
    """CPUs that one decode task reserves."""
    max_infrastructure_failures: int = Field(default=20, ge=0)
    """Lost workers and nodes that one work unit may meet before the job gives it up."""
    placement_timeout_seconds: float = Field(default=50.0, gt=0)
    """How long to wait for the first encoder before saying what is missing."""
    grace_seconds: float = Field(default=30.0, ge=0)
    """After SIGTERM or SIGINT: time for units in flight to finish before they are abandoned."""


class JobConfig(OutputFile):
    """One job."""

    output: str = Field(min_length=1)
    """Local path or fsspec URL; it is the dataset's identity: run again to resume, or to add what is new."""
    recipe: Recipe = Recipe()
    selection: Selection
    runtime: Runtime = Runtime()
