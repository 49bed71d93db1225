"""The two sides of an audit: any dump as files of arrays, and audio as a source, both from a few words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizer_jobs.catalog import read_snapshot
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import RECIPE_PATH, read_recipe
from tokenizer_jobs.shards import REJECTS_FOLDER, read_batches
from tokenizer_jobs.source_config import (
    DemoSource,
    FilesSource,
    HubSource,
    ManifestSource,
    ParquetSource,
    SourceConfig,
    TarSource,
)
from tokenizer_jobs.storage import Storage, local_path

__all__ = ["DumpPlace", "audio_source", "dump_place"]

_TAR = re.compile(r"\.tar(\.(gz|bz2|xz))?$|\.tgz$")
_MANIFEST = re.compile(r"\.(jsonl|csv|tsv)(\.gz)?$")
_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpPlace:
    """Where a dump is."""

    paths: tuple[str, ...]
    codec: str | None = None
    """That it says it was made by."""
    rejected: frozenset[str] = frozenset()
    """Ids of items that it says it has no codes of."""


def audio_source(audio: str | Sequence[str] | SourceConfig) -> SourceConfig:
    """What `--audio` means: folders and files, or what their endings tell.

    Args:
        audio: A source's configuration as it is; or paths, URLs and globs of one kind; or `demo`; or a job file (YAML),
            whose source is taken.

    Raises:
        ConfigError: the job file is wrong.
    """
    if not isinstance(audio, str | Sequence):
        return audio
    paths = (audio,) if isinstance(audio, str) else tuple(audio)
    if paths == ("demo",):
        return DemoSource()
    name = paths[0].partition("?")[0].lower() if paths else ""
    if len(paths) == 1 and name.endswith((".yaml", ".yml")):
        return JobConfig.load(paths[0]).selection.source
    if _TAR.search(name):
        return TarSource(paths=paths)
    if name.endswith(".parquet"):
        return ParquetSource(paths=paths)
    if _MANIFEST.search(name):
        return ManifestSource(paths=paths)
    folder = local_path(paths[0]) if len(paths) == 1 else None
    if folder is not None and any((folder.expanduser() / saved).exists() for saved in _SAVED):
        return HubSource(dataset=paths[0])
    return FilesSource(paths=paths)


def dump_place(dump: str | Sequence[str]) -> DumpPlace:
    """Where a dump is; of an output of ours the newest snapshot, with the codec and the rejects that it knows.

    Raises:
        ConfigError: an output of ours has rows that are no whole items.
    """
    paths = (dump,) if isinstance(dump, str) else tuple(dump)
    folder = local_path(paths[0]) if len(paths) == 1 else None
    if folder is None or not (Path(folder).expanduser() / RECIPE_PATH).exists():
        return DumpPlace(paths=paths)
    storage = Storage.at(paths[0])
    recipe = read_recipe(storage)
    if recipe.audio.slice_seconds is not None or recipe.audio.channels == "each":
        raise ConfigError(
            f"{paths[0]} is an output with several rows an item (slices or channels), which an audit does not match "
            "with audio; `verify --reencode` checks it"
        )
    root = str(Path(folder).expanduser().absolute())
    rejected = {
        name
        for file in storage.list(REJECTS_FOLDER)
        for batch in read_batches(storage, file.path, columns=["id"])
        for name in batch.column("id").to_pylist()
    }
    return DumpPlace(
        paths=tuple(f"{root}/{shard.path}" for shard in read_snapshot(storage).shards),
        codec=None if recipe.has_unknown_codec else recipe.codec.model,
        rejected=frozenset(rejected),
    )
