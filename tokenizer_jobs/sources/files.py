"""Folders, globs and single files, local or behind any fsspec URL; see `roots` for which files, and their ids."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.item_columns import item_schema
from tokenizer_jobs.item_table import BATCH_ITEMS, ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import FilesSource
from tokenizer_jobs.sources.header import AUDIO_EXTENSIONS, HeaderFacts, estimate_seconds, read_header
from tokenizer_jobs.sources.listing import Listing, list_names
from tokenizer_jobs.sources.opening import open_planned
from tokenizer_jobs.sources.roots import (
    FileKind,
    extension_of,
    find_files,
    id_from_path,
    location_of,
    path_from_id,
    storable_uri,
)
from tokenizer_jobs.storage import is_url

__all__ = ["AudioFiles", "id_from_path", "path_from_id"]

_AUDIO = FileKind(extensions=AUDIO_EXTENSIONS, wanted="an audio extension", named_like="audio")
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
        names, estimated = list_names(self)
        return replace(names, items=estimated(ItemTable.of(names.items)))

    def list_names(self) -> Listing:
        """As `list`, without a look into any file: no duration is known yet."""
        skipped: Counter[str] = Counter()
        table = ItemTable.sort(_in_batches(self._rows(skipped)), schema=item_schema())
        return Listing(items=table, skipped=dict(skipped))

    def estimate(self, items: ItemTable) -> npt.NDArray[np.float64]:
        """Seconds of each item `[len(items)]`: by its header; by its bytes where that costs a request.

        Of many files every n-th header is read, and the others are taken to need as many bytes a second as those of
        their extension do. The table is in plan order, so the choice does not depend on the order of the listing.
        """
        return _estimates(items)

    def _rows(self, skipped: Counter[str]) -> Iterator[_Row]:
        found = find_files(self.config.paths, kind=_AUDIO, pattern=self.config.pattern, skipped=skipped)
        return ((root.id_of(file), storable_uri(file), file.size_bytes, file.etag) for file, root in found)

    def open(self, item: Item) -> IO[bytes]:
        """Open a file and check that it is the one that was planned; see `Source.open`."""
        return open_planned(item, location=self.file_location(item))

    def file_location(self, item: Item) -> str:
        """What opens the file of an item; see `HasFiles.file_location`."""
        return location_of(item.source_uri, self.config.paths)


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


def _estimates(table: ItemTable) -> npt.NDArray[np.float64]:
    headers = _read_headers(table)
    seconds, num_bytes = defaultdict[str, float](float), Counter[str]()
    for uri, size, header in headers.values():
        if header is not None and size:
            seconds[extension_of(uri)] += estimate_seconds(size, extension="", header=header)
            num_bytes[extension_of(uri)] += size
    rates = {extension: num_bytes[extension] / total for extension, total in seconds.items() if total > 0}
    found, place = np.empty(len(table), np.float64), 0
    for batch in table.batches(["source_uri", "source_size"]):
        for uri, size in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            extension = extension_of(uri)
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
    step = max(1, -(-len(table) // MOST_HEADERS))
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
