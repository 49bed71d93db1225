"""Outputs behind fsspec: object stores and whatever else has a URL."""

import datetime
import os
import posixpath
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.storage.faults import remote_faults
from tokenizer_jobs.storage.outputs import STAGING_FOLDER, Storage, StoredFile, checked_parts, staging_name
from tokenizer_jobs.storage.systems import creates_exclusively, file_system, is_taken, read_whole, upload

__all__ = ["RemoteStorage"]

_REMOTE_CREATE = threading.Lock()
LOOK_FIRST_BYTES = 1 << 25
"""Files above this are uploaded only after a look, since a refusal comes after the last byte."""


@dataclass(frozen=True, slots=True)
class RemoteStorage(Storage):
    """Anything behind fsspec; only the URL is pickled, each process opens its own file system."""

    url: str
    is_local = False

    def __post_init__(self) -> None:
        try:
            self._system()
        except (ValueError, ImportError) as error:
            raise ConfigError(
                f"output {self.name!r} cannot be opened: {error}; expected a local path or an fsspec URL "
                "whose package is installed, such as s3fs for s3://"
            ) from error

    def check_writable(self) -> None:
        """Write a trial file and remove it."""
        trial = f"{STAGING_FOLDER}/{staging_name('.trial')}"
        try:
            self.replace(trial, b"")
            self.delete(trial)
        except (OSError, TransientError) as error:
            raise ConfigError(
                f"output {self.name!r} cannot be written: {error}; check the address, the credentials and "
                "that they allow writing and deleting"
            ) from error

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file by one request."""
        with remote_faults(self._where(path)):
            return read_whole(self._system(), self._at(path))

    def open_file(self, path: str) -> IO[bytes]:
        """Open a file for reading and seeking; blocks are fetched as they are read."""
        with remote_faults(self._where(path)):
            file: IO[bytes] = self._system().open(self._at(path), "rb")
            return file

    def exists(self, path: str) -> bool:
        """Whether a file is there, asked of the storage and not of a cache."""
        with remote_faults(self._where(path)):
            system = self._system()
            system.invalidate_cache()
            return bool(system.isfile(self._at(path)))

    def list(self, folder: str) -> list[StoredFile]:
        """Files directly in a folder, sorted by path."""
        with remote_faults(self._where(folder)):
            system = self._system()
            system.invalidate_cache()
            try:
                infos = system.ls(self._at(folder), detail=True)
            except FileNotFoundError:
                return []
            system.invalidate_cache()  # fsspec would keep a kilobyte for each of them
        found = [
            StoredFile(
                path=f"{folder}/{posixpath.basename(info['name'])}",
                size_bytes=info["size"] or 0,
                modified=_modified(info),
            )
            for info in infos
            if info["type"] == "file"
        ]
        return sorted(found, key=lambda file: file.path)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one; True when this call wrote it.

        One upload in fsspec's mode "create". Where the store itself refuses a second one (S3 by `If-None-Match`,
        Google by `ifGenerationMatch=0`, Azure) it is a single request, any number of them at once, and of any number
        of writers exactly one wins. Elsewhere it is "look, then write": two writers within one request's time may
        both believe they won, and the later bytes stay. The lease keeps a second live run out there, and what is
        published this way has equal meaning from any writer.

        Crash points: before the upload is complete a reader sees nothing, after it the whole file.
        """
        return self._create(path, lambda system, target: system.pipe_file(target, content, mode="create"))

    def replace(self, path: str, content: bytes) -> None:
        """Write a file over whatever is there, by one upload."""
        with remote_faults(self._where(path)):
            self._system().pipe_file(self._at(path), content)

    def stage(self, suffix: str) -> Path:
        """A fresh path in a temporary folder of this machine."""
        folder = Path(tempfile.gettempdir()) / f"tokenizer-jobs-staging-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder / staging_name(suffix)

    def publish(self, staged: Path, path: str) -> None:
        """Upload a staged file to its place and remove it here.

        Crash points: a reader sees what was there before until the upload is complete, then the new file. A crash
        may leave a temporary file on this machine, or parts of an upload that the store itself drops after a while.
        """
        with remote_faults(self._where(path)):
            upload(self._system(), str(staged), self._at(path))
        staged.unlink()

    def publish_if_absent(self, staged: Path, path: str) -> bool:
        """Upload a staged file unless a file is there; exclusive where `put_if_absent` is."""
        if staged.stat().st_size > LOOK_FIRST_BYTES and self.exists(path):
            return False
        if not self._create(path, lambda system, target: upload(system, str(staged), target, mode="create")):
            return False
        staged.unlink()
        return True

    def _create(self, path: str, write: Callable[[Any, str], object]) -> bool:
        with remote_faults(self._where(path)):
            system, target = self._system(), self._at(path)
            is_exclusive = creates_exclusively(self.url, folder=self._at(STAGING_FOLDER))
            with nullcontext() if is_exclusive else _REMOTE_CREATE:
                if not is_exclusive:
                    system.invalidate_cache()
                    if system.exists(target):
                        return False
                try:
                    write(system, target)
                except OSError as error:
                    if is_taken(error):
                        return False
                    raise
                return True

    def delete(self, path: str) -> None:
        """Remove a file; a missing one is fine."""
        with remote_faults(self._where(path)):
            try:
                self._system().rm_file(self._at(path))
            except FileNotFoundError:
                return

    def _system(self) -> Any:
        return _system_of(self.url, os.getpid())

    def _at(self, path: str) -> str:
        return posixpath.join(self.url.rstrip("/"), *checked_parts(path))

    def _where(self, path: str) -> str:
        return f"{self.name.rstrip('/')}/{path}"


@lru_cache(maxsize=64)
def _system_of(url: str, _pid: int) -> Any:
    # Taking a URL apart costs 0.2 ms, and a commit asks four times. A client must not cross a fork.
    return file_system(url)[0]


def _modified(info: dict[str, Any]) -> float:
    for key in ("LastModified", "last_modified", "mtime", "modified", "updated", "created"):
        value = info.get(key)
        if isinstance(value, datetime.datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.datetime.fromisoformat(value).timestamp()
    return time.time()
