"""`selection.source` of a job file: one frozen record per kind of source."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.own_classes import import_class
from tokenizer_jobs.yaml_files import Frozen

__all__ = [
    "DemoSource",
    "FilesSource",
    "HubSource",
    "ManifestSource",
    "ParquetSource",
    "PluginSource",
    "SourceConfig",
    "TarSource",
]

Name = Annotated[str, Field(min_length=1)]


class _Located(Frozen):
    """A source that is found at paths."""

    paths: tuple[Name, ...] = Field(min_length=1)
    """Local paths or fsspec URLs: folders, globs, or files."""

    @field_validator("paths", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FilesSource(_Located):
    """Folders, globs and single files, local or behind any fsspec URL."""

    kind: Literal["files"] = "files"
    pattern: str | None = None
    """Glob on the path below a folder, such as `**/*.flac`; null takes every file with an audio extension."""


class ManifestSource(_Located):
    """Lists of recordings or of cuts of them: JSON lines, CSV or TSV, also gzipped."""

    kind: Literal["manifest"] = "manifest"
    format: Literal["auto", "plain", "nemo", "audiocraft", "lhotse"] = "auto"
    """Whose fields the lines have; auto tells by the names in a file's first line. plain: those named below, else the
    usual ones."""
    root: str | None = None
    """Folder or URL that relative paths start from; null: the folder of the manifest."""
    path_column: Name | None = None
    """Column of the audio's path or URL; null takes the first of the usual names that is there."""
    id_column: Name | None = None
    """Column of the items' own ids; null: `id` where a file's lines have one, else ids are made from paths and cuts."""
    start_column: Name | None = None
    """Column of where a cut begins, in seconds; null: the usual names."""
    duration_column: Name | None = None
    """Column of how long the item is, in seconds; null: the usual names."""
    columns: tuple[Name, ...] | None = None
    """Columns that are passed through; null: all that are not used otherwise, nor restate what is stored anyway."""


class ParquetSource(_Located):
    """Parquet files with audio inside, or with the paths of audio files."""

    kind: Literal["parquet"] = "parquet"
    audio_column: Name | None = None
    """Column of structs of bytes and path, of bytes, of paths, or of structs of `array` and `sampling_rate`; null finds
    the only one there is."""
    id_column: Name | None = None
    """Column of the items' own ids; null: made from the file's path and the row's number."""
    root: str | None = None
    """Folder or URL that relative paths inside start from; null: the folder of the Parquet file."""
    columns: tuple[Name, ...] | None = None
    """Columns that are passed through; null: all others."""


class HubSource(Frozen):
    """A Hugging Face dataset: of the hub, or saved to disk."""

    kind: Literal["hub"] = "hub"
    dataset: Name
    """Id on the hub, or a local folder: saved by `save_to_disk` (then also a URL), or of Parquet and Arrow files."""
    config: str | None = None
    """Name of the dataset's configuration; null: its default, or the only one."""
    splits: tuple[Name, ...] | None = None
    """Splits that are taken; null: all."""
    revision: str | None = None
    """Commit, tag or branch of a dataset of the hub."""
    audio_column: Name | None = None
    """As for `parquet`."""
    id_column: Name | None = None
    """Column of the items' own ids; null: made from the split and the row's number."""
    columns: tuple[Name, ...] | None = None
    """Columns that are passed through; null: all others, and `split`."""


class TarSource(_Located):
    """WebDataset archives: samples are neighbouring files of one key, told apart by their extensions.

    Paths may hold braces, such as `train-{000..127}.tar`. Archives may be compressed by gzip, bzip2 or xz.
    """

    kind: Literal["tar"] = "tar"
    columns: tuple[Name, ...] | None = None
    """Columns from files beside the audio that are passed through: keys of `KEY.json`, `txt` for `KEY.txt`, `cls` for
    `KEY.cls`. null: all that the samples have."""


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
            ConfigError: the module or the class cannot be found, or takes other keys.
        """
        factory = import_class(self.kind, key="selection.source.kind")
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
    Annotated[FilesSource, Tag("files")]
    | Annotated[ManifestSource, Tag("manifest")]
    | Annotated[ParquetSource, Tag("parquet")]
    | Annotated[HubSource, Tag("hub")]
    | Annotated[TarSource, Tag("tar")]
    | Annotated[DemoSource, Tag("demo")]
    | Annotated[PluginSource, Tag("plugin")],
    Discriminator(
        _source_tag,
        custom_error_type="source_kind",
        custom_error_message="selection.source.kind must be one of files, manifest, parquet, hub, tar, demo, "
        "or package.module:Class",
    ),
]
