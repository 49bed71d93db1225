"""How commands end: what is wrong goes to stderr, and a signal ends them as Ctrl-C does."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, TokenizerJobsError

if TYPE_CHECKING:
    from tokenizer_jobs.results import RunResult

__all__ = ["complain", "example_id", "sigterm_as_interrupt"]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does wherever the run does not handle it itself, so that the lease is released.

    Outside the main thread, where Python allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def example_id(result: "RunResult") -> str | None:
    """The id of a row, for the command that the screen proposes.

    None where there is none or where it cannot be read: what the run did is done, and it ends as it ended.
    """
    from tokenizer_jobs.audition import any_row_id

    with suppress(TokenizerJobsError, OSError):
        return any_row_id(result.output) if result.snapshot is not None else None
    return None


def complain(problems: Sequence[str]) -> int:
    """Put problems on stderr, flushed after what is on stdout; the exit code that they mean."""
    sys.stdout.flush()
    for problem in problems:
        print(f"problem: {problem}", file=sys.stderr)
    return EXIT_FAILED if problems else EXIT_DONE
