"""Faults of a storage, classified once where they enter: the user's, passing ones, and plain OS errors."""

import errno
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tokenizer_jobs.errors import ConfigError, TokenizerJobsError, TransientError
from tokenizer_jobs.storage.urls import public_uri

__all__ = [
    "CredentialsError",
    "local_faults",
    "local_read_faults",
    "local_write_faults",
    "remote_faults",
    "shown_cause",
    "try_twice",
    "without_secrets",
]

T = TypeVar("T")

_OF_ONE_FILE = frozenset({errno.EIO, errno.ESTALE, errno.EREMOTEIO})
"""What a bad sector or a file replaced on its server gives, again and again, while its neighbours can be read."""
_PASSING = (
    _OF_ONE_FILE
    | {errno.ETIMEDOUT, errno.ECONNRESET, errno.ENOTCONN, errno.ENOMEM}
    | {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})

_PROMISED = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_URL = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]+://[^\s'"<>]+""")
_QUERY = re.compile(r"""\?[\w.~%-]+=[^\s'"<>]*""")
_WEB = re.compile(r"(^|::)https?://")
_NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}
)
"""Names of the errors of botocore and google.auth; to import either for them would cost a second."""
_GONE = frozenset({404, 410})
_FORBIDDEN = frozenset({401, 403})


class CredentialsError(TransientError):
    """This machine has no credentials for a store.

    In the midst of work a service that gives them may be slow to answer, so it is worth another try; a machine that
    begins without them has none.
    """


def without_secrets(text: str) -> str:
    """A message without what grants access: the query strings of its URLs, and `user:password@` before hosts.

    Some clients name the path alone, `Max retries exceeded with url: /a.wav?sig=...`: queries go without a URL too.
    """
    return _QUERY.sub("", _URL.sub(lambda found: public_uri(found[0]), text))


def shown_cause(error: BaseException) -> BaseException | None:
    """What to raise from: the error, or None where a printed traceback of it would hold a secret."""
    lines = traceback.TracebackException.from_exception(error, lookup_lines=False)
    text = "".join(line for line in lines.format() if not line.lstrip().startswith("File "))
    return error if without_secrets(text) == text else None


def try_twice(read: Callable[[], T]) -> T:
    """Read, and at once again after an OS error of the file itself, which a loose cable or a moved file gives once."""
    try:
        return read()
    except _PROMISED:
        raise
    except OSError:
        return read()


@contextmanager
def local_read_faults(where: str) -> Iterator[None]:
    """As `local_faults`, but what is wrong with one file alone passes as the OS error, to be blamed on that file."""
    try:
        with local_faults(where):
            yield
    except TransientError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _OF_ONE_FILE:
            raise error.__cause__ from None
        raise


@contextmanager
def local_faults(where: str) -> Iterator[None]:
    """Turn passing faults of a disk or a network mount into `TransientError`; other OS errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _PASSING:
            raise TransientError(f"{where}: {error.strerror or error}") from error
        raise


@contextmanager
def local_write_faults(where: str) -> Iterator[None]:
    """As `local_faults`, and a full or refusing file system becomes a `ConfigError` that says what to do."""
    try:
        with local_faults(where):
            yield
    except OSError as error:
        if error.errno in _FULL:
            raise ConfigError(f"{where}: {error.strerror}; free some space there and run again") from error
        if error.errno in _REFUSED:
            raise ConfigError(
                f"{where} cannot be written: {error.strerror}; choose another output or change its permissions"
            ) from error
        raise


@contextmanager
def remote_faults(where: str) -> Iterator[None]:
    """Let "not found", "exists" and "forbidden" pass as OS errors; anything else is worth another try.

    Every fsspec back end raises its own library's errors, and there is no list of them: what is none of the
    OS errors that fsspec itself promises is taken for a fault of the network. On the web the status decides, since
    fsspec says "not found" of a server that is down as well.
    """
    try:
        yield
    except TokenizerJobsError:
        raise
    except Exception as error:
        known = _answer_of_the_web(error, where) if _WEB.search(where) else error
        cause = shown_cause(error)
        if not isinstance(known, _PROMISED):
            kind, text = type(known).__name__, without_secrets(str(known))
            fault = CredentialsError if kind in _NO_CREDENTIALS else TransientError
            raise fault(f"{where}: {kind}: {text}") from cause
        if known is error and cause is not None:
            raise
        raise _public_os_error(known) from cause


def _answer_of_the_web(error: Exception, where: str) -> BaseException:
    """What an error of fsspec's web client says of a file: gone, forbidden, or what failed underneath."""
    if isinstance(error, FileNotFoundError) and error.__cause__ is None:
        return error  # fsspec saw the 404 itself
    fault = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
    status = getattr(fault, "status", None)
    if status in _GONE:
        return FileNotFoundError(errno.ENOENT, f"the server answers {status}", where)
    if status in _FORBIDDEN:
        return PermissionError(errno.EACCES, f"the server answers {status}", where)
    return fault


def _public_os_error(error: OSError) -> OSError:
    text = without_secrets(error.strerror or str(error))
    if error.errno is None:
        return type(error)(text)
    where = without_secrets(str(error.filename)) if error.filename is not None else None
    return type(error)(error.errno, text, where)
