"""WebDataset archives, local or behind any fsspec URL: `.tar` read by ranges, `.tar.gz` (bz2, xz) unpacked as it goes.

Items and ids. Every audio member of a sample is an item; its id is the id of the archive, as of a file of kind
`files` (the path relative to its root), then `/` and the member's name. So ids do not depend on where a member lies
in its archive, and same-named members of several archives never collide. `source_member` is that name and `source_row`
the first byte of the member's content in the unpacked archive, by which it is found again.

Columns. `KEY.json`, `KEY.txt` and `KEY.cls` of an item's sample. A column has one type over all archives.

A compressed archive stays in one unit (`source_group`), for it can only be read from its beginning.

Nothing is lost in silence: members that are no items, and archives that end early, are counted as skipped.
"""

import json
import math
import tempfile
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.item_columns import item_schema
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import TarSource
from tokenizer_jobs.sources.archives.braces import expand_braces
from tokenizer_jobs.sources.archives.index import Sample, TarIndex
from tokenizer_jobs.sources.archives.kept import KeptArchives, PlainArchive, unpacking
from tokenizer_jobs.sources.archives.sidecars import SIDECARS, ColumnTypes
from tokenizer_jobs.sources.header import HeaderFacts, estimate_seconds
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.sources.roots import FileKind, extension_of, find_files, id_from_path, location_of, storable_uri
from tokenizer_jobs.storage import SourceFile, local_write_faults, public_uri

__all__ = ["TarArchives"]

BATCH_ROWS = 1 << 13
INDEXED_AT_ONCE = 8

_ENDINGS = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_KIND = FileKind(
    extensions=frozenset(ending.rpartition(".")[2] for ending in _ENDINGS),
    wanted="the extension of an archive",
    named_like="an archive",
    such_as=_ENDINGS,
)

_SHARED = ("id", "source_uri", "source_member", "source_row", "source_size", "source_etag", "source_group")
_ROW = pa.schema(
    [*map(item_schema().field, _SHARED), pa.field("extension", pa.string()), pa.field("columns", pa.string())]
)
"""Facts on one item as an index gives them; `columns` is a JSON object until all types are known."""


class TarArchives:
    """The source of kind `tar`.

    Args:
        config: `selection.source` of the job.
    """

    def __init__(self, config: TarSource) -> None:
        self.config = config
        self._archives = KeptArchives()
        self._lock = threading.Lock()
        self._paths: tuple[str, ...] | None = None

    def list(self) -> Listing:
        """List the audio members of every archive; see `Source.list`."""
        skipped = Counter[str]()
        with _Collected(_wanted_sidecars(self.config.columns)) as collected:
            for found in _ahead(collected, self._find_archives(skipped), columns=self.config.columns):
                skipped += found
            if not collected.num_rows:
                raise _nothing_found(self.config.paths, skipped)
            user_schema = _chosen(collected.types.schema(), self.config.columns)
            items = ItemTable.sort(collected.batches(user_schema), schema=item_schema(user_schema))
        return Listing(items=items, skipped=dict(skipped), user_schema=user_schema)

    def open(self, item: Item) -> IO[bytes]:
        """Open a member of an archive; see `Source.open`."""
        if item.source_row is None or item.source_size is None:
            raise IntegrityError(f"item {item.id!r} does not say where in {item.source_uri!r} it is")
        with self._lock:
            if self._paths is None:
                signed = (path for path in expand_braces(self.config.paths) if public_uri(path) != path)
                self._paths = tuple(signed)
        archive = self._archives.get(location_of(item.source_uri, self._paths), etag=item.source_etag)
        return archive.member(item.source_row, item.source_size)

    def _find_archives(self, skipped: Counter[str]) -> "Iterator[_Archive]":
        paths = expand_braces(self.config.paths)
        for file, root in find_files(paths, kind=_KIND, skipped=skipped):
            if root.is_single_file or file.location.lower().endswith(_ENDINGS):
                yield _Archive(id=root.id_of(file), uri=storable_uri(file), file=file)
            else:
                skipped[f"not {_KIND.wanted}"] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Archive:
    id: str
    uri: str
    file: SourceFile


