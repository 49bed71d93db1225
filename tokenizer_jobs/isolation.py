"""Decode items in a child process that may die: a record that kills its worker costs itself and nothing else.

The careful way to decode a unit, taken after a worker died on it. The child decodes one record at a time and answers
before it gets the next, so the record in hand when it dies is known. Two deaths on one record make it a reject.

    parent   wait ◀──       send r0 ──▶      recv ◀── send r1 ──▶      EOF: strike 1 on r1, new child, send r1 again …
    child    start ──▶ ready         decode r0 ──▶       decode r1 ✗ dies

A child that dies before it is ready is no record's fault: that is raised.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import RejectReason, Stage, TokenizerJobsError, TransientError
from tokenizer_jobs.records import Decoded, Item, RejectedItem
from tokenizer_jobs.source_config import SourceConfig
from tokenizer_jobs.sources import Source, make_source

__all__ = ["decode_isolated"]

MAX_STRIKES = 2
"""Deaths of a child on one record after which the record is blamed. One can be chance: an OOM-killer, a preemption."""


def decode_isolated(
    items: Sequence[tuple[int, Item]], *, source: SourceConfig, target: AudioTarget
) -> Iterator[Decoded]:
    """Decode items in order in a child process, which is replaced when it dies.

    Args:
        items: Pairs of position and item.
        source: The source that opens them; built anew in the child.
        target: What the waveforms should be.

    Raises:
        TransientError: the child could not start.
        Exception: what making the source (of ours) or decoding (of any kind) raised in the child.
    """
    with _DecodeChild(source, target) as child:
        for position, item in items:
            yield _decode_or_blame(child, position, item)


def _decode_or_blame(child: "_DecodeChild", position: int, item: Item) -> Decoded:
    for _ in range(MAX_STRIKES):
        decoded = child.decode(position, item)
        if decoded is not None:
            return decoded
    return RejectedItem(
        position=position,
        stage=Stage.DECODE,
        reason=RejectReason.CRASHED_WORKER,
        message=f"the decoder's process died {MAX_STRIKES} times on this record alone ({child.last_exit})",
        attempts=1 + MAX_STRIKES,
    )


class _DecodeChild:
    """A child process that decodes one record at a time; started when needed, replaced when dead."""

    def __init__(self, source: SourceConfig, target: AudioTarget) -> None:
        self._task = (source, target)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self.last_exit = "still alive"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()  # the child reads EOF and ends
            if error is not None:
                self._process.kill()  # Ctrl-C does not reach it, and its record may take long
            self._process.wait()

    def decode(self, position: int, item: Item) -> Decoded | None:
        """Return what the item decodes to; None when the child died on it."""
        connection = self._connection or self._start()
        try:
            connection.send((position, item))
            answer: Decoded | Exception = connection.recv()
        except (EOFError, ConnectionError):
            self._bury()
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _start(self) -> Connection:
        # A plain interpreter, not multiprocessing's spawn: spawn would import the user's main script again.
        ours, theirs = Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C on the terminal is for the parent; in the child it would be a strike
        )
        theirs.close()
        self._connection = ours
        try:
            ours.send(self._task)
            refusal: Exception | None = ours.recv()
        except (EOFError, ConnectionError):
            self._bury()
            raise TransientError(f"the decoder's process could not start ({self.last_exit})") from None
        if refusal is not None:
            raise refusal
        return ours

    def _bury(self) -> None:
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        code = self._process.wait()
        self.last_exit = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self._process = self._connection = None


def _serve(connection: Connection) -> None:
    try:
        source_config, target = connection.recv()
        source = make_source(source_config)
    except TokenizerJobsError as error:
        connection.send(_as_sent(error))
        return
    except Exception as error:  # noqa: BLE001  # whatever it is, no record is to blame: the parent raises it
        connection.send(TransientError(f"the decoder's process could not start: {type(error).__name__}: {error}"))
        return
    connection.send(None)  # ready
    while True:
        try:
            record: tuple[int, Item] = connection.recv()
        except EOFError:
            return
        connection.send(_decode(record, source=source, target=target))


def _decode(record: tuple[int, Item], *, source: Source, target: AudioTarget) -> Decoded | Exception:
    try:
        (decoded,) = decode_items([record], source=source, target=target)
    except MemoryError:
        raise  # a record too large for this machine: the child's death, as by the OOM-killer
    except Exception as error:  # noqa: BLE001  # a fault of the code or of the storage: the parent raises it
        return _as_sent(error)
    return decoded


def _as_sent(error: Exception) -> Exception:
    """The error itself where it survives pickling, else its name and text."""
    try:
        copied: object = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # any class may refuse, in any way
        copied = None
    return error if type(copied) is type(error) else RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    with suppress(ConnectionError):  # the parent is gone
        _serve(Connection(int(sys.argv[1])))
