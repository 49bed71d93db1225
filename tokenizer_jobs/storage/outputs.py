"""An output's root: whole files in and out, atomic publishing, and staging under unique names.

Every file of an output becomes visible in one step and whole. Local folders use hard links and renames of fsynced
staged files; other storages use single uploads, which object stores show whole or not at all.
"""

import os
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.liveness import Owner, pid_is_gone
from tokenizer_jobs.storage.urls import local_path, public_uri

__all__ = ["STAGING_FOLDER", "Storage", "StoredFile", "checked_parts", "staged_by_the_dead", "staging_name"]

STAGING_FOLDER = "_staging"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of an output."""

    path: str
    """Relative to the output, with forward slashes."""
    size_bytes: int
    modified: float
    """Seconds since 1970 by the storage's clock; now, where the storage does not say."""


class Storage(ABC):
    """The root folder of an output: a local path or any fsspec URL. Cheap to pickle; opens nothing until used."""

    url: str
    """Absolute path, or URL as given; it may hold credentials, so it is never stored."""
    is_local: bool

    @property
    @abstractmethod
    def is_exclusive(self) -> bool:
        """Whether of any number of writers of one new name exactly one wins, whatever their timing.

        Where it is not so, what may differ between two writers is published under a name that holds its own hash.
        """

    @staticmethod
    def at(url: str | os.PathLike[str]) -> "Storage":
        """Name an output without touching it, for readers.

        Raises:
            ConfigError: no storage of this machine understands the URL.
        """
        try:
            path = local_path(url)
            root = None if path is None else str(path.expanduser().absolute())
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"output {os.fspath(url)!r} is no path: {error}; expected a folder or a URL") from error
        if root is not None and "\0" in root:
            raise ConfigError(f"output {root!r} holds a NUL character; expected a folder or a URL")
        if root is not None:
            from tokenizer_jobs.storage.local import LocalStorage  # it is built on this module

            return LocalStorage(root)
        from tokenizer_jobs.storage.remote import RemoteStorage  # and so is it

        return RemoteStorage(os.fspath(url))

    @staticmethod
    def open(url: str | os.PathLike[str]) -> "Storage":
        """Open an output for writing; its folder is made, and a trial file written and removed.

        Raises:
            ConfigError: the output cannot be made or written; the message names it and what to do.
        """
        storage = Storage.at(url)
        storage.check_writable()
        return storage

    @property
    def name(self) -> str:
        """The output as messages and records may show it: without credentials."""
        return public_uri(self.url)

    @abstractmethod
    def check_writable(self) -> None:
        """Make the folder and try a write.

        Raises:
            ConfigError: it cannot be written.
        """

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """Read a whole file.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def open_file(self, path: str) -> IO[bytes]:
        """Open a file for reading and seeking.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether a file is there."""

    @abstractmethod
    def list(self, folder: str) -> list[StoredFile]:
        """Files directly in a folder, sorted by path; none when there is no such folder."""

    @abstractmethod
    def put_if_absent(self, path: str, content: bytes) -> bool:
        """Write a file unless there is one; True when these very bytes are there. Never half visible.

        Contents therefore name their writer (a run, a moment, a random number) wherever it matters who wrote them.
        """

    @abstractmethod
    def replace(self, path: str, content: bytes) -> None:
        """Write a file over whatever is there, in one visible step."""

    @abstractmethod
    def stage(self, suffix: str) -> Path:
        """A fresh local path to write to; nothing is there yet."""

    @abstractmethod
    def publish(self, staged: Path, path: str) -> None:
        """Move a staged file to its place in one visible step, over whatever is there."""

    @abstractmethod
    def publish_if_absent(self, staged: Path, path: str) -> bool:
        """Move a staged file to its place unless a file is there; True when this call did, else it stays staged."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file; a missing one is fine."""


def staged_by_the_dead(name: str, *, here: Owner) -> bool:
    """Whether a staging name was made by a process of this machine that is gone; False when that is not known."""
    machine_tag, _, rest = name.partition("-")
    pid, _, rest = rest.partition("-")
    pid_started, _, _ = rest.partition("-")
    if machine_tag != here.machine_tag or not (pid.isdigit() and pid_started.isdigit()):
        return False
    return pid_is_gone(int(pid), pid_started=int(pid_started))


def staging_name(suffix: str) -> str:
    """A fresh name that says which process made it."""
    owner = Owner.current()
    return f"{owner.machine_tag}-{owner.pid}-{owner.pid_started}-{uuid.uuid4().hex}{suffix}"


def checked_parts(path: str) -> tuple[str, ...]:
    """The names that a path in an output is made of.

    Raises:
        IntegrityError: the path leads out of the output, or is none.
    """
    parts = tuple(path.split("/"))
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise IntegrityError(f"path {path!r} is not inside the output; expected names joined by '/', without '..'")
    return parts
