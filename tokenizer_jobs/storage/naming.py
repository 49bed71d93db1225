"""Giving a staged file its name in one step, on file systems that have hard links and on those that have none.

Over NFS a call may be done and its reply lost; the client sends it again and is told that the name is taken, or that
the staged file is gone. So the answer of a failed call is not believed: what counts is which file has the name now.
"""

import ctypes
import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["link_or_rename", "rename_over"]

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})
_NO_CONDITION = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


def link_or_rename(staged: Path, target: Path) -> bool:
    """Give a staged file a second name, or move it there, unless the name is taken; True when it has the name now.

    Raises:
        OSError: neither could be done.
    """
    try:
        os.link(staged, target)
    except FileExistsError:
        return _is_same(target, _identity(staged))
    except OSError as error:
        if error.errno in _NO_LINKS:
            return _rename_if_absent(staged, target)
        if not _is_same(target, _identity(staged)):
            raise
    return True


def rename_over(staged: Path, target: Path) -> None:
    """Move a staged file over whatever has the name."""
    identity = _identity(staged)
    try:
        staged.replace(target)
    except OSError:
        if not _is_same(target, identity):
            raise


def _rename_if_absent(staged: Path, target: Path) -> bool:
    """For exFAT, SMB and other mounts without hard links."""
    identity, rename = _identity(staged), _renameat2()
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(staged), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return True
        code = ctypes.get_errno()
        if _is_same(target, identity):
            return True
        if code == errno.EEXIST:
            return False
        if code not in _NO_CONDITION:
            raise OSError(code, os.strerror(code), str(target))
    # Neither links nor conditional renames (some FUSE mounts, macOS without hard links): look, then rename. Still
    # never half visible, but two writers in the same instant may both believe they won; the lease keeps a second live
    # run out there.
    if target.exists():
        return False
    rename_over(staged, target)
    return True


@cache
def _renameat2() -> Any:
    """The system call of Linux 3.15 by its name in glibc 2.28 and musl 1.2.6; None where there is none."""
    try:
        return ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return None


def _identity(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


def _is_same(path: Path, identity: tuple[int, int]) -> bool:
    try:
        return _identity(path) == identity
    except OSError:
        return False
