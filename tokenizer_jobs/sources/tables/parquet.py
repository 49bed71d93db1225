"""Parquet files with audio inside, or with the paths of audio files.

Ids. Of audio inside, `PATH#ROW`: the id that the file itself would have in a source of files, and the row's number in
it. Of an audio file that a row names, its path relative to `root`, else to the entry of `paths` that the table is
under; a file that lies elsewhere has its whole path or URL.
"""

import io
import os
import posixpath
from collections import Counter
from pathlib import Path
from typing import IO

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import ParquetSource
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.sources.manifest.places import private_location
from tokenizer_jobs.sources.roots import FileKind, find_files, id_from_path, location_of, storable_uri
from tokenizer_jobs.sources.tables.columns import ColumnChoice
from tokenizer_jobs.sources.tables.items import FoundAudio, TableFile
from tokenizer_jobs.sources.tables.listing import list_tables
from tokenizer_jobs.sources.tables.opened import PARQUET_EXTENSIONS
from tokenizer_jobs.sources.tables.reader import RowReaders
from tokenizer_jobs.storage import is_url, local_path, open_source, public_uri

__all__ = ["ParquetRows", "folder_of", "open_row", "resolve"]

_TABLES = FileKind(extensions=PARQUET_EXTENSIONS, wanted="a Parquet extension", named_like="Parquet")


class ParquetRows:
    """The source of kind `parquet`.

    Args:
        config: `selection.source` of the job.
    """

    def __init__(self, config: ParquetSource) -> None:
        self.config = config
        self._readers = RowReaders(audio_column=config.audio_column)

    def list(self) -> Listing:
        """List every row of every file; see `Source.list`."""
        skipped: Counter[str] = Counter()
        bases = dict[str, tuple[str, str]]()
        files = list[TableFile]()
        for file, root in find_files(self.config.paths, kind=_TABLES, skipped=skipped):
            uri = storable_uri(file)
            folder = self.config.root and _absolute(self.config.root)
            files.append(TableFile(location=file.location, uri=uri, etag=file.etag, id_prefix=f"{root.id_of(file)}#"))
            bases[uri] = folder or root.folder, "" if folder or not root.label else f"{root.label}//"

        def name_audio(path: str, table: TableFile) -> FoundAudio:
            location = resolve(path, base=self._base(table.location))
            folder, label = bases[table.uri]
            return FoundAudio(id=label + id_from_path(_below(location, folder)), uri=public_uri(location))

        choice = ColumnChoice(
            audio_column=self.config.audio_column, id_column=self.config.id_column, columns=self.config.columns
        )
        return list_tables(files, choice=choice, name_audio=name_audio, skipped=skipped)

    def open(self, item: Item) -> IO[bytes]:
        """Open the audio of a row, or the file that it names; see `Source.open`."""
        file_location = self.file_location(item)
        if file_location is not None:
            return open_source(file_location)
        location = location_of(item.source_uri, self.config.paths)
        return open_row(item, location=location, base=self._base(location), is_arrow=False, readers=self._readers)

    def file_location(self, item: Item) -> str | None:
        """What opens the file that a row names; see `HasFiles.file_location`."""
        if item.source_row is not None:
            return None
        given = self.config.paths if self.config.root is None else (self.config.root,)
        return private_location(location_of(item.source_uri, ()), given)

    def _base(self, location: str) -> str:
        return folder_of(location) if self.config.root is None else _absolute(self.config.root)


def open_row(item: Item, *, location: str, base: str, is_arrow: bool, readers: RowReaders) -> IO[bytes]:
    """Open the audio of a row of a table.

    Args:
        item: Its `source_row` is the row.
        location: What opens the table.
        base: Folder or URL that relative paths start from.
        is_arrow: Whether the table is Arrow IPC rather than Parquet.
        readers: Of the source.

    Raises:
        ItemError: as `RowReaders.read`, and where the row has no audio.
        FileNotFoundError, PermissionError, OSError, TransientError: as the storage says.
    """
    content = readers.read(item, location=location, is_arrow=is_arrow)
    if content is None:
        raise ItemError(
            f"row {item.source_row} of {item.source_uri} has neither bytes nor a path of audio",
            stage=Stage.READ,
            reason=RejectReason.EMPTY,
        )
    return io.BytesIO(content) if isinstance(content, bytes) else open_source(resolve(content, base=base))


def resolve(path: str, *, base: str) -> str:
    """The location that a path inside a table names: relative ones start from a folder or URL."""
    if is_url(path) or os.path.isabs(path):  # noqa: PTH117  # a string of a table, not a path yet
        return path
    if not is_url(base):
        return os.path.normpath(os.path.join(base, path))  # noqa: PTH118  # keeps strange bytes
    scheme, mark, rest = public_uri(base).partition("://")
    return scheme + mark + posixpath.normpath(posixpath.join(rest, path))


def folder_of(location: str) -> str:
    """The folder of a file, as a path or URL."""
    return location.rpartition("/")[0]


def _absolute(folder: str) -> str:
    local = local_path(folder)
    return folder.rstrip("/") if local is None else str(Path(local).expanduser().absolute())


def _below(location: str, folder: str) -> str:
    """A location relative to a folder, whose scheme may be left out; as it is where it lies elsewhere."""
    known = public_uri(location)
    path, prefix = known, folder.rstrip("/") + "/"
    if is_url(known):
        path, prefix = (text.rpartition("://")[2].lstrip("/") for text in (known, prefix))
    return path.removeprefix(prefix) if path.startswith(prefix) else known
