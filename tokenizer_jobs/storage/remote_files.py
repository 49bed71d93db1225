"""Remote files whose faults are told from those of what is in them."""

import io
from typing import IO, Any

from tokenizer_jobs.storage.faults import remote_faults

__all__ = ["RemoteFile"]


class RemoteFile(io.RawIOBase):
    """A remote file, open for reading; what fails while it is read is told apart as what fails at the opening.

    Args:
        file: As fsspec opened it.
        where: What messages call it: a URL without credentials.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        super().__init__()
        self._file = file
        self._where = where

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes; -1: all that are left."""
        with remote_faults(self._where):
            return self._file.read(size)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file goes; gives the bytes read."""
        with remote_faults(self._where):
            return int(self._file.readinto(buffer))  # type: ignore[attr-defined]  # fsspec's files have it

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, without a request."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place that is read next."""
        return self._file.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Close the file below."""
        self._file.close()
        super().close()
