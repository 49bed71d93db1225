"""What the operating system gives: disk, shared memory, open files, and a clock that others agree with."""

import ctypes
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from tokenizer_jobs.doctor.findings import Finding
from tokenizer_jobs.wording import bytes_text

__all__ = ["check_clock", "check_open_files", "check_space"]

LITTLE_DISK_BYTES = 2e9
NO_DISK_BYTES = 50e6
"""With less not even the demo's output and its staging fit."""
LITTLE_SHM_BYTES = 1e9
FEW_FILES = 4096
"""From which on Ray's own nodes do not complain; they raise the soft limit to the hard one by themselves."""
OLDEST_DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""Before this package was written."""
_UNSYNCHRONIZED = 5
"""TIME_ERROR of adjtimex(2)."""


def check_space() -> Iterator[Finding]:
    """Look at the disks that a job writes to, and at the memory that processes share."""
    here, temporary = Path.cwd(), Path(tempfile.gettempdir())
    yield _space("disk", here, remedy="free some space, or give --output a folder on another disk", is_needed=True)
    if temporary.stat().st_dev != here.stat().st_dev:
        yield _space("temporary disk", temporary, remedy="free some space there, or export TMPDIR=ANOTHER_FOLDER")
    shm = Path("/dev/shm")
    if shm.is_dir():
        yield _space("shared memory", shm, remedy="in a container: docker run --shm-size=8g", little=LITTLE_SHM_BYTES)


def _space(subject: str, folder: Path, *, remedy: str, little: float | None = None, is_needed: bool = False) -> Finding:
    free = shutil.disk_usage(folder).free
    little = LITTLE_DISK_BYTES if little is None else little
    detail = f"{bytes_text(free)} free at {folder}"
    if not os.access(folder, os.W_OK):
        detail, remedy = f"{detail}, which may not be written to", f"{remedy}; or see its permissions"
    elif free >= little:
        return Finding(subject=subject, state="ok", detail=detail)
    else:
        detail += f", less than {bytes_text(little)}"
    return Finding(
        subject=subject,
        state="missing",
        detail=detail,
        remedy=remedy,
        is_needed=is_needed and free < NO_DISK_BYTES,
    )


def check_open_files() -> Iterator[Finding]:
    """Look at how many files a process may hold open: Ray's nodes take a few for each worker and each other node."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "any number" if hard == resource.RLIM_INFINITY else f"{hard:,}"
    detail = f"{soft:,} a process, raised up to {most}"
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        detail += f"; nodes of a Ray cluster want {FEW_FILES:,}"
        remedy = "LimitNOFILE=65536 of the service, docker run --ulimit nofile=65536, or /etc/security/limits.conf"
        yield Finding(subject="open files", state="note", detail=detail, remedy=remedy)
    else:
        yield Finding(subject="open files", state="ok", detail=detail)


def check_clock() -> Iterator[Finding]:
    """Look at the clock: object stores refuse requests that are minutes off, and leases are judged by it."""
    now = datetime.now(UTC)
    detail = f"{now:%Y-%m-%d %H:%M:%S} UTC"
    remedy = "timedatectl set-ntp true, or start chrony"
    if now < OLDEST_DATE:
        detail += ", which is in the past: TLS and object stores refuse it"
        yield Finding(subject="clock", state="missing", detail=detail, remedy=remedy)
        return
    synchronized = _is_synchronized()
    if synchronized is None:
        yield Finding(subject="clock", state="ok", detail=f"{detail}; the system does not say whether it is kept")
    elif synchronized:
        yield Finding(subject="clock", state="ok", detail=f"{detail}, kept by a time service")
    else:
        detail += "; no time service keeps it here: on a cluster, clocks minutes apart break object stores and leases"
        yield Finding(subject="clock", state="note", detail=detail)


def _is_synchronized() -> bool | None:
    """What the kernel says of its clock; None where it says nothing."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
    state = adjtimex(ctypes.create_string_buffer(1024))  # modes = 0: reads, and changes nothing
    return None if state < 0 else state != _UNSYNCHRONIZED
