"""A cluster's job API, seen from outside: reach it, hand it a job, follow that to its end."""

import asyncio
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from tokenizer_jobs.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, ConfigError, TransientError
from tokenizer_jobs.submission import Submission

__all__ = ["FollowedLog", "JobEnd", "Jobs", "job_end", "jobs_address"]

ANSWER_SECONDS = 20.0
"""For the address to answer at all."""

OUT_OF_REACH_SECONDS = 60.0
"""That a cluster may be out of reach while a job is followed."""

TAIL_CHARACTERS = 20_000
"""Of the end of a log that are looked at for how the job ended."""

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")

_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """How a job ended."""

    status: Literal["SUCCEEDED", "FAILED", "STOPPED"]
    exit_code: int | None
    """Of the job's command; None where the cluster does not tell, as of a stopped one."""
    message: str
    """For a person."""

    @property
    def exit_code_here(self) -> int:
        """What the command that followed the job exits with: the job's own code, as far as that is one of ours."""
        if self.status == "SUCCEEDED":
            return EXIT_DONE
        if self.status == "STOPPED":
            return EXIT_STOPPED
        return self.exit_code if self.exit_code is not None and self.exit_code > 0 else EXIT_FAILED


def jobs_address(address: str | None) -> str:
    """The address of the job API: as given, else of the environment.

    Raises:
        ConfigError: there is none, or it is another kind of address.
    """
    named = [("--address", address), *((name, os.environ.get(name)) for name in ADDRESS_VARIABLES)]
    origin, found = next(((origin, value) for origin, value in named if value), ("--address", ""))
    if not found:
        raise ConfigError(
            "--address is missing; expected the URL of the cluster's dashboard, such as http://head:8265 (on "
            "Kubernetes: kubectl port-forward service/NAME-head-svc 8265, then http://127.0.0.1:8265)"
        )
    if not re.match(r"https?://[^/]", found):
        raise ConfigError(
            f"{origin} = {found!r} is not the URL of a dashboard; expected http://HOST:8265 of the head, which is not "
            "the port that nodes join by (6379) nor Ray Client's (10001)"
        )
    return found.rstrip("/")


class FollowedLog:
    """A log that begins anew with each connection, and is written once.

    Args:
        write: Takes each piece.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._num_written = self._num_seen = 0
        self.tail = ""
        """Its end so far."""

    def rewind(self) -> None:
        """Take note of a new connection: the log comes from its beginning again."""
        self._num_seen = 0

    def add(self, text: str) -> None:
        """Write what of this is new."""
        new = text[max(0, self._num_written - self._num_seen) :]
        self._num_seen += len(text)
        if new:
            self._num_written = self._num_seen
            self.tail = (self.tail + new)[-TAIL_CHARACTERS:]
            self._write(new)


class Jobs:
    """The job API of one cluster.

    Args:
        address: As `jobs_address` gives it.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client: JobSubmissionClient | None = None
        self._heard = 0.0
        """When the cluster last answered while a job was followed."""

    def connect(self) -> None:
        """Ask whether a cluster of ours answers, and takes us.

        Raises:
            ConfigError: nothing answers, it is no Ray, or it wants a token.
        """
        _expect_answer(self.address)
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.ERROR)  # notes on uploads and sockets are not the job's
        with _only_address(self.address), _translated(self.address):
            self._client = JobSubmissionClient(self.address)

    def submit(self, submission: Submission) -> None:
        """Send what the job needs and have it started.

        Raises:
            ConfigError: the cluster refuses it.
        """
        with _translated(self.address):
            self._connected.submit_job(
                entrypoint=submission.entrypoint,
                submission_id=submission.submission_id,
                runtime_env=submission.runtime_env,
                metadata=dict(submission.metadata),
            )

    def follow(self, submission_id: str, *, write: Callable[[str], None]) -> JobEnd:
        """Write a job's log as it comes, until the job has ended.

        Raises:
            TransientError: the cluster is out of reach; the job itself may well go on.
        """
        log = FollowedLog(write)
        failing_since: float | None = None
        while True:
            try:
                asyncio.run(self._tail(submission_id, log))
                with _translated(self.address):
                    info = self._connected.get_job_info(submission_id)
                self._heard = time.monotonic()
            except (ClientError, RuntimeError, OSError, ConfigError) as error:
                # A connection may have been good for hours, and silent for long, before it broke.
                if failing_since is None or self._heard > failing_since:
                    failing_since = time.monotonic()
                if time.monotonic() - failing_since > OUT_OF_REACH_SECONDS:
                    raise TransientError(
                        f"the cluster at {self.address} has not answered for {OUT_OF_REACH_SECONDS:g} s ({error}); the "
                        "job may go on: `tokenizer-jobs status` of its output tells"
                    ) from error
            else:
                if info.status.is_terminal():
                    return job_end(info.status, exit_code=info.driver_exit_code, reason=info.message, log=log.tail)
            time.sleep(1.0)

    async def _tail(self, submission_id: str, log: FollowedLog) -> None:
        log.rewind()
        async for text in self._connected.tail_job_logs(submission_id):
            self._heard = time.monotonic()
            log.add(text)

    @property
    def _connected(self) -> JobSubmissionClient:
        assert self._client is not None, "connect() comes first"
        return self._client


