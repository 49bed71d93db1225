"""Folders, globs and single files, local or behind any fsspec URL.

Ids. An item's id is its path relative to its root, with forward slashes. The root is the folder named in `paths`, the
part of a glob before its first wildcard, or the folder of a single file. Items of the first root have no prefix; each
further root puts `LABEL//` before its ids, where the label is the shortest tail of the root's path that no earlier
root has. So same-named files never collide, and roots added at the end change no id. Bytes of a name that are not
UTF-8 are written `%XX`, and so is a percent sign that two hex digits follow: the id stays text, unique and reversible.
"""

import glob
import os
import re
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage
from tokenizer_jobs.item_columns import item_schema
from tokenizer_jobs.item_table import BATCH_ITEMS, ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources.header import AUDIO_EXTENSIONS, HeaderFacts, estimate_seconds, read_header
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.storage import (
    SkippedEntry,
    SourceFile,
    is_url,
    list_source_files,
    local_path,
    open_source,
    public_uri,
    stat_source,
)

__all__ = ["AudioFiles", "id_from_path", "path_from_id"]

_PROBE_THREADS = 8
MOST_HEADERS = 20_000
"""Headers that one listing reads: a local one takes 0.1 ms from memory, and a seek where it must come from a disk."""

_Row = tuple[str, str, int | None, str | None]
"""Id, URI, size in bytes and etag."""


class AudioFiles:
    """The source of kind `files`.

    Args:
        config: `selection.source` of the job.
    """

    def __init__(self, config: FilesSource) -> None:
        self.config = config

    def list(self) -> Listing:
        """List every audio file under every path; see `Source.list`."""
        skipped: Counter[str] = Counter()
        table = ItemTable.sort(_in_batches(self._rows(skipped)), schema=item_schema())
        return Listing(items=table.with_seconds(_estimates(table)), skipped=dict(skipped))

    def _rows(self, skipped: Counter[str]) -> Iterator[_Row]:
        """Files that are items, each once; the others are counted by kind."""
        roots = _name_roots(self.config.paths)
        overlapping = _overlapping(roots)
        seen: set[bytes] = set()
        for path, root in zip(self.config.paths, roots, strict=True):
            num_items = num_skipped = 0
            for entry in _entries(path, root):
                kind = self._why_not(entry, root)
                if kind is None and isinstance(entry, SourceFile):
                    num_items += 1
                    if root not in overlapping or _is_first(f"item {root.identity(entry)}", seen):
                        yield _row(entry, root)
                elif kind:
                    num_skipped += 1
                    if root not in overlapping or _is_first(f"skipped {entry.uri}", seen):
                        skipped[kind] += 1
            if num_items == 0:
                raise _nothing_found(path, self.config.pattern, num_skipped=num_skipped)

    def open(self, item: Item) -> IO[bytes]:
        """Open a file and check that it is the one that was planned; see `Source.open`."""
        location = self._location(item.source_uri)
        file = open_source(location)
        if item.source_etag is None:
            return file
        try:
            etag = stat_source(location).etag
        except BaseException:
            file.close()
            raise
        if etag != item.source_etag:
            file.close()
            raise ItemError(
                f"version {etag}, {item.source_etag} when it was planned; the item keeps what this output has, "
                "write to a new output to take the new input",
                stage=Stage.READ,
                reason=RejectReason.CHANGED,
            )
        return file

    def _location(self, uri: str) -> str:
        if uri.startswith("file://"):
            return os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))
        # A signed URL opens with its query, which is in the configuration and is never stored.
        return next((path for path in self.config.paths if is_url(path) and public_uri(path) == uri), uri)

    def _why_not(self, entry: SourceFile | SkippedEntry, root: "_Root") -> str | None:
        """The kind under which an entry is skipped; None for an item, an empty text for what is not worth counting."""
        if isinstance(entry, SkippedEntry):
            if entry.kind != "folder":
                return entry.kind
            return "folder named like audio" if _extension(entry.uri) in AUDIO_EXTENSIONS else ""
        if root.is_single_file:
            return None
        if self.config.pattern is not None:
            is_match = _pattern(self.config.pattern).fullmatch(root.relative(entry))
            return None if is_match else "does not match the pattern"
        return None if _extension(entry.location) in AUDIO_EXTENSIONS else "not an audio extension"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Root:
    """One entry of `paths`."""

    location: str
    """What is listed: an absolute path, or the URL as given."""
    folder: str
    """What ids are relative to: an absolute path, or a URL without its scheme."""
    is_single_file: bool
    label: str = ""
    """Stands before the ids of all roots but the first."""

    def relative(self, file: SourceFile) -> str:
        path = file.location if local_path(file.location) is not None else _without_scheme(file.uri)
        prefix = self.folder.rstrip("/") + "/"
        return path.removeprefix(prefix)

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


def _row(file: SourceFile, root: _Root) -> _Row:
    name = id_from_path(root.relative(file))
    return f"{root.label}//{name}" if root.label else name, _storable_uri(file), file.size_bytes, file.etag


def _in_batches(rows: Iterator[_Row]) -> Iterator[pa.RecordBatch]:
    """Rows as batches of items whose duration is not known yet."""
    schema = item_schema()
    while some := list(islice(rows, BATCH_ITEMS)):
        columns = dict(zip(("id", "source_uri", "source_size", "source_etag"), zip(*some, strict=True), strict=True))
        columns["estimated_seconds"] = (0.0,) * len(some)
        arrays = [
            pa.array(columns[field.name], type=field.type) if field.name in columns else pa.nulls(len(some), field.type)
            for field in schema
        ]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _overlapping(roots: Iterable[_Root]) -> frozenset[_Root]:
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


