"""Archives that are open for reading: a plain one by ranges, a compressed one as far as it was unpacked.

A compressed archive can only be read from its beginning, and the plan's order of its members is not the archive's. So
it is unpacked once, up to the end of the member that is asked for, into a file without a name in the folder for
temporary files; members are ranges of that file, in any order and again and again.
"""

import bz2
import gzip
import lzma
import os
import tempfile
import threading
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import IO, Any, Protocol, cast

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.sources.archives.stretch import open_stretch
from tokenizer_jobs.storage import SourceFile, local_path, local_write_faults, open_source, public_uri, stat_source
from tokenizer_jobs.storage.faults import local_read_faults, remote_faults

__all__ = ["Archive", "KeptArchives", "PlainArchive", "is_damage", "unpacking"]

UNPACKED_AT_ONCE = 1 << 20
KEPT_ARCHIVES = 4

_COMPRESSIONS: tuple[tuple[bytes, Callable[[IO[bytes]], IO[bytes]]], ...] = (
    (b"\x1f\x8b", lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file))),
    (b"BZh", lambda file: cast(IO[bytes], bz2.BZ2File(file))),
    (b"\xfd7zXZ\0", lambda file: cast(IO[bytes], lzma.LZMAFile(file))),  # noqa: SIM115  # its caller closes it
)


def unpacking(file: IO[bytes]) -> Any:
    """The unpacked content of an archive that is compressed, by its first bytes; None for a plain one."""
    head = file.read(6)
    file.seek(0)
    return next((unpack(file) for magic, unpack in _COMPRESSIONS if head.startswith(magic)), None)


def is_damage(error: BaseException) -> bool:
    """Whether an error of unpacking is about the bytes, not about the storage that gave them."""
    if isinstance(error, OSError):  # gzip and bz2 raise it with a text alone
        return error.errno is None
    return isinstance(error, EOFError | zlib.error | lzma.LZMAError)


class Archive(Protocol):
    """An archive whose members can be read."""

    etag: str | None

    def member(self, offset: int, size: int) -> IO[bytes]:
        """Open `size` bytes from `offset` of the unpacked archive.

        Raises:
            ItemError: the archive ends before, or is damaged there.
        """


class PlainArchive:
    """Ranges of a file that stays open; it goes with the last of its members.

    A local file is read at places without moving in it. A remote one is open once for each thread that reads.
    """

    def __init__(self, found: SourceFile) -> None:
        self.size, self.etag, self.where = found.size_bytes or 0, found.etag, public_uri(found.location)
        self.is_local = local_path(found.location) is not None
        self.is_broken = False
        self._location = found.location
        self._idle: list[IO[bytes]] = []
        self._lock = threading.Lock()
        weakref.finalize(self, _close_all, self._idle)
        self._idle.append(open_source(self._location, block_bytes=1))

    def member(self, offset: int, size: int) -> IO[bytes]:
        """See `Archive.member`."""
        if offset + size > self.size:
            raise _cut(f"the archive ends after {max(0, self.size - offset)} of the member's {size} bytes")
        return open_stretch(self.fetch, start=offset, size=size)

    def whole(self) -> IO[bytes]:
        """The stored bytes, which may be compressed."""
        return open_stretch(self.fetch, start=0, size=self.size)

    def fetch(self, offset: int, size: int) -> bytes:
        """Read a range of the stored bytes by one request."""
        if self.is_local:
            with local_read_faults(self.where):
                return os.pread(self._idle[0].fileno(), size, offset)
        with self._lock:
            file = self._idle.pop() if self._idle else None
        file = self._open_again() if file is None else file
        try:
            with remote_faults(self.where):
                file.seek(offset)
                return file.read(size)
        except BaseException:
            self.is_broken = True  # a store's client refuses a file that was replaced, and goes on refusing
            raise
        finally:
            with self._lock:
                self._idle.append(file)

    def _open_again(self) -> IO[bytes]:
        etag = stat_source(self._location).etag
        if etag != self.etag:
            self.is_broken = True
            raise _changed(etag, self.etag)
        return open_source(self._location, block_bytes=1)


