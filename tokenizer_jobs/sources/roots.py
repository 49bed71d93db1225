"""Files found at the `paths` of a source, each once, and the ids that follow from where they are.

Ids. A file's id is its path relative to its root, with forward slashes. The root is the folder named in `paths`, the
part of a glob before its first wildcard, or the folder of a single file. Files of the first root have no prefix; each
further root puts `LABEL//` before its ids, where the label is the shortest tail of the root's path that no earlier
root has. So same-named files never collide, and roots added at the end change no id. Bytes of a name that are not
UTF-8 are written `%XX`, and so is a percent sign that two hex digits follow: the id stays text, unique and reversible.
"""

import glob
import os
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.globs import glob_pattern
from tokenizer_jobs.storage import SkippedEntry, SourceFile, is_url, list_source_files, local_path, public_uri

__all__ = [
    "FileKind",
    "Root",
    "extension_of",
    "find_files",
    "id_from_path",
    "location_of",
    "path_from_id",
    "storable_uri",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileKind:
    """Which files of a folder are meant."""

    extensions: frozenset[str]
    """Lower case, without the dot."""
    wanted: str
    """What messages call their extensions, such as `an audio extension`."""
    named_like: str
    """What messages call folders with such extensions, such as `audio`."""
    such_as: tuple[str, ...] = ()
    """Extensions that the message names when nothing is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One entry of `paths`."""

    location: str
    """What is listed: an absolute path, or the URL as given."""
    folder: str
    """What ids are relative to: an absolute path, or a URL without its scheme."""
    is_single_file: bool
    label: str = ""
    """Stands before the ids of all roots but the first."""

    def relative(self, file: SourceFile) -> str:
        """The path of a file below the root."""
        path = file.location if local_path(file.location) is not None else _without_scheme(file.uri)
        prefix = self.folder.rstrip("/") + "/"
        return path.removeprefix(prefix)

    def id_of(self, file: SourceFile) -> str:
        """The id of a file; see the top of this module."""
        name = id_from_path(self.relative(file))
        return f"{self.label}//{name}" if self.label else name

    def identity(self, file: SourceFile) -> str:
        """The same for one file reached through two roots, one of which is a link to the other."""
        if local_path(file.location) is None:
            return file.uri
        return os.path.join(self.real_folder, self.relative(file))  # noqa: PTH118  # may hold any bytes

    @property
    def real_folder(self) -> str:
        """The folder without links, when local."""
        return self.folder if is_url(self.location) else _real_folder(self.folder)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def find_files(
    paths: Sequence[str], *, kind: FileKind, pattern: str | None = None, skipped: Counter[str]
) -> Iterator[tuple[SourceFile, Root]]:
    """Find the files of a kind under every path, each once, with the root that it belongs to.

    Args:
        paths: Local paths or URLs: folders, globs, or files.
        kind: What is meant; a file that is named outright is meant whatever its extension.
        pattern: Glob on the path below a folder; then it decides instead of the extension.
        skipped: Counts what is not meant, by kind.

    Raises:
        ConfigError: a path does not exist, may not be read, or holds nothing that is meant.
        TransientError: the storage failed.
    """
    roots = _name_roots(paths, kind.extensions)
    overlapping = _overlapping(roots)
    seen: set[bytes] = set()
    for path, root in zip(paths, roots, strict=True):
        num_items = num_skipped = 0
        for entry in _entries(path, root):
            why_not = _why_not(entry, root, kind=kind, pattern=pattern)
            if why_not is None and isinstance(entry, SourceFile):
                num_items += 1
                if root not in overlapping or _is_first(f"item {root.identity(entry)}", seen):
                    yield entry, root
            elif why_not:
                num_skipped += 1
                if root not in overlapping or _is_first(f"skipped {entry.uri}", seen):
                    skipped[why_not] += 1
        if num_items == 0:
            raise _nothing_found(path, kind, pattern, num_skipped=num_skipped)


def location_of(uri: str, paths: Iterable[str]) -> str:
    """What opens a stored URI: a signed URL opens with its query, which is in the configuration and is never stored."""
    if uri.startswith("file://"):
        return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))
    return next((path for path in paths if is_url(path) and public_uri(path) == uri), uri)


def storable_uri(file: SourceFile) -> str:
    """The URI of a file as text that can be stored: a path that is not UTF-8 is a `file://` URL."""
    try:
        file.uri.encode()
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote_from_bytes(os.fsencode(file.uri))
    return file.uri


def extension_of(path: str) -> str:
    """The extension of a path in lower case and without the dot; empty where there is none."""
    stem, _, extension = path.rstrip("/").rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


