"""Outputs behind fsspec: object stores and whatever else has a URL."""

import datetime
import hashlib
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
from typing import IO, Any, cast

from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.storage.faults import remote_faults
from tokenizer_jobs.storage.outputs import (
    STAGING_FOLDER,
    Storage,
    StoredFile,
    checked_parts,
    staged_by_the_dead,
    staging_name,
)
from tokenizer_jobs.storage.remote_files import RemoteFile
from tokenizer_jobs.storage.systems import (
    creates_exclusively,
    file_system,
    is_conflict,
    is_taken,
    read_whole,
    upload,
)

__all__ = ["RemoteStorage"]

_REMOTE_CREATE = threading.Lock()
LOOK_FIRST_BYTES = 1 << 25
"""Files above this are uploaded only after a look, since a refusal comes after the last byte."""
CONFLICT_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Pauses before a write that S3 answered 409 is sent again; it does so while another write of the name is under way."""


@dataclass(frozen=True, slots=True)
class RemoteStorage(Storage):
    """Anything behind fsspec; only the URL is pickled, each process opens its own file system."""

    url: str
    is_local = False

    @property
    def is_exclusive(self) -> bool:
        """See `Storage`; a store in this process's memory has no writer but this process, and that takes turns."""
        if self.url.startswith("memory://"):
            return True
        with remote_faults(self.name):
            return creates_exclusively(self.url, folder=self._at(STAGING_FOLDER))

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
        return cast(IO[bytes], RemoteFile(file, self._where(path)))

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
        """Write a file unless there is one; True when these very bytes are there.

        One upload in fsspec's mode "create". Where the store itself refuses a second one it is a single request, any
        number of them at once, and of any number of writers exactly one wins:

            S3       PutObject, or CompleteMultipartUpload, with `If-None-Match: *`     412 for the others
            Google   the upload with `ifGenerationMatch=0`                             412
            Azure    Put Blob with `If-None-Match: *`                                   409

        A refusal is no proof of another writer: the client sends a request again whose answer was lost, and is told
        that its own bytes are there. So a refusal is followed by a look at the bytes.

        Elsewhere it is look, write, look again. Of two writers within one request's time the bytes of the later stay,
        and the earlier finds that out unless its second look came before them; then both go on. What they publish is
        sound from either: names of files hold their hashes there (`is_exclusive`), records name such files alone, and
        a driver reads the records again before it lists them in a snapshot and sweeps.

        Crash points: before the upload is complete a reader sees nothing, after it the whole file.
        """
        wrote = self._create(path, lambda system, target: system.pipe_file(target, content, mode="create"))
        return True if wrote and self.is_exclusive else self._holds(path, content)

    def replace(self, path: str, content: bytes) -> None:
        """Write a file over whatever is there, by one upload."""
        with remote_faults(self._where(path)):
            self._system().pipe_file(self._at(path), content)

    def stage(self, suffix: str) -> Path:
        """A fresh path in a temporary folder of this machine."""
        folder = Path(tempfile.gettempdir()) / f"tokenizer-jobs-staging-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        _sweep_staged(folder, os.getpid())
        return folder / staging_name(suffix)

    def publish(self, staged: Path, path: str) -> None:
        """Upload a staged file to its place and remove it here.

        Crash points: a reader sees what was there before until the upload is complete, then the new file. A crash
        may leave a temporary file on this machine, or parts of an upload that the store itself drops after a while.
        """
        with remote_faults(self._where(path)):
            self._upload(staged, path)
        staged.unlink()

    def publish_if_absent(self, staged: Path, path: str) -> bool:
        """Upload a staged file unless a file is there; exclusive where `put_if_absent` is.

        Where it is refused the file may still be this one, by a request whose answer was lost: to find that out may
        be a large download, which is left to the caller, who compares hashes in any case.
        """
        if staged.stat().st_size > LOOK_FIRST_BYTES and self.exists(path):
            return False
        if not self._create(path, lambda _system, _target: self._upload(staged, path, mode="create")):
            return False
        staged.unlink()
        return True

    def _create(self, path: str, write: Callable[[Any, str], object]) -> bool:
        with remote_faults(self._where(path)):
            system, target = self._system(), self._at(path)
            refuses = creates_exclusively(self.url, folder=self._at(STAGING_FOLDER))
            with nullcontext() if refuses else _REMOTE_CREATE:
                if not refuses:
                    system.invalidate_cache()
                    if system.exists(target):
                        return False
                for pause in (*CONFLICT_SECONDS, None):
                    try:
                        write(system, target)
                    except OSError as error:
                        if is_taken(error):
                            return False
                        if pause is None or not is_conflict(error):
                            raise
                        time.sleep(pause)
                    else:
                        return True
                return False

    def _upload(self, staged: Path, path: str, *, mode: str = "overwrite") -> None:
        """Upload a staged file; in parts where it is large.

        The end of an upload in parts may be done and its answer lost: sent again, the store knows the upload no more
        and says so by "not found", whatever became of it.
        """
        try:
            upload(self._system(), str(staged), self._at(path), mode=mode)
        except FileNotFoundError as error:
            if not self._is_staged(staged, path):
                raise TransientError(f"{self._where(path)}: the store lost the upload on its way: {error}") from None

    def _is_staged(self, staged: Path, path: str) -> bool:
        """Whether a file has the bytes of a staged one."""
        try:
            with staged.open("rb") as ours, self._system().open(self._at(path), "rb") as theirs:
                return hashlib.file_digest(ours, "sha256").digest() == hashlib.file_digest(theirs, "sha256").digest()
        except FileNotFoundError:
            return False

    def _holds(self, path: str, content: bytes) -> bool:
        try:
            return self.read_bytes(path) == content
        except FileNotFoundError:  # removed since
            return False

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


@lru_cache(maxsize=1)
def _sweep_staged(folder: Path, _pid: int) -> None:
    """Remove what processes of this machine left staged that are gone; once in a process.

    No run sweeps the temporary folders of other machines: encoders that were killed would fill a node's disk.
    """
    here = Owner.current()
    for staged in folder.iterdir():
        if staged_by_the_dead(staged.name, here=here):
            staged.unlink(missing_ok=True)


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