def job_end(status: JobStatus, *, exit_code: int | None, reason: str | None, log: str) -> JobEnd:
    """What the end of a job means.

    Args:
        status: A terminal one.
        exit_code: Of the job's command, as far as the cluster tells.
        reason: The cluster's message.
        log: The end of the job's log.
    """
    if status == JobStatus.SUCCEEDED:
        return JobEnd(status="SUCCEEDED", exit_code=exit_code, message="done")
    if status == JobStatus.STOPPED:
        # The cluster does not tell whether the command ended by itself; its last words do.
        drained = re.search(r"^stopped[:;]", log, flags=re.MULTILINE) is not None
        how = "what was in hand is committed" if drained else "it was killed, and what it had in hand is done again"
        return JobEnd(status="STOPPED", exit_code=None, message=f"stopped: {how}; submit again to resume")
    if exit_code == EXIT_STOPPED:
        message = "stopped by a signal from outside Ray; submit again to resume"
    elif "No module named tokenizer_jobs" in log:
        message = (
            "the cluster's Python has no tokenizer_jobs; install it on every node, or send it along: "
            "tokenizer-jobs submit --send-package"
        )
    elif exit_code is None:
        message = f"Ray could not run the job, or lost it ({_first_line(reason)}); submit again to resume"
    elif exit_code < 0 or exit_code > 128:
        number = -exit_code if exit_code < 0 else exit_code - 128
        message = f"its command was killed by signal {number}; what is committed stays, submit again to resume"
    else:
        message = f"failed with exit code {exit_code}; the log above says why"
    return JobEnd(status="FAILED", exit_code=exit_code, message=message)


def _first_line(text: str | None) -> str:
    return (text or "it gives no reason").strip().split("\n", 1)[0]


def _expect_answer(address: str) -> None:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise ConfigError(f"what answers at {address} is no Ray dashboard; expected http://HOST:8265") from error
        error.close()  # it wants a token, which is judged next
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Ray cluster answers at {address} ({error}); check that it runs, and that its dashboard is reachable "
            "from here"
        ) from error


@contextmanager
def _only_address(address: str) -> Iterator[None]:
    """The variable wins over the argument of Ray's client, so it must say the same."""
    name = ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


@contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except AuthenticationError as error:
        raise ConfigError(
            f"the cluster at {address} refuses us: {_token_advice()} ({_first_line(str(error))})"
        ) from error
    except (RuntimeError, ValueError, ConnectionError) as error:
        message = str(error)
        if "status code 413" in message:
            message += (
                "; what is sent may have 100 MiB: --working-dir is for code and small files, and audio belongs on "
                "storage that the cluster reaches"
            )
        raise ConfigError(f"the cluster at {address} refuses the job: {message}") from error


def _token_advice() -> str:
    if os.environ.get("RAY_AUTH_MODE") != "token":
        return "it asks for its token, which is sent only with RAY_AUTH_MODE=token in the environment here"
    place = "RAY_AUTH_TOKEN" if os.environ.get("RAY_AUTH_TOKEN") else os.environ.get("RAY_AUTH_TOKEN_PATH")
    return (
        f"the token of {place or '~/.ray/auth_token'} is missing or not the cluster's; give the head's own in "
        "~/.ray/auth_token, RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN"
    )
