"""Where an export goes: nothing of it has its place, or counts, before all of it is written.

local   files ──▶ .DEST.<process>/ beside DEST ──one rename──▶ DEST
remote  export.unfinished.json ─▶ files, one upload each ─▶ export.json ─▶ the first one goes
"""

import hashlib
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.storage import (
    Storage,
    list_source_files,
    local_path,
    local_write_faults,
    public_uri,
    staged_by_the_dead,
    staging_name,
)

__all__ = ["MANIFEST", "UNFINISHED", "Destination", "ExportedFile", "open_destination", "read_manifest"]

MANIFEST = "export.json"
UNFINISHED = "export.unfinished.json"


class ExportedFile(BaseModel):
    """One file of an export."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    size_bytes: int
    sha256: str


@dataclass(slots=True, kw_only=True)
class Destination(ABC):
    """An export that is being written: files come into `folder`, and are then added."""

    folder: Path
    """On this machine."""
    name: str
    """For messages."""
    files: list[ExportedFile] = field(default_factory=list)
    """Those that the manifest lists."""
    num_files: int = 0
    num_bytes: int = 0

    @contextmanager
    def new_file(self, path: str, *, is_listed: bool = True) -> Iterator[Path]:
        """Give a path to write a file to, and add the file that was written there.

        Args:
            path: In the export, with forward slashes.
            is_listed: Whether the manifest lists it; else another file of the export does.

        Raises:
            ConfigError: there is no room, or no permission.
        """
        staged = self.folder / path
        with local_write_faults(f"export to {self.name}"):
            staged.parent.mkdir(parents=True, exist_ok=True)
            yield staged
            self.add(path, is_listed=is_listed)

    def add(self, path: str, *, is_listed: bool = True) -> None:
        """Take in a file that was written to its place in `folder`."""
        staged = self.folder / path
        size_bytes = staged.stat().st_size
        self.num_files, self.num_bytes = self.num_files + 1, self.num_bytes + size_bytes
        if is_listed:
            with staged.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self.files.append(ExportedFile(path=path, size_bytes=size_bytes, sha256=sha256))
        self._take(staged, path)

    @abstractmethod
    def _take(self, staged: Path, path: str) -> None:
        """Bring a complete file on its way."""

    @abstractmethod
    def finish(self, manifest: bytes) -> None:
        """Write the manifest and give the whole export its place.

        Raises:
            ConfigError: something else has come there meanwhile.
        """


@dataclass(slots=True, kw_only=True)
class _LocalDestination(Destination):
    target: Path

    def _take(self, staged: Path, path: str) -> None:
        """Nothing: `finish` makes all files durable at once, since a million of them may be small."""

    def finish(self, manifest: bytes) -> None:
        """Write the manifest and rename the folder.

        Crash points: before the rename a folder that the next export to this place removes; after it the whole
        export. Its bytes are on disk before it has its name.
        """
        with local_write_faults(f"export to {self.name}"):
            (self.folder / MANIFEST).write_bytes(manifest)
            os.sync()
            try:
                self.folder.rename(self.target)
            except OSError as error:
                if self.target.exists():
                    raise _occupied(self.name, "something was written there meanwhile") from error
                raise


@dataclass(slots=True, kw_only=True)
class _RemoteDestination(Destination):
    storage: Storage

    def _take(self, staged: Path, path: str) -> None:
        self.storage.publish(staged, path)

    def finish(self, manifest: bytes) -> None:
        """Upload the manifest, which makes the export one.

        Crash points: before it an unfinished export, which the same command writes anew; after it the whole export,
        and at first also the mark, which means nothing beside a manifest.
        """
        self.storage.replace(MANIFEST, manifest)
        self.storage.delete(UNFINISHED)


@contextmanager
def open_destination(url: str, *, identity: bytes) -> Iterator[Destination]:
    """Open an empty place, or that of an unfinished export of the same rows; what fails leaves no file of it there.

    Args:
        url: Local path or fsspec URL.
        identity: What is exported, as bytes that are equal for equal exports.

    Raises:
        ConfigError: something else is there, or nothing can be written there.
    """
    path = local_path(url)
    if path is None:
        yield from _open_remote(url, identity)
        return
    target = path.expanduser().absolute()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise _occupied(str(target), "it is not an empty folder")
    with local_write_faults(f"export to {target}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        folder = target.with_name(f"{_staging_prefix(target)}{staging_name('')}")
        folder.mkdir()
    try:
        yield _LocalDestination(folder=folder, name=str(target), target=target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_manifest(url: str) -> bytes | None:
    """The manifest of a finished export; None where there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return Storage.at(url).read_bytes(MANIFEST)
    return None


def _open_remote(url: str, identity: bytes) -> Iterator[Destination]:
    storage, name = Storage.at(url), public_uri(url)
    if not _is_empty(url):
        try:
            found: bytes | None = storage.read_bytes(UNFINISHED)
        except FileNotFoundError:
            found = None
        if found != identity:
            what = "it holds other files" if found is None else "it holds an unfinished export of something else"
            raise _occupied(name, what)
    storage.check_writable()
    storage.replace(UNFINISHED, identity)
    with tempfile.TemporaryDirectory(prefix="tokenizer-jobs-export-") as folder:
        yield _RemoteDestination(folder=Path(folder), name=name, storage=storage)


def _is_empty(url: str) -> bool:
    try:
        return next(iter(list_source_files(url)), None) is None
    except ConfigError:  # there is nothing; what cannot be reached fails where the mark is written
        return True


def _staging_prefix(target: Path) -> str:
    return f".{target.name}.exporting-"


def _remove_abandoned(target: Path) -> None:
    """Remove what exports to the same place left that died on this machine."""
    prefix, here = _staging_prefix(target), Owner.current()
    for entry in target.parent.iterdir():
        if entry.name.startswith(prefix) and staged_by_the_dead(entry.name.removeprefix(prefix), here=here):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _occupied(name: str, what: str) -> ConfigError:
    return ConfigError(
        f"cannot export to {name!r}: {what}; expected a place that is empty, or that of an unfinished export of the "
        "same snapshot in the same format, so choose another one or empty it"
    )
