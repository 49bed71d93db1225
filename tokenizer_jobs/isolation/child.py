"""The process that decodes for another and may die of it, and how the two speak. It never imports torch.

    parent   task ▶           run ▶ run ▶                    run ▶            (closes)
    child          ◀ ready          ◀ decoded … ◀ end of run      ◀ decoded …          (ends)

A run is one item, or the neighbouring cuts of one recording. What was decoded waits in the socket until the parent
takes it, which holds the child back: it is one result ahead, or a few small ones. Runs that the child knows of beside
the one in hand are read ahead, where their files are small and remote.
"""

import pickle
import select
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tokenizer_jobs.decode import AudioTarget, decode_items, opened_items
from tokenizer_jobs.errors import TokenizerJobsError, TransientError
from tokenizer_jobs.isolation.limits import DecodeLimits, alarmed, memory_limited
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import ReadAhead, Source, make_source

__all__ = ["Child", "EndOfRun", "OutOfMemory", "Raised", "Ready", "Run", "packed", "receive", "send", "serve"]

Run = Sequence[tuple[int, Item]]
"""Items that are decoded in one pass, with their positions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a child is told first."""

    source: SourceConfig
    target: AudioTarget
    limits: DecodeLimits


@dataclass(frozen=True, slots=True)
class Ready:
    """The source is made: from here on a death is a record's fault."""


@dataclass(frozen=True, slots=True)
class EndOfRun:
    """All items of a run were given."""


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """The child met its memory limit and ends."""

    message: str


@dataclass(frozen=True, slots=True)
class Raised:
    """What no record is blamed for; the child ends."""

    error: Exception


def packed(message: object) -> list[bytes | memoryview]:
    """A message as it is sent: lengths, the pickle, then waveforms as they lie in memory, which are not copied."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    head = struct.pack(f"<{2 + len(views)}Q", len(body), len(views), *map(len, views))
    return [head + body, *views]


def send(connection: socket.socket, message: object) -> None:
    """Send a message; waits while the other side does not read.

    Raises:
        OSError: the other side is gone.
    """
    for part in packed(message):
        connection.sendall(part)


def receive(connection: socket.socket) -> Any:
    """Receive a message; waveforms in it are of their own memory, writable.

    Raises:
        EOFError: the other side is gone, between messages or in one.
        OSError: likewise.
        TimeoutError: nothing came for as long as the socket's timeout says.
    """
    num_body, num_views = struct.unpack("<2Q", _receive_bytes(connection, 16))
    lengths = struct.unpack(f"<{num_views}Q", _receive_bytes(connection, 8 * num_views))
    body = _receive_bytes(connection, num_body)
    return pickle.loads(body, buffers=[_receive_bytes(connection, length) for length in lengths])


def _receive_bytes(connection: socket.socket, length: int) -> bytearray:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        received = connection.recv_into(view)
        if received == 0:
            raise EOFError("the other side is gone")
        view = view[received:]
    return content


def serve() -> None:
    """Decode for the parent at the other end of a socket, whose number is the process's only argument."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # what a parent ignores would be ignored here
    with socket.socket(fileno=int(sys.argv[1])) as connection, suppress(EOFError, OSError):  # the parent is gone
        child: Child = receive(connection)
        try:
            source = make_source(child.source)
        except TokenizerJobsError as error:
            send(connection, Raised(_as_sent(error)))
            return
        except Exception as error:  # noqa: BLE001  # whatever it is, no record is to blame: the parent raises it
            message = f"the decoder's process could not start: {type(error).__name__}: {error}"
            send(connection, Raised(TransientError(message)))
            return
        send(connection, Ready())
        send(connection, _decode_runs(connection, child=child, source=source))


def _decode_runs(connection: socket.socket, *, child: Child, source: Source) -> OutOfMemory | Raised:
    """Send what runs decode to, until one cannot be."""
    try:
        with memory_limited(child.limits), ReadAhead(source) as ahead:
            runs = _runs(connection, ahead)
            while True:
                run = next(runs)
                decoded = decode_items(run, source=ahead, target=child.target)
                for step in alarmed(decoded, items=run, limits=child.limits):
                    _send_on(connection, step)
                _send_on(connection, EndOfRun())
    except MemoryError as error:
        return OutOfMemory(str(error))
    except Exception as error:  # noqa: BLE001  # a fault of the code or of the storage: the parent raises it
        return Raised(_as_sent(error))


def _runs(connection: socket.socket, ahead: ReadAhead) -> Iterator[Run]:
    """The runs that the parent asks for; they end with this process, when the parent is gone."""
    asked, poller = deque[Run](), select.poll()
    poller.register(connection, select.POLLIN)
    while True:
        while not asked or poller.poll(0):
            asked.append(_next_run(connection))
            ahead.expect(opened_items(asked[-1]))
        yield asked.popleft()


def _next_run(connection: socket.socket) -> Run:
    try:
        run: Run = receive(connection)
    except (EOFError, OSError) as error:
        raise SystemExit from error  # the parent has no more, or is gone
    return run


def _send_on(connection: socket.socket, message: object) -> None:
    try:
        send(connection, message)
    except OSError as error:
        raise SystemExit from error  # the parent is gone


def _as_sent(error: Exception) -> Exception:
    """The error itself where it survives pickling, else its name and text."""
    try:
        copied: object = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # any class may refuse, in any way
        copied = None
    return error if type(copied) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")
