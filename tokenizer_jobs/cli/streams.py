"""Stdout and stderr of a command: closed, without a reader (`| head`), or in an encoding that has few characters."""

import codecs
import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO

from tokenizer_jobs.errors import EXIT_DONE

__all__ = ["flush_streams", "has_lost_reader", "make_writable", "show", "tell"]

_PLAIN = {"×": "x", "…": "...", "·": "|", "–": "-"}
"""For encodings that have no such characters; of others the escape is shown."""
_PLAINLY = "tokenizer_jobs.plainly"


def make_writable() -> None:
    """Let stdout and stderr of this process take whatever text there is, wherever they lead."""
    _fill_closed()
    codecs.register_error(_PLAINLY, _plainly)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAINLY)


def show(text: str) -> None:
    """Print what a command found or did; where nobody reads it any more, what was done is done."""
    with suppress(BrokenPipeError):
        print(text, flush=True)


def tell(message: str) -> None:
    """Put a line on stderr, after what is on stdout; where nobody reads it any more, the outcome stays what it is."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    with suppress(BrokenPipeError):
        print(message, file=sys.stderr, flush=True)


def flush_streams() -> int:
    """Write what is still buffered: where the reader is gone, Python would complain at its exit, and nobody catches it.

    Returns:
        0.

    Raises:
        OSError: it cannot be written, for another reason.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            _send_nowhere(stream)
            if not isinstance(error, BrokenPipeError):
                raise
    return EXIT_DONE


def has_lost_reader() -> bool:
    """Whether nobody reads stdout or stderr any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a stream in memory has no descriptor
            poll.register(stream.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _send_nowhere(stream: TextIO) -> None:
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _fill_closed() -> None:
    """Let what goes to a closed stdout or stderr (`>&-`) go nowhere: the next opened file would get its descriptor."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.dup(null), "w", encoding="utf-8"))
    os.close(null)


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What the codec writes in place of characters that it does not have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    plain = (_PLAIN.get(each, each.encode("ascii", "backslashreplace").decode()) for each in characters)
    return "".join(plain), error.end
