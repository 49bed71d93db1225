"""The parent's side of the decode child: starting it, speaking with it, losing patience, burying it."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tokenizer_jobs.errors import IntegrityError, RejectReason, TransientError
from tokenizer_jobs.isolation.child import Child, EndOfRun, OutOfMemory, Raised, Run, packed, receive
from tokenizer_jobs.isolation.limits import PATIENCE

__all__ = ["ChildLostError", "ChildProcess", "Clock"]

RUNS_AHEAD = 32
"""Runs that a child knows of beside the one in hand, so that it never waits to be asked and can read files ahead."""
AHEAD_BYTES = 1 << 16
"""Of requests for them. More could fill its socket while it waits for ours to be emptied; so the one in hand, which may
be larger, is sent when the child is idle."""
SOCKET_BYTES = 1 << 17
"""Of requests that a socket is asked to hold. They take more memory than they have bytes, and the kernel may grant less
(on Linux `net.core.wmem_max`, and twice that): requests ahead are no more than a quarter of what it says it granted."""
START_SECONDS = 300.0
"""For a child to start, which takes half a second on an idle machine."""
MESSAGE_SECONDS = 300.0
"""Between the bytes of a message once it began."""
END_SECONDS = 5.0
"""For a child to end by itself before it is killed, and to be dead once it was."""
STEP_SECONDS = 1.0
"""Of waiting that is counted at once: what this process itself slept through is not the child's."""


class ChildLostError(Exception):
    """The child died or was killed; says why an item that was alone with it would be blamed."""

    def __init__(self, reason: RejectReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Clock:
    """How long the child may still be waited for."""

    def __init__(self, limit_seconds: float) -> None:
        self.message = f"decoding took longer than {limit_seconds:g} s"
        self._seconds_left = PATIENCE * limit_seconds

    def wait(self, poller: select.poll) -> bool:
        """Wait until the child says something; False when it had its time."""
        while self._seconds_left > 0:
            step, began = min(STEP_SECONDS, self._seconds_left), monotonic()
            if poller.poll(1000 * step):
                self._seconds_left -= min(step, monotonic() - began)
                return True
            self._seconds_left -= step
        return False


MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""Of glibc: keep the memory of one record for the next. By default each has its pages cleared again, which cost a child
a fifth of its CPU (103,000 against 15,000 page faults for 300 clips of 2 s)."""


@dataclass(slots=True)
class _Running:
    """A child that was started and not yet buried."""

    process: subprocess.Popen[bytes]
    connection: socket.socket
    poller: select.poll
    ahead_bytes: int
    """Of requests that its socket is sure to hold beside the one in hand."""
    is_ready: bool = False
    asked_bytes: deque[int] = field(default_factory=deque)
    """Of the requests for runs that it knows of and has not ended."""


class ChildProcess:
    """The child and the socket to it; started when needed.

    Args:
        told: What the child is told first.
    """

    def __init__(self, told: Child) -> None:
        self._told = told
        self._running: _Running | None = None

    def start(self) -> None:
        """Start the child, unless it runs, without waiting until it is ready."""
        if self._running is not None:
            return
        connection, theirs = socket.socketpair()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
        with theirs:
            process = _start(theirs.fileno())
        connection.settimeout(MESSAGE_SECONDS)
        poller = select.poll()
        poller.register(connection, select.POLLIN)
        granted_bytes = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._running = _Running(process, connection, poller, ahead_bytes=min(AHEAD_BYTES, granted_bytes // 4))
        _send(connection, packed(self._told))

    def await_ready(self) -> None:
        """Wait until the child can decode; start it first where it does not run.

        Raises:
            TransientError: it cannot.
            TokenizerJobsError: why the source could not be made.
        """
        self.start()
        assert self._running is not None
        if self._running.is_ready:
            return
        try:
            self.receive(Clock(START_SECONDS))
        except ChildLostError as lost:
            raise TransientError(f"the decoder's process could not start: {lost}") from None
        self._running.is_ready = True

    def ask(self, waiting: deque[Run]) -> None:
        """Tell the child what to decode now and next."""
        assert self._running is not None, "a child is awaited before it is asked"
        asked = self._running.asked_bytes
        while len(asked) < min(len(waiting), 1 + RUNS_AHEAD):
            parts = packed(waiting[len(asked)])
            num_bytes = sum(map(len, parts))
            if asked and sum(asked) - asked[0] + num_bytes > self._running.ahead_bytes:
                return
            _send(self._running.connection, parts)
            asked.append(num_bytes)

    def receive(self, clock: Clock) -> Any:
        """What the child says next.

        Raises:
            ChildLostError: it died, had its time, or met its memory limit; it is gone then.
            Exception: what it raised.
        """
        assert self._running is not None, "a child is awaited before it is heard"
        try:
            if not clock.wait(self._running.poller):
                raise TimeoutError
            message = receive(self._running.connection)
        except TimeoutError:
            self.end(at_once=True)
            raise ChildLostError(RejectReason.TIMED_OUT, clock.message) from None
        except (EOFError, OSError):
            code = self.end(at_once=False)
            if code == -signal.SIGALRM:
                raise ChildLostError(RejectReason.TIMED_OUT, clock.message) from None
            seen = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
            raise ChildLostError(RejectReason.CRASHED_WORKER, f"the decoder's process died ({seen})") from None
        match message:
            case Raised():
                raise message.error
            case OutOfMemory():
                self.end(at_once=False)
                limit = f"{self._told.limits.gigabytes:g} GB of memory"
                raise ChildLostError(RejectReason.OUT_OF_MEMORY, f"decoding asked for more than {limit}")
        return message

    def receive_end(self, clock: Clock) -> None:
        """Make sure that the run in hand is over."""
        ending = self.receive(clock)
        if not isinstance(ending, EndOfRun):
            raise IntegrityError(f"a run was decoded to more than its items: {ending}")
        assert self._running is not None
        self._running.asked_bytes.popleft()

    def end(self, *, at_once: bool) -> int:
        """End the child, by its own will unless at once, and return its exit code; 0 where there is none."""
        if self._running is None:
            return 0
        process = self._running.process
        self._running.connection.close()  # the child reads the end and ends
        self._running = None
        if at_once:
            process.kill()
        for _ in range(2):
            with suppress(subprocess.TimeoutExpired):
                return process.wait(END_SECONDS)
            process.kill()
        return -signal.SIGKILL  # the kernel holds it, as in a read from a dead network disk


def _start(socket_number: int) -> subprocess.Popen[bytes]:
    # A plain interpreter, not multiprocessing's spawn: spawn would import the user's main script again.
    program = "from tokenizer_jobs.isolation.child import serve; serve()"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(socket_number)],
        pass_fds=[socket_number],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **MALLOC, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
        start_new_session=True,  # Ctrl-C on the terminal is for the parent; in the child it would be a strike
    )


def _send(connection: socket.socket, parts: Iterable[bytes | memoryview]) -> None:
    with suppress(OSError):  # the child is gone, which is found where its answer is awaited
        for part in parts:
            connection.sendall(part)