def _close_all(files: Iterable[IO[bytes]]) -> None:
    for file in files:
        file.close()


class _UnpackedArchive:
    """As much of a compressed archive as was asked for; the temporary file goes with the last of its members."""

    def __init__(self, stored: PlainArchive, unpacked: Any) -> None:
        self.etag = stored.etag
        self.is_broken = False
        self._unpacked, self._size, self._ended = unpacked, 0, False
        self._damage: BaseException | None = None
        self._lock = threading.Lock()
        self._kept = tempfile.TemporaryFile(prefix="tokenizer-jobs-archive-")  # noqa: SIM115  # lives as long as we do
        weakref.finalize(self, _close_all, (unpacked, self._kept))

    def member(self, offset: int, size: int) -> IO[bytes]:
        """See `Archive.member`."""
        with self._lock:
            while self._size < offset + size and not self._ended:
                self._unpack_on()
            with local_write_faults(tempfile.gettempdir()):
                self._kept.flush()
        if self._size < offset + size:
            if self._damage is not None and not isinstance(self._damage, EOFError):
                raise ItemError(
                    f"the archive cannot be unpacked beyond byte {self._size}: {self._damage}",
                    stage=Stage.READ,
                    reason=RejectReason.CORRUPT,
                )
            raise _cut(f"the archive ends after {max(0, self._size - offset)} of the member's {size} bytes")
        return open_stretch(self._fetch, start=offset, size=size)

    def _fetch(self, offset: int, size: int) -> bytes:
        return os.pread(self._kept.fileno(), size, offset)

    def _unpack_on(self) -> None:
        try:
            content = self._read_some()
        except BaseException:
            self.is_broken = True  # nobody knows what the decompressor made of it
            raise
        with local_write_faults(tempfile.gettempdir()):
            self._kept.write(content)
        self._size += len(content)
        self._ended = not content

    def _read_some(self) -> bytes:
        try:
            # `read` would lose what it has when it meets the cut.
            content: bytes = self._unpacked.read1(UNPACKED_AT_ONCE)
        except Exception as error:
            if not is_damage(error):
                raise
            self._damage = error
            return b""
        return content


class KeptArchives:
    """The archives that were read last, open; threads may share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, PlainArchive | _UnpackedArchive] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, location: str, *, etag: str | None) -> Archive:
        """Open an archive, or give it again.

        Args:
            location: Of the archive.
            etag: Its version when it was planned; None: not known.

        Raises:
            ItemError: it has another version now.
            OSError, TransientError: as `open_source`.
        """
        is_local = local_path(location) is not None
        with self._lock:
            kept = self._kept.get(location)
            # A look at a remote file is a request. Its client asks for the version it opened with every read.
            if kept is not None and not kept.is_broken and (not is_local or stat_source(location).etag == kept.etag):
                self._kept.move_to_end(location)
            else:
                kept = self._kept[location] = _open(location)
            while len(self._kept) > KEPT_ARCHIVES:
                self._kept.popitem(last=False)
        if etag is not None and kept.etag != etag:
            raise _changed(kept.etag, etag)
        return kept


def _open(location: str) -> PlainArchive | _UnpackedArchive:
    stored = PlainArchive(stat_source(location))
    unpacked = unpacking(stored.whole())
    return stored if unpacked is None else _UnpackedArchive(stored, unpacked)


def _cut(message: str) -> ItemError:
    return ItemError(message, stage=Stage.READ, reason=RejectReason.TRUNCATED)


def _changed(etag: str | None, planned: str | None) -> ItemError:
    return ItemError(
        f"the archive has version {etag}, {planned} when it was planned; the item keeps what this output has, "
        "write to a new output to take the new archive",
        stage=Stage.READ,
        reason=RejectReason.CHANGED,
    )
