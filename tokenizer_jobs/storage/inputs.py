"""The source side: which files a location holds, and their bytes."""

import datetime
import errno
import glob
import os
import re
import stat
import urllib.parse
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.storage.faults import local_faults, local_read_faults, remote_faults, shown_cause, without_secrets
from tokenizer_jobs.storage.systems import file_system
from tokenizer_jobs.storage.trees import NoPermission, infos_below
from tokenizer_jobs.storage.urls import local_path, public_uri

__all__ = ["SkippedEntry", "SourceFile", "list_source_files", "open_source", "stat_source", "version_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """One regular file of a source."""

    uri: str
    """Absolute path when local, else the URL without query string and credentials: what may be stored.

    A path that is not UTF-8 is a `file://` URL with its bytes percent-encoded.
    """
    size_bytes: int | None
    etag: str | None
    """The storage's version of the file; for local files `mtime-<nanoseconds>`."""
    location: str = field(repr=False)
    """What opens the file: as `uri`, but a signed URL keeps its query and a path its bytes. Never stored or shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedEntry:
    """What a listing met that is no regular file."""

    uri: str
    kind: str
    """`folder`, `link to a listed folder`, `broken link`, `fifo`, `socket`, `device`, `folder without permission` or
    `vanished folder`."""


Listed = SourceFile | SkippedEntry


def list_source_files(location: str | os.PathLike[str]) -> Iterator[Listed]:
    """List what a folder (with all below it), a glob or a single file holds, in no particular order.

    Folders are reported as skipped entries and entered, each real folder once, however many links lead to it.

    Raises:
        ConfigError: nothing is at the location, or no storage of this machine understands it.
        PermissionError: the location itself may not be read.
        TransientError: the storage failed.
    """
    path = local_path(location)
    if path is None:
        yield from _list_remote(os.fspath(location))
        return
    path = path.expanduser().absolute()
    if path.exists():
        yield from _list_local(path)
    elif glob.has_magic(str(path)):
        yield from _match_local(str(path))
    else:
        raise ConfigError(f"source {str(path)!r} does not exist; expected a folder, a file or a glob")


def stat_source(uri: str) -> SourceFile:
    """Look at one file again.

    Raises:
        FileNotFoundError, PermissionError: as the storage says.
        OSError: a local file that cannot be looked at.
        TransientError: the storage failed.
    """
    path = local_path(uri)
    if path is not None:
        with local_read_faults(str(path)):
            return _local_file(str(path), path.stat())
    with remote_faults(public_uri(uri)):
        system, name = file_system(uri)
        system.invalidate_cache()
        return _remote_file(system.info(name), uri)


def open_source(uri: str, *, block_bytes: int | None = None) -> IO[bytes]:
    """Open one file for reading and seeking.

    Args:
        uri: Local path or URL.
        block_bytes: How far a remote file is read ahead; None leaves it to the file system, for S3 50 MB.

    Raises:
        FileNotFoundError, PermissionError, IsADirectoryError: as the storage says.
        OSError: a local file that cannot be read, or is no regular one: such a one might block for ever.
        TransientError: the storage failed.
    """
    path = local_path(uri)
    if path is None:
        with remote_faults(public_uri(uri)):
            system, name = file_system(uri)
            remote: IO[bytes] = system.open(name, "rb", **({} if block_bytes is None else {"block_size": block_bytes}))
            return remote
    with local_read_faults(str(path)):
        return open(path, "rb", opener=_open_regular)


def _open_regular(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # a fifo without a writer would block the open itself
    if stat.S_ISREG(os.fstat(descriptor).st_mode) or stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", path)


def _list_local(root: Path) -> Iterator[Listed]:
    if not root.is_dir():
        yield _entry(str(root))
        return
    # Real folders first and links after them, in sorted order: which name a folder goes by when links also lead
    # to it does not depend on the order of the file system, and no loop of links is walked twice.
    folders, links, seen = deque([str(root)]), deque[str](), set[tuple[int, int]]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            with local_faults(folder):
                identity = _identity(folder)
                entries = [] if identity in seen else sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (PermissionError, FileNotFoundError) as error:
            if folder == str(root):
                raise
            gone = isinstance(error, FileNotFoundError)
            yield SkippedEntry(uri=folder, kind="vanished folder" if gone else "folder without permission")
            continue
        if folder != str(root):
            yield SkippedEntry(uri=folder, kind="link to a listed folder" if identity in seen else "folder")
        seen.add(identity)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif _is_folder_link(entry):
                links.append(entry.path)
            else:
                yield _entry(entry.path)


def _match_local(pattern: str) -> Iterator[Listed]:
    if "**" not in pattern:
        for match in sorted(Path("/").glob(pattern.lstrip("/"))):
            yield from _list_local(match)
        return
    # glob's own `**` follows links to folders round and round; the walk below enters each real folder once.
    parts = pattern.split("/")
    fixed = "/".join(parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))])
    if not Path(fixed or "/").is_dir():
        return
    from fsspec.utils import glob_translate  # as slow to import as `systems` says

    accepted = re.compile(glob_translate(pattern))
    for listed in _list_local(Path(fixed or "/")):
        if isinstance(listed, SkippedEntry) or accepted.match(listed.location):
            yield listed


def _entry(path: str) -> Listed:
    try:
        facts = Path(path).stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return SkippedEntry(uri=path, kind="broken link")
        raise
    if stat.S_ISREG(facts.st_mode):
        return _local_file(path, facts)
    kinds = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
    return SkippedEntry(uri=path, kind=kinds.get(stat.S_IFMT(facts.st_mode), "device"))


def _local_file(path: str, facts: os.stat_result) -> SourceFile:
    absolute = str(Path(path).absolute())
    uri = absolute if _is_utf8(absolute) else "file://" + urllib.parse.quote_from_bytes(os.fsencode(absolute))
    return SourceFile(uri=uri, size_bytes=facts.st_size, etag=f"mtime-{facts.st_mtime_ns}", location=absolute)


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_folder_link(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_symlink() and entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _identity(folder: str) -> tuple[int, int]:
    facts = Path(folder).stat()
    return facts.st_dev, facts.st_ino


def _list_remote(location: str) -> Iterator[Listed]:
    try:
        system, name = file_system(location)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"source {public_uri(location)!r} cannot be opened: {without_secrets(str(error))}; expected a local path "
            "or an fsspec URL whose package is installed, such as s3fs for s3://"
        ) from shown_cause(error)
    missing = ConfigError(f"source {public_uri(location)!r} does not exist; expected a folder, a file or a glob")
    with remote_faults(public_uri(location)):
        system.invalidate_cache()  # listings of earlier runs of this process
        if _is_remote_glob(location):
            found = system.glob(name, detail=True)
        elif system.isdir(name) and not _is_web(location):
            yield from _list_below(system, name)
            return
        elif system.isdir(name):
            found = system.find(name, detail=True, withdirs=True)
        elif _is_web(location):  # `exists` says no of a server that is down
            yield _web_file(system, name, location, missing=missing)
            return
        elif system.exists(name):
            yield _remote_file(system.info(name), location)
            return
        else:
            raise missing
    for info in found.values():
        url = system.unstrip_protocol(info["name"])
        if info["type"] == "directory":
            if info["name"].rstrip("/") != str(name).rstrip("/"):
                yield SkippedEntry(uri=public_uri(url), kind="folder")
        else:
            yield _remote_file(info, url)


def _list_below(system: Any, name: str) -> Iterator[Listed]:
    for info in infos_below(system, name):
        if isinstance(info, NoPermission):
            yield SkippedEntry(uri=public_uri(system.unstrip_protocol(info.name)), kind="folder without permission")
            continue
        url = system.unstrip_protocol(info["name"])
        is_folder = info["type"] == "directory"
        yield SkippedEntry(uri=public_uri(url), kind="folder") if is_folder else _remote_file(info, url)


def _is_remote_glob(location: str) -> bool:
    # The query of a web address is no pattern.
    return glob.has_magic(location.split("?")[0] if _is_web(location) else location)


def _is_web(location: str) -> bool:
    return location.startswith(("http://", "https://"))


def _web_file(system: Any, name: str, location: str, *, missing: ConfigError) -> SourceFile:
    try:
        with remote_faults(public_uri(location)):
            return _remote_file(system.info(name), location)
    except FileNotFoundError:
        raise missing from None


def _remote_file(info: dict[str, Any], url: str) -> SourceFile:
    return SourceFile(uri=public_uri(url), size_bytes=info.get("size"), etag=version_of(info), location=url)


def version_of(info: Mapping[str, Any]) -> str | None:
    """The storage's version of a file, by what it says of the file; None: it says nothing that could be one."""
    for key in (
        "ETag",
        "etag",
        "md5Hash",
        "content_md5",
        "blob_id",
        "LastModified",
        "last_modified",
        "mtime",
        "updated",
        "created",
    ):
        if isinstance(value := info.get(key), datetime.datetime):
            value = value.timestamp()  # some systems list a number and say a date when asked for one file
        if value:
            return str(value).strip('"')
    return None
