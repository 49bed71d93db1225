"""Where the audio of a manifest's lines is: URIs from paths as lines have them, and ids from URIs.

A relative path starts from `root`, else from the folder of its manifest; `..` leads where the file system would lead.
An id is the path below `root`, else below the folders named in `paths` up to the manifest's own, as `roots` has it for
files; of audio that is elsewhere it is the absolute path, or the URL without its scheme.
"""

import os
import posixpath
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from tokenizer_jobs.sources.roots import Root, id_from_path, storable_uri
from tokenizer_jobs.storage import SourceFile, is_url, local_path, public_uri

__all__ = ["Place", "Places", "private_location"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one recording is."""

    uri: str
    """What is stored."""
    location: str | None
    """Absolute path when local."""
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """The places that paths of one manifest lead to."""

    folder: str
    """What relative paths start from: an absolute path, or a URL without what grants access."""
    known: Sequence[tuple[str, str]]
    """What ids are relative to, and what stands before them; the first that holds the file counts."""

    @classmethod
    def of(cls, manifest: SourceFile, *, root: str | None, roots: Sequence[Root]) -> "Places":
        """Places of a manifest; `root` comes before its own folder."""
        if root is None:
            local = local_path(manifest.location)
            folder = _joined(manifest.uri, "..") if local is None else str(local.parent)
            known = [(_as_prefix(root.folder), f"{root.label}//" if root.label else "") for root in roots]
            return cls(folder=folder, known=known)
        local = local_path(root)
        folder = public_uri(root) if local is None else _without_dots(str(local.expanduser().absolute()))
        return cls(folder=folder, known=[(_as_prefix(_address(folder) if local is None else folder), "")])

    def find(self, path: str) -> Place:
        """Where a path leads.

        Raises:
            ValueError: it is a URL that may not be stored, since it holds what grants access.
            UnicodeEncodeError: it holds characters that no path has.
        """
        local = _local(path) if "::" in path or "://" in path else path
        if local is None or (is_url(self.folder) and not local.startswith("/")):
            uri = path if local is None else _joined(self.folder, local)
            if public_uri(uri) != uri:
                raise ValueError("a URL with a query or a password")
            return Place(uri, None, self._id(_address(uri)))
        location = _without_dots(local if local.startswith("/") else f"{self.folder}/{local}")
        return Place(_storable(location), location, self._id(location))

    def _id(self, name: str) -> str:
        for prefix, label in self.known:
            if name.startswith(prefix):
                return label + id_from_path(name[len(prefix) :])
        return id_from_path(name)


def private_location(uri: str, given: Iterable[str]) -> str:
    """What opens a stored URI: with the password or the query of a folder above it that the configuration has."""
    for folder in given:
        public = public_uri(folder)
        if public == folder or "::" in folder:
            continue
        address, mark, query = folder.partition("?")
        below = uri.removeprefix(public.rstrip("/") + "/")
        if below != uri:
            return f"{address.rstrip('/')}/{below}{mark}{query}"
    return uri


def _local(path: str) -> str | None:
    """A path as the operating system has it, also from a `file://` URL; None of other URLs."""
    if path.startswith("file://"):
        return os.fsdecode(urllib.parse.unquote_to_bytes(path.removeprefix("file://")))
    local = local_path(path)
    return None if local is None else path.removeprefix("local://")


def _without_dots(path: str) -> str:
    """A path without `.` and `..`. Where a link stands before `..`, it leads where the file system would lead."""
    if "/." not in path and "//" not in path:
        return path
    head, dots, tail = path.rpartition("/../")
    return os.path.normpath(f"{_resolved(head + '/..')}/{tail}" if dots else path).replace("//", "/")


@lru_cache(maxsize=4096)
def _resolved(folder: str) -> str:
    plain, real = os.path.normpath(folder), os.path.realpath(folder)
    return plain if os.path.realpath(plain) == real else real


def _joined(folder: str, path: str) -> str:
    """A URL below a folder, `..` taken out; of a chain of URLs the first with a scheme is the folder."""
    links = folder.split("::")
    place = next((place for place, link in enumerate(links) if "://" in link), 0)
    scheme, mark, address = links[place].partition("://")
    leading = "/" if address.startswith("/") else ""
    joined = posixpath.normpath(f"/{address.strip('/')}/{path}").lstrip("/")
    return "::".join([*links[:place], f"{scheme}{mark}{leading}{joined}", *links[place + 1 :]])


def _storable(location: str) -> str:
    if location.isascii():
        return location
    return storable_uri(SourceFile(uri=location, size_bytes=None, etag=None, location=location))


def _as_prefix(folder: str) -> str:
    return folder.rstrip("/") + "/"


def _address(url: str) -> str:
    return url.split("::")[0].partition("://")[2].strip("/")