@dataclass(slots=True)
class _Collected:
    """Rows of all archives in a file without a name, and what is learned from all of them."""

    sidecars: frozenset[str]
    types: ColumnTypes = field(default_factory=ColumnTypes)
    num_rows: int = 0
    _headers: list[tuple[str, int, HeaderFacts]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _file: Any = None
    _writer: Any = None

    def __enter__(self) -> "_Collected":
        self._file = tempfile.TemporaryFile(prefix="tokenizer-jobs-index-")
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1), use_threads=False)
        self._writer = pa.ipc.new_stream(self._file, _ROW, options=options)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        batch = pa.RecordBatch.from_pylist(rows, schema=_ROW)
        with self._lock, local_write_faults(tempfile.gettempdir()):
            self._writer.write_batch(batch)
            self.num_rows += len(rows)

    def learn(self, headers: Sequence[tuple[str, int, HeaderFacts]]) -> None:
        with self._lock:
            self._headers += headers

    def batches(self, user_schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows as batches of `item_schema`, in the order in which they came."""
        rates, schema = self._rates(), item_schema(user_schema)
        self._writer.close()
        self._file.seek(0)
        for batch in pa.ipc.open_stream(self._file):
            yield _item_batch(batch, rates=rates, schema=schema, user_schema=user_schema)

    def _rates(self) -> dict[str, float]:
        """Bytes a second of each extension, by the headers that were read; in no order, so sums are exact."""
        sizes, seconds = defaultdict[str, int](int), defaultdict[str, "list[float]"](list)
        for extension, size, header in self._headers:
            sizes[extension] += size
            seconds[extension].append(estimate_seconds(size, extension=extension, header=header))
        totals = {extension: math.fsum(some) for extension, some in seconds.items()}
        return {extension: sizes[extension] / total for extension, total in totals.items() if total > 0}


def _item_batch(
    batch: pa.RecordBatch, *, rates: Mapping[str, float], schema: pa.Schema, user_schema: pa.Schema
) -> pa.RecordBatch:
    facts = zip(batch.column("extension").to_pylist(), batch.column("source_size").to_pylist(), strict=True)
    seconds = [
        size / rates[extension] if extension in rates else estimate_seconds(size, extension=extension)
        for extension, size in facts
    ]
    known = {name: batch.column(name) for name in _ROW.names}
    known["estimated_seconds"] = pa.array(seconds, pa.float64())
    if len(user_schema):
        values = [json.loads(text) for text in known["columns"].to_pylist()]
        known["user_columns"] = pa.array(values, pa.struct(list(user_schema)))
    arrays = [known.get(field.name, pa.nulls(len(batch), field.type)) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _ahead(
    collected: _Collected, archives: Iterator[_Archive], *, columns: tuple[str, ...] | None
) -> Iterator[Counter[str]]:
    """What was skipped in each archive; several are indexed at a time."""
    waiting = deque[Future[Counter[str]]]()
    with ThreadPoolExecutor(INDEXED_AT_ONCE, thread_name_prefix="index") as pool:
        try:
            for archive in archives:
                if len(waiting) == 2 * INDEXED_AT_ONCE:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(_index, archive, collected, columns))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for unread in waiting:
                unread.cancel()


def _index(archive: _Archive, collected: _Collected, columns: tuple[str, ...] | None) -> Counter[str]:
    try:
        return _read_index(archive, collected, columns)
    except FileNotFoundError:
        return Counter({"vanished archive": 1})
    except OSError as error:
        forbidden = isinstance(error, PermissionError)
        return Counter({"archive without permission" if forbidden else "archive that cannot be read": 1})


def _read_index(archive: _Archive, collected: _Collected, columns: tuple[str, ...] | None) -> Counter[str]:
    """Read one archive from its beginning to its end."""
    stored = PlainArchive(archive.file)
    unpacked = unpacking(stored.whole())
    index = TarIndex(
        file=stored.whole() if unpacked is None else unpacked,
        is_packed=unpacked is not None,
        name=stored.where,
        sidecars=collected.sidecars,
    )
    rows = list[dict[str, Any]]()
    for sample in index.samples():
        rows += _rows(sample, archive, collected.types, columns=columns, group=None if unpacked is None else 0)
        if len(rows) >= BATCH_ROWS:
            collected.append(rows)
            rows = []
    if rows:
        collected.append(rows)
    collected.learn(index.headers)
    if unpacked is not None:
        unpacked.close()
    return index.skipped


def _rows(
    sample: Sample, archive: _Archive, types: ColumnTypes, *, columns: tuple[str, ...] | None, group: int | None
) -> Iterator[dict[str, Any]]:
    chosen = (
        sample.columns if columns is None else {key: sample.columns[key] for key in columns if key in sample.columns}
    )
    types.learn(chosen, name=sample.origin)
    text = json.dumps(chosen, ensure_ascii=False)
    for member in sample.audio:
        name = id_from_path(member.name)
        yield {
            "id": f"{archive.id}/{name}",
            "source_uri": archive.uri,
            "source_member": member.name if _is_text(member.name) else name,
            "source_row": member.offset,
            "source_size": member.size,
            "source_etag": archive.file.etag,
            "source_group": group,
            "extension": extension_of(member.name),
            "columns": text,
        }


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wanted_sidecars(columns: tuple[str, ...] | None) -> frozenset[str]:
    if columns is None:
        return SIDECARS
    return frozenset(columns) & {"txt", "cls"} | ({"json"} if set(columns) - {"txt", "cls"} else set())


def _chosen(found: pa.Schema, columns: tuple[str, ...] | None) -> pa.Schema:
    if columns is None:
        return found
    if missing := [name for name in columns if name not in found.names]:
        raise ConfigError(
            f"selection.source.columns: no file beside the audio has {', '.join(missing)}; expected keys of KEY.json, "
            "`txt` for KEY.txt or `cls` for KEY.cls, or leave it out to pass through all that there are"
        )
    return pa.schema([found.field(name) for name in columns])


def _nothing_found(paths: Sequence[str], skipped: Counter[str]) -> ConfigError:
    shown = ", ".join(repr(public_uri(path)) for path in paths[:3])
    seen = "; ".join(f"{kind}: {count}" for kind, count in sorted(skipped.items()))
    return ConfigError(
        f"selection.source.paths: no audio in the archives at {shown}; expected members with an audio extension "
        f"({seen or 'the archives are empty'})"
    )
