"""Faults of a storage, classified once where they enter: the user's, passing ones, and plain OS errors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from tokenizer_jobs.errors import ConfigError, TokenizerJobsError, TransientError

__all__ = ["local_faults", "local_write_faults", "remote_faults"]

_PASSING = frozenset(
    {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.ECONNRESET, errno.ENOTCONN, errno.ENOMEM}
    | {errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.EBUSY, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})


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

    Every fsspec back end raises its own library's errors, and there is no list of them: what is not one of the
    four OS errors that fsspec itself promises is taken for a fault of the network.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError):
        raise
    except TokenizerJobsError:
        raise
    except Exception as error:
        raise TransientError(f"{where}: {type(error).__name__}: {error}") from error