def _storable_uri(file: SourceFile) -> str:
    try:
        file.uri.encode()
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote_from_bytes(os.fsencode(file.uri))
    return file.uri


def _estimates(table: ItemTable) -> npt.NDArray[np.float64]:
    """Seconds of each item: by its header; by its bytes where that would cost a request, or with many files.

    Of many files every n-th header is read, and the others are taken to need as many bytes a second as those of
    their extension do. The table is in plan order, so the choice does not depend on the order of the listing.
    """
    headers = _read_headers(table)
    seconds, num_bytes = defaultdict[str, float](float), Counter[str]()
    for uri, size, header in headers.values():
        if header is not None and size:
            seconds[_extension(uri)] += estimate_seconds(size, extension="", header=header)
            num_bytes[_extension(uri)] += size
    rates = {extension: num_bytes[extension] / total for extension, total in seconds.items() if total > 0}
    found, place = np.empty(len(table), np.float64), 0
    for batch in table.batches(["source_uri", "source_size"]):
        for uri, size in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            extension = _extension(uri)
            if place in headers:
                found[place] = estimate_seconds(size, extension=extension, header=headers[place][2])
            elif extension in rates and not is_url(uri):
                found[place] = (size or 0) / rates[extension]
            else:
                found[place] = estimate_seconds(size, extension=extension)
            place += 1
    return found


def _read_headers(table: ItemTable) -> dict[int, tuple[str, int | None, HeaderFacts | None]]:
    """URI, size and header of local files, by their place in the table; of many files some, evenly chosen."""
    # A file on another machine costs a request for its header; its size tells enough.
    step = -(-len(table) // MOST_HEADERS)
    chosen, place = dict[int, tuple[str, int | None]](), 0
    for batch in table.batches(["source_uri", "source_size"]):
        for row in range(-place % step, batch.num_rows, step):
            uri, size = (column[row].as_py() for column in batch.columns)
            if not is_url(uri):
                chosen[place + row] = uri, size
        place += batch.num_rows
    with ThreadPoolExecutor(_PROBE_THREADS) as pool:
        headers = pool.map(read_header, (uri for uri, _ in chosen.values()))
        return {place: (*facts, header) for (place, facts), header in zip(chosen.items(), headers, strict=True)}


def _entries(path: str, root: _Root) -> Iterator[SourceFile | SkippedEntry]:
    try:
        yield from list_source_files(root.location)
    except PermissionError as error:
        raise ConfigError(
            f"selection.source.paths: {public_uri(path)!r} may not be read ({error.strerror}); "
            "change its permissions or the path"
        ) from error
    except FileNotFoundError as error:
        raise ConfigError(f"selection.source.paths: {public_uri(path)!r} does not exist") from error


def _nothing_found(path: str, pattern: str | None, *, num_skipped: int) -> ConfigError:
    expected = "a file with an audio extension" if pattern is None else f"a file that matches pattern {pattern!r}"
    return ConfigError(
        f"selection.source.paths: nothing found at {public_uri(path)!r}; expected at least {expected} "
        f"({num_skipped} other entries are there)"
    )


def _name_roots(paths: Iterable[str]) -> tuple[_Root, ...]:
    roots: list[_Root] = []
    for path in paths:
        root = _find_root(path)
        same = next((other for other in roots if other.folder == root.folder), None)
        label = same.label if same is not None else _label(root.folder, taken=roots)
        roots.append(replace(root, label=label))
    return tuple(roots)


def _label(folder: str, *, taken: Iterable[_Root]) -> str:
    labels = {root.label for root in taken}
    if not labels:
        return ""
    parts = [part for part in folder.split("/") if part]
    tails = ["/".join(parts[-length:]) for length in range(1, len(parts) + 1)]
    label = next((tail for tail in tails if tail not in labels), folder)
    return id_from_path(label)


def _find_root(path: str) -> _Root:
    local = local_path(path)
    if local is None:
        base, is_glob = _fixed_part(_without_scheme(public_uri(path)))
        is_file = not is_glob and _extension(base) in AUDIO_EXTENSIONS
        return _Root(location=path, folder=os.path.dirname(base) if is_file else base, is_single_file=is_file)  # noqa: PTH120
    absolute = local.expanduser().absolute()
    if ".." in absolute.parts:
        absolute = absolute.resolve()
    if absolute.exists():
        is_file = not absolute.is_dir()
        return _Root(
            location=str(absolute), folder=str(absolute.parent if is_file else absolute), is_single_file=is_file
        )
    return _Root(location=str(absolute), folder=_fixed_part(str(absolute))[0], is_single_file=False)


def _fixed_part(path: str) -> tuple[str, bool]:
    """The folders before the first wildcard, and whether there is one."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if glob.has_magic(part):
            return "/".join(parts[:index]) or "/", True
    return path.rstrip("/"), False


def _without_scheme(url: str) -> str:
    return url.split("::")[0].partition("://")[2].strip("/")


def _extension(path: str) -> str:
    stem, _, extension = path.rstrip("/").rpartition("/")[2].rpartition(".")
    return extension.lower() if stem else ""


@lru_cache(maxsize=64)
def _pattern(pattern: str) -> re.Pattern[str]:
    """A glob on relative paths: `**/` is any number of folders, `*` and `?` stay within one name."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    return re.compile("".join(_translate(piece) for piece in pieces), re.DOTALL)


def _translate(piece: str) -> str:
    if piece in _WILDCARDS:
        return _WILDCARDS[piece]
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        inside = piece[1:-1].replace("\\", r"\\")
        return "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]"
    return re.escape(piece)


_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
