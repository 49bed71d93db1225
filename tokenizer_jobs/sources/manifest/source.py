"""Manifests: lists of recordings, or of cuts of them, in JSON lines, CSV or TSV, local or behind any fsspec URL.

manifests ──▶ lines ──▶ entries ──▶ types of the columns    in a first pass
                           └──────▶ items, in batches       in a second

No more than a batch of items is in memory. A local recording is looked at once for each batch that has it, so that
changes are noticed later; one behind a URL is not, since a million requests would cost more than they tell: its size
and etag are unknown, and a change goes unnoticed.
"""

import fnmatch
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_columns import item_schema, to_batch
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import ManifestSource
from tokenizer_jobs.sources.header import estimate_seconds
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.sources.manifest.columns import ColumnTypes, text_readers
from tokenizer_jobs.sources.manifest.dialects import reader_of
from tokenizer_jobs.sources.manifest.entries import Entry, Reader
from tokenizer_jobs.sources.manifest.lines import Line, read_lines
from tokenizer_jobs.sources.manifest.places import Place, Places, private_location
from tokenizer_jobs.sources.opening import open_planned
from tokenizer_jobs.sources.roots import FileKind, Root, extension_of, find_files, location_of
from tokenizer_jobs.storage import SourceFile, public_uri, stat_source

__all__ = ["Manifests"]

_IN_FOLDERS = frozenset({"jsonl", "ndjson", "csv", "tsv"})
_KIND = FileKind(
    extensions=_IN_FOLDERS | {"json", "gz"},
    wanted="a manifest's extension",
    named_like="a manifest",
    such_as=(".jsonl", ".ndjson", ".csv", ".tsv"),
)
_BATCH_ITEMS = 1 << 12
_STAT_THREADS = 16
"""A network file system answers after a millisecond, and many questions at once."""
_STATS_AT_ONCE = 64
_MOST_SHOWN = 50
_MISSING_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Manifest:
    file: SourceFile
    places: Places


@dataclass(frozen=True, slots=True)
class _Found:
    """An entry whose place is known."""

    entry: Entry
    place: Place
    is_text: bool


class Manifests:
    """The source of kind `manifest`.

    Args:
        config: `selection.source` of the job.
    """

    def __init__(self, config: ManifestSource) -> None:
        self.config = config

    def list(self) -> Listing:
        """List every line of every manifest; see `Source.list`.

        Raises:
            ConfigError: also where a line cannot be understood.
        """
        skipped: Counter[str] = Counter()
        manifests = self._manifests(skipped)
        user_schema = self._user_schema(manifests, skipped)
        schema, missing = item_schema(user_schema), _Missing()
        with ThreadPoolExecutor(_STAT_THREADS) as pool:
            batches = self._batches(manifests, schema=schema, user_schema=user_schema, pool=pool, missing=missing)
            table = ItemTable.sort(batches, schema=schema)
        return Listing(
            items=table,
            skipped=dict(skipped),
            user_schema=user_schema,
            num_missing=missing.num_items,
            missing_ids=tuple(missing.ids),
        )

    def open(self, item: Item) -> IO[bytes]:
        """Open a recording and check that it is the one that was planned; see `Source.open`."""
        return open_planned(item, location=self.file_location(item))

    def file_location(self, item: Item) -> str:
        """What opens the recording of an item; see `HasFiles.file_location`."""
        given = self.config.paths if self.config.root is None else (self.config.root,)
        return private_location(location_of(item.source_uri, ()), given)

    def _manifests(self, skipped: Counter[str]) -> tuple[_Manifest, ...]:
        """Every manifest under every path, in the order of the paths, then of the names."""
        found: dict[Root, list[SourceFile]] = {}
        for file, root in find_files(self.config.paths, kind=_KIND, skipped=skipped):
            files = found.setdefault(root, [])
            if root.is_single_file or _is_meant(file, root):
                files.append(file)
            else:
                skipped[f"not {_KIND.wanted}"] += 1
        roots = tuple(found)
        for root, files in found.items():
            if not files:
                raise ConfigError(
                    f"selection.source.paths: no manifest at {public_uri(root.location)!r}; expected .jsonl, .ndjson, "
                    ".csv or .tsv, also with .gz; a manifest with another extension has to be named itself"
                )
        return tuple(
            _Manifest(file, Places.of(file, root=self.config.root, roots=roots[: place + 1]))
            for place, files in enumerate(found.values())
            for file in sorted(files, key=lambda file: file.uri)
        )

    def _user_schema(self, manifests: Iterable[_Manifest], skipped: Counter[str]) -> pa.Schema:
        """Read every line once, for the types of all columns."""
        types, names, num_items = ColumnTypes(), set[str](), 0
        for manifest in manifests:
            reader, before = None, num_items
            for line, reader in self._lines(manifest):
                for entry in reader.entries(line):
                    types.see(line, entry.columns)
                    num_items += 1
            names |= reader.names if reader is not None else set()
            skipped.update({"manifest without lines": 1} if num_items == before else {})
        if not num_items:
            shown = ", ".join(map(public_uri, self.config.paths))
            raise ConfigError(f"selection.source.paths: no line in {shown}; expected one for each item")
        self._refuse_unknown(names)
        return types.schema(wanted=self.config.columns)

    def _refuse_unknown(self, names: set[str]) -> None:
        """Refuse columns that no line has: a name mistyped would change what every line means."""
        config = self.config
        for key, chosen in (
            ("start_column", (config.start_column,)),
            ("duration_column", (config.duration_column,)),
            ("columns", config.columns or ()),
        ):
            missing = [name for name in chosen if name is not None and name not in names]
            if missing:
                raise ConfigError(
                    f"selection.source.{key}: {missing[0]!r} is in no line; choose from "
                    f"{', '.join(sorted(names)[:_MOST_SHOWN])}"
                )

    def _lines(self, manifest: _Manifest) -> Iterator[tuple[Line, Reader]]:
        reader = None
        for line in read_lines(manifest.file):
            if reader is None:
                reader = reader_of(line, self.config)
            yield line, reader

    def _found(self, manifests: Iterable[_Manifest]) -> Iterator[_Found]:
        for manifest in manifests:
            for line, reader in self._lines(manifest):
                for entry in reader.entries(line):
                    yield _Found(entry, _place(line, entry, manifest.places), line.is_text)

    def _batches(
        self,
        manifests: Iterable[_Manifest],
        *,
        schema: pa.Schema,
        user_schema: pa.Schema,
        pool: Executor,
        missing: "_Missing",
    ) -> Iterator[pa.RecordBatch]:
        waiting, readers = self._found(manifests), text_readers(user_schema)
        while some := list(islice(waiting, _BATCH_ITEMS)):
            places = dict.fromkeys(found.place.location for found in some if found.place.location is not None)
            facts = dict(zip(places, _look_at(tuple(places), pool), strict=True))
            items = []
            for found in some:
                fact = facts.get(found.place.location or "")
                items.append(_item(found, fact, user_schema=user_schema, readers=readers))
                if fact is not None and fact.is_missing:
                    missing.add(items[-1].id)
            yield to_batch(items, schema=schema)


