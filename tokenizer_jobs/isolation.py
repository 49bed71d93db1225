"""Decode items in a child process that may die: a record that kills its worker costs itself and nothing else.

The careful way to decode a unit, taken after a worker died on it. The child decodes one record at a time and answers
before it gets the next, so the record in hand when it dies is known. Two deaths on one record make it a reject.

    parent   send r0 ──▶      recv ◀── send r1 ──▶          EOF: strike 1 on r1, new child, send r1 again …
    child            decode r0 ──▶       decode r1 ✗ dies
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Self

from tokenizer_jobs.config import SourceConfig
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import RejectReason, Stage, TokenizerJobsError
from tokenizer_jobs.records import Decoded, Item, RejectedItem
from tokenizer_jobs.sources import make_source

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
        TokenizerJobsError: what decoding raised in the child, such as a `TransientError` of the storage.
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

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._connection is not None:
            self._connection.close()  # the child reads EOF and ends
            self._process.wait()

    def decode(self, position: int, item: Item) -> Decoded | None:
        """Return what the item decodes to; None when the child died on it."""
        connection = self._connection or self._start()
        try:
            connection.send((position, item))
            answer: Decoded | TokenizerJobsError = connection.recv()
        except (EOFError, ConnectionError):
            self._bury()
            return None
        if isinstance(answer, TokenizerJobsError):
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
        )
        theirs.close()
        ours.send(self._task)
        self._connection = ours
        return ours

    def _bury(self) -> None:
        if self._process is None or self._connection is None:
            return
        self._connection.close()
        code = self._process.wait()
        self.last_exit = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        self._process = self._connection = None


def _serve(connection: Connection) -> None:
    source_config, target = connection.recv()
    source = make_source(source_config)
    while True:
        try:
            record: tuple[int, Item] = connection.recv()
        except EOFError:
            return
        try:
            (answer,) = decode_items([record], source=source, target=target)
        except TokenizerJobsError as error:
            connection.send(error)
        else:
            connection.send(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
