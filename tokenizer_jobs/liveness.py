"""Which operating-system process something belongs to, and whether that process is known to be gone."""

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Owner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process, named so that a later process with its pid is not taken for it."""

    host: str
    boot_id: str
    """Changes whenever the host boots; empty where the system has none."""
    pid_namespace: str
    """Two containers of one host may share host name and boot id, never this; empty where the system has none."""
    pid: int
    pid_started: int
    """Start of the process in clock ticks since boot; 0 where the system does not say."""

    @classmethod
    def current(cls) -> Self:
        """Name the calling process."""
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            boot_id=_read(Path("/proc/sys/kernel/random/boot_id")),
            pid_namespace=_pid_namespace(),
            pid=pid,
            pid_started=_pid_started(pid) or 0,
        )

    @property
    def machine_tag(self) -> str:
        """8 hex digits for host, boot and pid namespace together: where a pid has one meaning."""
        return hashlib.sha256(f"{self.host}\n{self.boot_id}\n{self.pid_namespace}".encode()).hexdigest()[:8]

    def is_gone(self, *, here: Self) -> bool:
        """Whether the process is known to have ended; False also where that cannot be known from here.

        Args:
            here: The process that asks.
        """
        if self.host == here.host and self.boot_id and here.boot_id and self.boot_id != here.boot_id:
            return True  # the host booted since
        return self.shares_pids(here) and pid_is_gone(self.pid, pid_started=self.pid_started)

    def shares_pids(self, other: Self) -> bool:
        """Whether a pid means the same process to both; a field that one of them does not know is overlooked."""
        return self.host == other.host and all(
            not mine or not theirs or mine == theirs
            for mine, theirs in ((self.boot_id, other.boot_id), (self.pid_namespace, other.pid_namespace))
        )


def pid_is_gone(pid: int, *, pid_started: int) -> bool:
    """Whether no process of this namespace has the pid, or another one has it now.

    Args:
        pid: Process id.
        pid_started: Start in clock ticks since boot; 0 when it was not known, then only the pid counts.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # somebody else's process, or no pid at all: it is not ours to call gone
    started = _pid_started(pid)
    return started is not None and (started == 0 or (pid_started != 0 and started != pid_started))


def _pid_started(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat; 0 for a zombie, which is dead but not yet reaped; None where there is no /proc."""
    stat = _read(Path(f"/proc/{pid}/stat"))
    if not stat:
        return None
    # The name of the program is in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return 0 if fields[0] in "ZX" else int(fields[19])


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
