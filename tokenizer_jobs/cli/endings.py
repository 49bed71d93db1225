"""How commands end: what is wrong goes to stderr, and a signal ends them as Ctrl-C does."""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from tokenizer_jobs.cli.streams import make_writable, tell
from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, TokenizerJobsError

__all__ = ["as_process", "complain", "example_id", "sigterm_as_interrupt"]


def as_process(main: Callable[[], int]) -> NoReturn:
    """Be a process that does one command: once the command's outcome is decided, its exit code is no other any more.

    Python takes a second to end with torch and Ray loaded, in which SIGTERM would make a finished run look killed.

    Args:
        main: Does the command and gives the exit code.
    """
    signal.signal(signal.SIGTERM, _die)
    make_writable()
    exit_code = main()
    gc.freeze()  # Python would look through all that was imported for garbage before it ends: a third of a second
    sys.exit(exit_code)


def _die(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end a run as Ctrl-C does wherever the run does not handle it itself, so that the lease is released.

    After it, the process of a command heeds neither (`as_process`); elsewhere SIGTERM is what it was. Outside the main
    thread, where Python allows no handlers, this does nothing.
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
        if previous is _die:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        else:
            signal.signal(signal.SIGTERM, previous)


def example_id(output: str, *, snapshot: int | None) -> str | None:
    """The id of a row, for the command that the screen proposes.

    None where there is no snapshot, or no row, or where it cannot be read: what was done is done, and ends as it ended.
    """
    from tokenizer_jobs.audition import any_row_id

    with suppress(TokenizerJobsError, OSError):
        return any_row_id(output) if snapshot is not None else None
    return None


def complain(problems: Sequence[str]) -> int:
    """Put problems on stderr, after what is on stdout; the exit code that they mean."""
    for problem in problems:
        tell(f"problem: {problem}")
    return EXIT_FAILED if problems else EXIT_DONE
