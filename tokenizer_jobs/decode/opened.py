"""The bytes of one item: opened once, checked against the plan, and shown to decoders so that no fault is lost."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources import Source
from tokenizer_jobs.storage import local_path
from tokenizer_jobs.storage.faults import local_read_faults, remote_faults, shown_cause, try_twice, without_secrets

__all__ = ["DecoderView", "InputBytes", "MemoryView", "open_input"]

IN_MEMORY_BYTES = 32 * 1024 * 1024
"""Inputs up to this size are read at once: one request to a remote storage, and no calls into Python per block."""


class InputBytes:
    """Random access to the bytes of one input.

    Args:
        file: Seekable binary file; the caller closes it.
        name: What messages call the input.
    """

    def __init__(self, file: IO[bytes], *, name: str) -> None:
        self._file = file
        self._content: bytes | None = None
        self.name = name
        with _read_faults(name):
            self.size = try_twice(lambda: file.seek(0, io.SEEK_END))
        if self.size <= IN_MEMORY_BYTES:
            self._content = self.read_at(0, self.size)

    def read_at(self, offset: int, size: int) -> bytes:
        """Read `size` bytes from `offset`, fewer at the end.

        Raises:
            ItemError: the storage fails to give them.
            TransientError: as the storage says.
        """
        if self._content is not None:
            return self._content[offset : offset + max(0, size)]
        with _read_faults(self.name):
            return try_twice(lambda: self._read(offset, size))

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        parts = []
        while size > 0 and (part := self._file.read(size)):
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def view(self, *, head: bytes, skip: int) -> "DecoderView | MemoryView":
        """What a decoder reads: `head`, then the input from byte `skip` on.

        Replacing the head mends lengths that a pipe could not write.
        """
        if self._content is None:
            return DecoderView(self, head=head, skip=skip)
        return MemoryView(head + self._content[skip:] if head or skip else self._content)


class MemoryView(io.BytesIO):
    """A view of bytes in memory, read by libsndfile's callbacks without Python in between."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position; damaged headers make libsndfile ask for places before the start: it stays then."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()

    def raise_fault(self) -> None:
        """Memory has no faults."""


class DecoderView(io.RawIOBase):
    """A view of an input that is too large for memory; see `InputBytes.view`.

    A fault of the storage inside a decoder's callback
    would be printed and lost, and the audio cut short without an error: it is kept in `fault` for `raise_fault`.

    Args:
        data: The input.
        head: Bytes shown first.
        skip: First byte of the input that is shown.
    """

    def __init__(self, data: InputBytes, *, head: bytes, skip: int) -> None:
        self._data = data
        self._head = head
        self._skip = skip
        self._size = len(head) + max(0, data.size - skip)
        self._position = 0
        self.fault: Exception | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in what is shown."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; beyond the end is allowed, before the start it stays."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset >= 0:
            self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # the buffer of a C library
        """Read on into a buffer."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def read(self, size: int = -1) -> bytes:
        """Read on; nothing once a fault was met."""
        size = self._size - self._position if size < 0 else size
        if self.fault is not None or size <= 0:
            return b""
        in_head = self._head[self._position : self._position + size]
        try:
            offset = self._position + len(in_head) - len(self._head) + self._skip
            content = in_head + (self._data.read_at(offset, size - len(in_head)) if size > len(in_head) else b"")
        except Exception as fault:  # noqa: BLE001  # we are inside a C library's callback; raise_fault raises it
            self.fault = fault
            return b""
        self._position += len(content)
        return content

    def raise_fault(self) -> None:
        """Raise the fault that a read met, if any."""
        if self.fault is not None:
            raise self.fault


@contextmanager
def open_input(item: Item, *, source: Source) -> Iterator[InputBytes]:
    """Open an item and check that it still is what was planned.

    Raises:
        ItemError: of stage `read`: it is gone, forbidden, unreadable, empty, or not what was planned.
        TransientError: as the storage says.
    """
    name = item.source_uri if item.source_member is None else f"{item.source_uri}#{item.source_member}"
    with _item_faults(name):
        file = try_twice(lambda: source.open(item))
    with file:
        data = InputBytes(file, name=name)
        if data.size == 0:
            raise ItemError("the input has no bytes", stage=Stage.READ, reason=RejectReason.EMPTY)
        whole_file = item.source_member is None and item.source_row is None
        if whole_file and item.source_size is not None and data.size != item.source_size:
            raise ItemError(
                f"{data.size} bytes, {item.source_size} when it was planned; the item keeps what this output has, "
                "write to a new output to take the new input",
                stage=Stage.READ,
                reason=RejectReason.CHANGED,
            )
        yield data


@contextmanager
def _read_faults(name: str) -> Iterator[None]:
    is_local = local_path(name) is not None
    with _item_faults(name), local_read_faults(name) if is_local else remote_faults(name):
        yield


@contextmanager
def _item_faults(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(type(error), RejectReason.UNREADABLE)
        text = without_secrets(error.strerror or str(error))
        raise ItemError(f"{name}: {text}", stage=Stage.READ, reason=reason) from shown_cause(error)


_REASONS = {
    FileNotFoundError: RejectReason.VANISHED,
    NotADirectoryError: RejectReason.VANISHED,
    PermissionError: RejectReason.PERMISSION_DENIED,
}
