"""Outputs in a folder of this machine, by calls of the operating system."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.storage.faults import local_faults, local_write_faults
from tokenizer_jobs.storage.naming import link_or_rename, rename_over
from tokenizer_jobs.storage.outputs import STAGING_FOLDER, Storage, StoredFile, checked_parts, staging_name

__all__ = ["LocalStorage"]

STALE_TRIES = 3
"""Of reading a file that another machine replaced while this one had it open: NFS says ESTALE once."""
_SILLY = ".nfs"
"""How NFS calls what was removed while a process of this machine has it open; it goes when that is closed."""


@dataclass(frozen=True, slots=True)
class LocalStorage(Storage):
    """A folder of this machine's file system, which may be a network mount."""

    url: str
    is_local = True
    is_exclusive = True

    def check_writable(self) -> None:
        """Make the folder and its staging folder, and try a write."""
        trial: Path | None = None
        try:
            trial = self.stage(".trial")
            trial.write_bytes(b"")
            trial.unlink()
        except (OSError, TransientError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"output {self.url!r} cannot be written: {reason}; expected a folder that can be made "
                "or one with write permission, so choose another `output` or change its permissions"
            ) from error

    def read_bytes(self, path: str) -> bytes:
        """Read a whole file."""
        with local_faults(self._where(path)):
            for _ in range(STALE_TRIES - 1):
                try:
                    return self._at(path).read_bytes()
                except OSError as error:
                    if error.errno != errno.ESTALE:
                        raise
            return self._at(path).read_bytes()

    def open_file(self, path: str) -> IO[bytes]:
        """Open a file for reading and seeking."""
        with local_faults(self._where(path)):
            return self._at(path).open("rb")

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return self._at(path).is_file()

    def list(self, folder: str) -> list[StoredFile]:
        """Files directly in a folder, sorted by path."""
        found = []
        with local_faults(self._where(folder)):
            try:
                entries = list(os.scandir(self._at(folder)))
            except FileNotFoundError:
                return []
            for entry in entries:
                if entry.name.startswith(_SILLY):
                    continue
                try:
                    if entry.is_file():
                        facts = entry.stat()
                        found.append(
                            StoredFile(path=f"{folder}/{entry.name}", size_bytes=facts.st_size, modified=facts.st_mtime)
                        )
                except FileNotFoundError:
                    continue  # removed between the listing and the look at it
        return sorted(found, key=lambda file: file.path)

    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one; True when this call wrote it.

        Exactly one of any number of writers wins: `link` fails where the name is taken, and where there are no hard
        links `renameat2` with RENAME_NOREPLACE does (see `naming`).

        Crash points, and what a reader sees after each:
            1. while the staged file is written or fsynced: no file, and an orphan in staging;
            2. after the link: the whole file, and its second name in staging;
            3. after the unlink: the whole file. Without the folder's fsync a power failure may take back the link:
               then no file, as at 1.
        """
        with local_write_faults(self._where(path)):
            if self._at(path).exists():
                return False
            staged = self._staged_bytes(content)
            try:
                return self.publish_if_absent(staged, path)
            finally:
                staged.unlink(missing_ok=True)

    def replace(self, path: str, content: bytes) -> None:
        """Write a file over whatever is there.

        Crash points: before the rename a reader sees the old file (or none), after it the new one; never a mixture.
        """
        with local_write_faults(self._where(path)):
            self.publish(self._staged_bytes(content), path)

    def stage(self, suffix: str) -> Path:
        """A fresh path in the output's staging folder, on the same file system as its destination."""
        folder = Path(self.url) / STAGING_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder / staging_name(suffix)

    def publish(self, staged: Path, path: str) -> None:
        """Move a staged file to its place.

        Crash points, and what a reader sees after each:
            1. before the fsync or the rename: what was there before, and an orphan in staging;
            2. after the rename: the new file, whole, since its bytes were on disk before it had the name;
            3. without the folder's fsync a power failure may take back the rename: as at 1.
        """
        target = self._at(path)
        with local_write_faults(self._where(path)):
            _fsync_file(staged)
            _make_folder(target.parent)
            rename_over(staged, target)
            _fsync_folder(target.parent)

    def publish_if_absent(self, staged: Path, path: str) -> bool:
        """Move a staged file to its place unless a file is there; crash points as in `put_if_absent`."""
        target = self._at(path)
        with local_write_faults(self._where(path)):
            _fsync_file(staged)
            _make_folder(target.parent)
            linked = link_or_rename(staged, target)
            # Also when it was there: whoever made it may have died before this, and what builds on it comes next.
            _fsync_folder(target.parent)
            if linked:
                staged.unlink(missing_ok=True)
            return linked

    def delete(self, path: str) -> None:
        """Remove a file; a missing one is fine."""
        with local_write_faults(self._where(path)):
            self._at(path).unlink(missing_ok=True)

    def _staged_bytes(self, content: bytes) -> Path:
        staged = self.stage(".bytes")
        staged.write_bytes(content)
        return staged

    def _at(self, path: str) -> Path:
        return Path(self.url, *checked_parts(path))

    def _where(self, path: str) -> str:
        return f"{self.url}/{path}"


def _make_folder(path: Path) -> None:
    """Make a folder, and make its name durable: a commit must not outlive the folder of its shard."""
    if not path.is_dir():
        _make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _fsync_folder(path.parent)


def _fsync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some mounts refuse to sync a folder
            raise
    finally:
        os.close(descriptor)
