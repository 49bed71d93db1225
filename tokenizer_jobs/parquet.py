"""Reading Parquet through Python file objects: in the calling thread, and in no other.

Arrow's own threads may let go of a Python buffer a moment after the read has returned. When the interpreter is just
ending they then wait for its lock, are cancelled there, and abort the process ("terminate called without an active
exception"; pyarrow 26.0.1, seen in 2 of 12 runs). So no read here uses Arrow's threads or its read-ahead.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["open_parquet", "read_row_groups"]


def open_parquet(file: Any, *, buffer_bytes: int = 0) -> pq.ParquetFile:
    """Open a Parquet file; page checksums are verified where they are stored.

    Args:
        file: A file object of Python, or of Arrow.
        buffer_bytes: Read each column that much at a time; 0 reads the whole of it in a row group at once.
    """
    return pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False, buffer_size=buffer_bytes)


def read_row_groups(
    parquet: pq.ParquetFile, *, columns: Sequence[str] | None = None, first: int = 0
) -> Iterator[pa.Table]:
    """Read row groups in order, one at a time.

    Args:
        parquet: From `open_parquet`.
        columns: Names to read, in this order; None reads all.
        first: The row group to begin with.
    """
    names: Any = None if columns is None else list(columns)
    for group in range(first, parquet.num_row_groups):
        table = parquet.read_row_group(group, columns=names, use_threads=False)
        yield table if names is None else table.select(names)
