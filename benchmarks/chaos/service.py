"""The service under attack: the user's command as a process, its job file, its log, and what its end means."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from benchmarks.chaos.settings import ROOT, ViolationError

__all__ = ["Driver", "Ending", "call", "write_job"]

BUSY = ("is held by run", "is taking over the lease", "took over the lease", "lost the output")
"""Of a run that found another one."""
AGAIN = ("run again to try it anew", "encoders were lost with no unit finished", "no encoder found a place")
"""Of a run that gave up and can be resumed."""
OF_THE_STORE = ("s3://", "SlowDown", "InternalError", "Connection", "Timeout")
"""A command that the store failed too often says so."""
LISTENING = "codec "
"""Begins the first line of a run, by which it holds the lease and hears signals."""


class Ending(StrEnum):
    """How a driver ended."""

    DONE = "done"
    STOPPED = "stopped, to be resumed"
    KILLED = "killed"
    REFUSED = "refused by the lease"
    GAVE_UP = "gave up, to be resumed"


def write_job(path: Path, *, output: str, inputs: Path, unit_minutes: float, runtime: Mapping[str, Any]) -> None:
    """Write a user's job file with the codec inside the package."""
    job = {
        "output": output,
        "recipe": {"codec": {"model": "demo"}},
        "selection": {
            "source": {"kind": "files", "paths": [str(inputs)]},
            "shards": {"unit_minutes": unit_minutes},
        },
        "runtime": {"device": "cpu", **runtime},
    }
    path.write_text(yaml.safe_dump(job))


def call(*words: str, log: Path) -> int:
    """Run a command of the service to its end; its exit code."""
    with log.open("ab") as output:
        return subprocess.run(_command(*words), cwd=ROOT, stdout=output, stderr=output, check=False).returncode


class Driver:
    """One `tokenizer_jobs run`.

    Args:
        job: The job file.
        log: Takes what it says.
    """

    def __init__(self, job: Path, *, log: Path) -> None:
        self.log = log
        self.blow: int | None = None
        """The signal that we sent to end it."""
        self.struck_at = 0.0
        self.was_at_work = False
        """When it was asked to stop, as far as could be seen."""
        self.frozen = False
        self.started = time.monotonic()
        with log.open("wb") as output:
            self._process = subprocess.Popen(_command("run", str(job)), cwd=ROOT, stdout=output, stderr=output)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_listening(self) -> bool:
        """Whether it holds the lease and hears signals."""
        return any(line.startswith(LISTENING) for line in self.said())

    def said(self) -> list[str]:
        """The lines of its log."""
        return self.log.read_text(errors="replace").splitlines()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def strike(self, number: int, *, at_work: bool = False) -> None:
        """Send it SIGKILL or SIGTERM."""
        self.blow, self.struck_at, self.was_at_work = number, time.monotonic(), at_work
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    def freeze(self) -> None:
        """Stop it in its tracks."""
        self.frozen = True
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, if it is still there."""
        self.frozen = False
        if self.poll() is None:
            os.kill(self.pid, signal.SIGCONT)

    def end(self) -> None:
        """End it whatever it does."""
        if self.poll() is None:
            self._process.kill()
            self._process.wait()

    def ending(self) -> Ending:
        """What its exit code and its last words mean.

        Raises:
            ViolationError: no run may end so.
        """
        code, said = self.poll(), self.said()
        if code == 0:
            return Ending.DONE
        if self.blow == signal.SIGKILL and code == -signal.SIGKILL:
            return Ending.KILLED
        if code == 75 and self.blow == signal.SIGTERM:
            return Ending.STOPPED
        words = "\n".join(line for line in said if line.startswith(("error:", "problem:")))
        if code == 1 and words and "Traceback" not in "\n".join(said):
            if any(word in words for word in BUSY):
                return Ending.REFUSED
            if any(word in words for word in (*AGAIN, *OF_THE_STORE)):
                return Ending.GAVE_UP
        last = "\n".join(said[-15:])
        raise ViolationError(
            f"a driver ended with {code} (we had sent it signal {self.blow}); {self.log} ends:\n{last}"
        )


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tokenizer_jobs", *words]
