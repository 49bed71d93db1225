"""Hugging Face datasets: saved to disk, as a folder of Parquet or Arrow files, or on the hub.

`datasets` says which files belong to which configuration and split, by the card and by its rules for names. The rows
are read from the files themselves: nothing is decoded, copied or cached by it, and it needs no torchcodec.

Ids are `SPLIT/ROW`, the row counted through the files of the split in their order.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import HubSource
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.sources.roots import extension_of, location_of, storable_uri
from tokenizer_jobs.sources.tables.columns import ColumnChoice
from tokenizer_jobs.sources.tables.items import FoundAudio, TableFile
from tokenizer_jobs.sources.tables.listing import list_tables
from tokenizer_jobs.sources.tables.opened import ARROW_EXTENSIONS, PARQUET_EXTENSIONS
from tokenizer_jobs.sources.tables.parquet import folder_of, open_row, resolve
from tokenizer_jobs.sources.tables.reader import RowReaders
from tokenizer_jobs.storage import (
    SourceFile,
    is_url,
    list_source_files,
    local_path,
    open_source,
    public_uri,
    stat_source,
)

__all__ = ["HubRows"]

_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_CONVERTED = "refs/convert/parquet"
"""The branch on which the hub keeps Parquet made of datasets that hold none."""


class HubRows:
    """The source of kind `hub`.

    Args:
        config: `selection.source` of the job.
    """

    def __init__(self, config: HubSource) -> None:
        self.config = config
        self._readers = RowReaders(audio_column=config.audio_column)

    def list(self) -> Listing:
        """List every row of the splits; see `Source.list`."""
        splits = self._chosen(self._splits())
        tables = [
            TableFile(
                location=file.location,
                uri=storable_uri(file),
                etag=file.etag,
                id_prefix=f"{split}/",
                is_arrow=_is_arrow(file.location),
                split=split,
            )
            for split, locations in splits.items()
            for file in _look_at(locations)
        ]
        choice = ColumnChoice(
            audio_column=self.config.audio_column, id_column=self.config.id_column, columns=self.config.columns
        )
        return list_tables(tables, choice=choice, name_audio=_name_audio, skipped=Counter())

    def open(self, item: Item) -> IO[bytes]:
        """Open the audio of a row, or the file that it names; see `Source.open`."""
        file_location = self.file_location(item)
        if file_location is not None:
            return open_source(file_location)
        location = location_of(item.source_uri, ())
        return open_row(
            item,
            location=location,
            base=folder_of(location),
            is_arrow=_is_arrow(location),
            readers=self._readers,
        )

    def file_location(self, item: Item) -> str | None:
        """What opens the file that a row names; see `HasFiles.file_location`."""
        return location_of(item.source_uri, ()) if item.source_row is None else None

    def _splits(self) -> Mapping[str, Iterable[str]]:
        """The locations of the files of each split, in order."""
        dataset, path = self.config.dataset, local_path(self.config.dataset)
        folder = dataset.rstrip("/") if path is None else str(path.expanduser().absolute())
        is_here = path is not None and Path(folder).is_dir()
        if is_here or is_url(dataset):
            self._refuse_keys("revision", why="which only a dataset of the hub has")
            saved = _saved_splits(folder)
            if saved is not None:
                self._refuse_keys("config", why="which a dataset saved to disk does not have")
                return saved
        if is_here:
            return self._declared(folder, revision=None)
        if is_url(dataset):
            raise ConfigError(
                f"selection.source.dataset = {public_uri(dataset)!r} was not saved by save_to_disk (it has neither "
                "state.json nor dataset_dict.json); for Parquet files there use `kind: parquet`"
            )
        if _ID.fullmatch(dataset) is None:
            raise ConfigError(
                f"selection.source.dataset = {dataset!r} does not exist; expected a folder, or the id of a dataset on "
                "the hub such as `openslr/librispeech_asr`"
            )
        return self._of_hub()

    def _refuse_keys(self, key: str, *, why: str) -> None:
        if getattr(self.config, key) is not None:
            raise ConfigError(f"selection.source.{key} = {getattr(self.config, key)!r}, {why}; leave it out")

    def _of_hub(self) -> Mapping[str, Iterable[str]]:
        if self.config.revision is not None:
            return self._declared(self.config.dataset, revision=self.config.revision)
        try:
            return self._declared(self.config.dataset, revision=None)
        except ConfigError as error:
            if not isinstance(error, _NoTablesError):
                raise
            try:
                folder = self.config.config or "default"
                return self._declared(self.config.dataset, revision=_CONVERTED, data_dir=folder)
            except ConfigError:
                raise error from None

    def _declared(
        self, dataset: str, *, revision: str | None, data_dir: str | None = None
    ) -> Mapping[str, Iterable[str]]:
        """The files of each split as `datasets` finds them, locally or on the hub."""
        import datasets  # takes a second, and only planning needs it

        name = self.config.config if data_dir is None else None
        try:
            builder = datasets.load_dataset_builder(dataset, name=name, revision=revision, data_dir=data_dir)
        except RuntimeError as error:
            if "script" not in str(error):
                raise
            raise _NoTablesError(f"{_named(dataset)} is a script, which is not run: {error}") from error
        except (datasets.exceptions.DatasetNotFoundError, ConnectionError) as error:
            raise ConfigError(_out_of_reach(dataset, error)) from error
        except (OSError, ValueError) as error:  # of a configuration that is not there, or no data files
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise ConfigError(_out_of_reach(dataset, error)) from error
            raise ConfigError(
                f"{_named(dataset)}: {error}; expected a dataset of Parquet or Arrow files, and a config that it has"
            ) from error
        found = {str(split): list(map(str, files)) for split, files in (builder.config.data_files or {}).items()}
        others = sorted({extension_of(file) for files in found.values() for file in files if not _is_table(file)})
        if others or not found:
            raise _NoTablesError(
                f"{_named(dataset)} holds {', '.join(others) or 'no'} files, expected Parquet or Arrow; for audio "
                "files in folders use `kind: files`, for tar archives `kind: tar`, for lists of files `kind: manifest`"
            )
        return found

    def _chosen(self, splits: Mapping[str, Iterable[str]]) -> Mapping[str, Iterable[str]]:
        if self.config.splits is None:
            return splits
        missing = [split for split in self.config.splits if split not in splits]
        if missing:
            raise ConfigError(
                f"selection.source.splits: {_named(self.config.dataset)} has no split {', '.join(missing)}; "
                f"it has {', '.join(splits)}"
            )
        return {split: splits[split] for split in dict.fromkeys(self.config.splits)}


class _NoTablesError(ConfigError):
    """The dataset holds no Parquet and no Arrow files."""


def _saved_splits(folder: str) -> dict[str, list[str]] | None:
    """The files of each split of a folder written by `save_to_disk`; None for any other folder."""
    listed = _read_json(f"{folder}/dataset_dict.json")
    if listed is not None:
        return {split: _saved_files(f"{folder}/{split}") for split in listed["splits"]}
    state = _read_json(f"{folder}/state.json")
    if state is None:
        return None
    return {state.get("_split") or "train": _saved_files(folder)}


def _saved_files(folder: str) -> list[str]:
    state = _read_json(f"{folder}/state.json")
    if state is None:
        raise ConfigError(f"{public_uri(folder)}/state.json is missing: the dataset was not saved whole; save it again")
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise ConfigError(
            f"{public_uri(folder)} is a selection of rows that an old version of datasets saved as indices; load it "
            "and save it again, which writes the rows themselves"
        )
    return [f"{folder}/{file['filename']}" for file in state["_data_files"]]


def _read_json(location: str) -> dict[str, Any] | None:
    try:
        with open_source(location) as file:
            content: dict[str, Any] = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ConfigError(f"{public_uri(location)} is no JSON: {error}; save the dataset again") from error
    return content


def _look_at(locations: Iterable[str]) -> list[SourceFile]:
    """Version and URI of files: local ones one by one, others by one listing of each folder."""
    found = dict[str, SourceFile]()
    wanted = list(locations)
    for folder in dict.fromkeys(folder_of(location) for location in wanted if local_path(location) is None):
        entries = list_source_files(folder)
        found |= {entry.location: entry for entry in entries if isinstance(entry, SourceFile)}
    try:
        return [found.get(location) or stat_source(location) for location in wanted]
    except FileNotFoundError as error:
        raise ConfigError(
            f"selection.source.dataset is not whole: {public_uri(str(error.filename or error))} is missing; save or "
            "download it again"
        ) from error


def _name_audio(path: str, table: TableFile) -> FoundAudio:
    uri = public_uri(resolve(path, base=folder_of(table.location)))
    return FoundAudio(id=f"{table.split}/{path}", uri=uri)


def _is_table(location: str) -> bool:
    return extension_of(location) in PARQUET_EXTENSIONS | ARROW_EXTENSIONS


def _is_arrow(location: str) -> bool:
    return extension_of(location) in ARROW_EXTENSIONS


def _named(dataset: str) -> str:
    return f"selection.source.dataset = {dataset!r}"


def _out_of_reach(dataset: str, error: Exception) -> str:
    return (
        f"{_named(dataset)}: the hub has no such dataset, or cannot be reached ({error}); check the id, set HF_TOKEN "
        "for a private or gated one and HF_ENDPOINT for a mirror; without a network, download it elsewhere "
        f"(`hf download {dataset} --repo-type dataset --local-dir FOLDER`) and name the folder here"
    )