def id_from_path(path: str) -> str:
    """Write a relative path as text, reversibly: undecodable bytes, and `%` before two hex digits, become `%XX`."""
    escaped = re.sub(r"%(?=[0-9A-Fa-f]{2})", "%25", path) if "%" in path else path
    if escaped.isascii():  # of ten million names most are
        return escaped
    return "".join(f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in escaped)


def path_from_id(text: str) -> str:
    """The path that `id_from_path` was given."""
    content = re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    return os.fsdecode(content)


def _why_not(entry: SourceFile | SkippedEntry, root: Root, *, kind: FileKind, pattern: str | None) -> str | None:
    """The kind under which an entry is skipped; None for one that is meant, empty for what is not worth counting."""
    if isinstance(entry, SkippedEntry):
        if entry.kind != "folder":
            return entry.kind
        return f"folder named like {kind.named_like}" if extension_of(entry.uri) in kind.extensions else ""
    if root.is_single_file:
        return None
    if pattern is not None:
        is_match = glob_pattern(pattern).fullmatch(root.relative(entry))
        return None if is_match else "does not match the pattern"
    return None if extension_of(entry.location) in kind.extensions else f"not {kind.wanted}"


def _overlapping(roots: Iterable[Root]) -> frozenset[Root]:
    """Roots that may hold files of another one: its folder is theirs, above it or below it."""
    folders = {root: Path(root.real_folder) for root in roots}
    counts = Counter(folders.values())
    above = {parent for folder in counts for parent in folder.parents}
    return frozenset(
        root
        for root, folder in folders.items()
        if counts[folder] > 1 or folder in above or any(parent in counts for parent in folder.parents)
    )


def _is_first(name: str, seen: set[bytes]) -> bool:
    """Whether a name is met for the first time; 16 bytes of it are kept."""
    mark = blake2b(os.fsencode(name), digest_size=16).digest()
    if mark in seen:
        return False
    seen.add(mark)
    return True


def _entries(path: str, root: Root) -> Iterator[SourceFile | SkippedEntry]:
    try:
        yield from list_source_files(root.location)
    except PermissionError as error:
        raise ConfigError(
            f"selection.source.paths: {public_uri(path)!r} may not be read ({error.strerror}); "
            "change its permissions or the path"
        ) from error
    except FileNotFoundError as error:
        raise ConfigError(f"selection.source.paths: {public_uri(path)!r} does not exist") from error


def _nothing_found(path: str, kind: FileKind, pattern: str | None, *, num_skipped: int) -> ConfigError:
    such_as = f" ({' '.join(kind.such_as)})" if kind.such_as else ""
    expected = f"a file with {kind.wanted}{such_as}" if pattern is None else f"a file that matches pattern {pattern!r}"
    return ConfigError(
        f"selection.source.paths: nothing found at {public_uri(path)!r}; expected at least {expected}"
        f"; other entries there: {num_skipped:,}"
    )


def _name_roots(paths: Iterable[str], extensions: frozenset[str]) -> tuple[Root, ...]:
    roots: list[Root] = []
    for path in paths:
        root = _find_root(path, extensions)
        same = next((other for other in roots if other.folder == root.folder), None)
        label = same.label if same is not None else _label(root.folder, taken=roots)
        roots.append(replace(root, label=label))
    return tuple(roots)


def _label(folder: str, *, taken: Iterable[Root]) -> str:
    labels = {root.label for root in taken}
    if not labels:
        return ""
    parts = [part for part in folder.split("/") if part]
    tails = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]
    label = next((tail for tail in tails if tail not in labels), folder)
    return id_from_path(label)


def _find_root(path: str, extensions: frozenset[str]) -> Root:
    local = local_path(path)
    if local is None:
        base, is_glob = _fixed_part(_without_scheme(public_uri(path)))
        is_file = not is_glob and extension_of(base) in extensions
        return Root(location=path, folder=os.path.dirname(base) if is_file else base, is_single_file=is_file)  # noqa: PTH120
    absolute = local.expanduser().absolute()
    if ".." in absolute.parts:
        absolute = absolute.resolve()
    if absolute.exists():
        is_file = not absolute.is_dir()
        return Root(
            location=str(absolute), folder=str(absolute.parent if is_file else absolute), is_single_file=is_file
        )
    return Root(location=str(absolute), folder=_fixed_part(str(absolute))[0], is_single_file=False)


def _fixed_part(path: str) -> tuple[str, bool]:
    """The folders before the first wildcard, and whether there is one."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if glob.has_magic(part):
            return "/".join(parts[:index]) or "/", True
    return path.rstrip("/"), False


def _without_scheme(url: str) -> str:
    return url.split("::")[0].partition("://")[2].strip("/")
