"""The records of a folder, read together: those that an index beside it holds by one request, the others one by one.

_commits/000001/<unit>.json     what counts
_commits/000001.parquet         a copy of the records, each with the size and time that the listing gives its file

The index is only a copy. A record whose file has another size or time by now is read again, and without an index all
are: 50,000 requests in place of 52. Outputs on local disks have none, since opening a file costs nothing there.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.parquet import open_parquet
from tokenizer_jobs.storage import Storage

__all__ = ["Version", "index_path", "list_records", "read_listed", "read_records", "write_index"]

REMOTE_READERS = 64
"""Requests under way: at 50 ms each, 50,000 records come in 40 s where no index has them."""

_COLUMNS = pa.schema(
    [("path", pa.string()), ("size_bytes", pa.int64()), ("modified", pa.float64()), ("content", pa.binary())]
)

Version = tuple[int, float]
"""Size and time of a file, as the listing gives them."""


def index_path(folder: str) -> str:
    """Where the index of a folder of records is."""
    return f"{folder}.parquet"


def read_records(storage: Storage, folder: str) -> Iterator[tuple[str, bytes]]:
    """Path and content of every JSON record in a folder, in the order of paths.

    Raises:
        IntegrityError: the index is damaged.
    """
    yield from read_listed(storage, folder, list_records(storage, folder))


def list_records(storage: Storage, folder: str) -> dict[str, Version]:
    """The JSON records of a folder by path, in order, by one listing."""
    return {file.path: (file.size_bytes, file.modified) for file in storage.list(folder) if _is_record(file.path)}


def read_listed(
    storage: Storage, folder: str, listed: Mapping[str, Version], *, by_index: bool = True
) -> Iterator[tuple[str, bytes]]:
    """As `read_records`, of records that were listed.

    Args:
        storage: The output.
        folder: Of the records.
        listed: Some of its records.
        by_index: Whether to look into the index: it holds all, and is no gain for a few.
    """
    if storage.is_local:
        yield from ((path, storage.read_bytes(path)) for path in listed)
        return
    copies = _read_index(storage, folder, listed=listed) if by_index and listed else {}
    with ThreadPoolExecutor(REMOTE_READERS, thread_name_prefix="records") as pool:
        waiting = deque[tuple[str, bytes | Future[bytes]]]()
        for path in listed:
            waiting.append((path, copies.pop(path) if path in copies else pool.submit(storage.read_bytes, path)))
            if len(waiting) > 2 * REMOTE_READERS:
                yield _done(*waiting.popleft())
        yield from (_done(path, content) for path, content in waiting)


def write_index(storage: Storage, folder: str, contents: Mapping[str, bytes]) -> None:
    """Copy the records of a folder into its index.

    Crash points: the index is replaced in one step, and any mixture of old and new records under an index is read
    rightly, since each copy is compared with its file's listing.

    Args:
        storage: The output.
        folder: Of the records.
        contents: By path; those whose file is gone are left out.
    """
    files = [file for file in storage.list(folder) if file.path in contents]
    columns = [
        [file.path for file in files],
        [file.size_bytes for file in files],
        [file.modified for file in files],
        [contents[file.path] for file in files],
    ]
    content = BytesIO()
    table = pa.table([pa.array(*pair) for pair in zip(columns, _COLUMNS.types, strict=True)], schema=_COLUMNS)
    pq.write_table(table, content, compression="zstd", use_dictionary=False, write_page_checksum=True)
    storage.replace(index_path(folder), content.getvalue())


def _read_index(storage: Storage, folder: str, *, listed: Mapping[str, Version]) -> dict[str, bytes]:
    path = index_path(folder)
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        return {}
    try:
        with open_parquet(BytesIO(content)) as parquet:
            rows = parquet.read(use_threads=False)
            columns = (rows.column(name).to_pylist() for name in _COLUMNS.names)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); delete it: it is made anew by the next run") from error
    return {
        path: record
        for path, size_bytes, modified, record in zip(*columns, strict=True)
        if listed.get(path) == (size_bytes, modified)
    }


def _is_record(path: str) -> bool:
    return path.endswith(".json")


def _done(path: str, content: "bytes | Future[bytes]") -> tuple[str, bytes]:
    return path, content.result() if isinstance(content, Future) else content
