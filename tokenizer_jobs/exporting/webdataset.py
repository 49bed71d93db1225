"""WebDataset: tar archives of `KEY.codes.npy` (uint16 [K, T]) and `KEY.json` (the other columns)."""

import tarfile
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.exporting.destination import Destination
from tokenizer_jobs.exporting.keys import key_of
from tokenizer_jobs.exporting.rows import ExportedRows, json_line, rows_of

__all__ = ["ARCHIVE_BYTES", "npy_bytes", "write_webdataset"]

ARCHIVE_BYTES = 256 << 20
"""An archive ends with the sample that reaches this, so that there are enough of them to share out."""


def write_webdataset(rows: ExportedRows, destination: Destination) -> dict[str, Any]:
    """Write the rows as `shard-000000.tar` and so on; returns what the manifest says besides.

    The bytes depend on the rows alone: members have no time, no owner and the mode 644.
    """
    archives = _Archives(destination)
    with ExitStack() as stack:
        stack.push(archives.abandon)
        for batch in rows.batches():
            for row in rows_of(batch):
                key = key_of(row.id)
                archives.add(
                    (f"{key}.codes.npy", npy_bytes(row.codes)),
                    (f"{key}.json", json_line(row.columns)),
                )
    archives.close()
    return {"keys": "percent-encoded ids", "archives": archives.number, "members": ["codes.npy", "json"]}


def npy_bytes(codes: npt.NDArray[np.uint16]) -> bytes:
    """Codes [K, T] as the content of a `.npy` file, version 1.0: little-endian uint16, C order."""
    buffer = BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(codes, dtype="<u2"), version=(1, 0), allow_pickle=False)
    return buffer.getvalue()


class _Archives:
    """Archives that follow one another."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._size = 0
        self.number = 0

    def add(self, *members: tuple[str, bytes]) -> None:
        """Add a sample; its members stay together."""
        if self._tar is None:
            staged: Path = self._stack.enter_context(self._destination.new_file(f"shard-{self.number:06d}.tar"))
            tar = tarfile.open(staged, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # the stack closes it
            self._tar = self._stack.enter_context(tar)
            self.number, self._size = self.number + 1, 0
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            self._tar.addfile(entry, BytesIO(content))
            self._size += len(content)
        if self._size >= ARCHIVE_BYTES:
            self.close()

    def close(self) -> None:
        """End the archive that is open."""
        self._tar = None
        self._stack.close()

    def abandon(self, *error: Any) -> None:
        """Leave the archive that is open as it is, where something failed."""
        if error[0] is not None:
            self._stack.__exit__(*error)