class _Missing:
    """Counts items whose file is not there, and keeps the ids of the first few."""

    def __init__(self) -> None:
        self.num_items = 0
        self.ids: list[str] = []

    def add(self, item_id: str) -> None:
        self.num_items += 1
        if len(self.ids) < _MISSING_SHOWN:
            self.ids.append(item_id)


def _is_meant(file: SourceFile, root: Root) -> bool:
    """Whether a file that was not named itself is a manifest: by its extension, or one that the glob names."""
    name = file.uri.rpartition("/")[2]
    inner = extension_of(name.removesuffix(".gz"))
    pattern = root.location.rpartition("/")[2]
    return inner in _IN_FOLDERS or ("." in pattern and "*" in pattern and fnmatch.fnmatchcase(name, pattern))


def _place(line: Line, entry: Entry, places: Places) -> Place:
    try:
        return places.find(entry.path)
    except UnicodeEncodeError as error:
        raise line.fault(f"path {entry.path!r:.200} holds characters that no path has ({error})") from error
    except ValueError:
        raise line.fault(
            "its URL has a query or a password, which may not be stored; write it without, and set them in "
            "selection.source.root, or let the environment grant the access"
        ) from None


@dataclass(frozen=True, slots=True)
class _Fact:
    size_bytes: int | None
    etag: str | None
    is_missing: bool


def _look_at(locations: tuple[str, ...], pool: Executor) -> Iterator[_Fact]:
    starts = range(0, len(locations), _STATS_AT_ONCE)
    for facts in pool.map(_look_at_some, (locations[start : start + _STATS_AT_ONCE] for start in starts)):
        yield from facts


def _look_at_some(locations: tuple[str, ...]) -> list[_Fact]:
    return [_look(location) for location in locations]


def _look(location: str) -> _Fact:
    try:
        file = stat_source(location)
    except (FileNotFoundError, NotADirectoryError):
        return _Fact(None, None, True)
    except OSError:  # forbidden, or a name that is too long: opening it says so again, and makes it a reject
        return _Fact(None, None, False)
    return _Fact(file.size_bytes, file.etag, False)


def _item(found: _Found, fact: _Fact | None, *, user_schema: pa.Schema, readers: dict[str, Any]) -> Item:
    entry, size = found.entry, None if fact is None else fact.size_bytes
    columns = {name: value for name, value in entry.columns.items() if value is not None}
    if found.is_text:
        columns = {name: readers[name](text) if name in readers else text for name, text in columns.items()}
    return Item(
        id=found.place.id + _cut_suffix(entry) if entry.id is None else entry.id,
        source_uri=found.place.uri,
        source_size=size,
        source_etag=None if fact is None else fact.etag,
        start_seconds=entry.start_seconds,
        duration_seconds=entry.duration_seconds,
        channel=entry.channel,
        estimated_seconds=_estimate(entry, size, extension=extension_of(found.place.uri)),
        user_columns={field.name: columns.get(field.name) for field in user_schema} if columns else {},
    )


def _cut_suffix(entry: Entry) -> str:
    """`@<start>-<stop>` in seconds; without a stop where the cut goes to the end."""
    if entry.start_seconds is None:
        return ""
    stop = "" if entry.duration_seconds is None else f"{entry.start_seconds + entry.duration_seconds:.3f}"
    return f"@{entry.start_seconds:.3f}-{stop}"


def _estimate(entry: Entry, size: int | None, *, extension: str) -> float:
    if entry.duration_seconds is not None:
        return entry.duration_seconds
    return max(0.0, estimate_seconds(size, extension=extension) - (entry.start_seconds or 0.0))
