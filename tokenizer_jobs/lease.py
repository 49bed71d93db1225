"""The lease: keeps a second live run out of an output. A courtesy; commits carry correctness.

acquire ── beat every 10 s ── … ── release          a lease without a beat for 60 s may be taken over;
                                                    at once when its process is known to be gone
"""

import json
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

from tokenizer_jobs.errors import ConfigError, OutputBusyError, TransientError
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.storage import STAGING_FOLDER, Storage

__all__ = ["LEASE_PATH", "Lease", "LeaseHolder", "read_lease"]

LEASE_PATH = "_lease.json"

BEAT_SECONDS = 10.0
EXPIRY_SECONDS = 60.0
"""Ages compare wall clocks of two hosts: clocks may differ by up to 50 s less the beat before a live lease on another
host looks dead, or a dead one lives that much longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseHolder:
    """The run that a lease names."""

    run_id: str
    owner: Owner
    started_at: float
    """Seconds since 1970."""
    heartbeat: float
    """Seconds since 1970, by the holder's clock."""

    def may_be_replaced(self, *, here: Owner, now: float) -> bool:
        """Whether the run is known to be gone, or has not been heard of for too long.

        Args:
            here: The process that asks.
            now: Seconds since 1970.
        """
        if self.owner.is_gone(here=here):
            return True
        # A live process of this machine keeps its lease however late its beat is: it may only have been stopped.
        return not self.owner.shares_pids(here) and now - self.heartbeat > EXPIRY_SECONDS

    def to_json(self) -> bytes:
        """The content of the lease file."""
        content = {
            "run_id": self.run_id,
            **asdict(self.owner),
            "started_at": self.started_at,
            "heartbeat": self.heartbeat,
        }
        return json.dumps(content, indent=2).encode() + b"\n"


class Lease:
    """Holds an output for one run; a context manager.

    Args:
        storage: The output.
        run_id: Names the run, unique among runs.
    """

    def __init__(self, storage: Storage, run_id: str) -> None:
        self._storage = storage
        self._run_id = run_id
        self._owner = Owner.current()
        self._started_at = 0.0
        self._lost: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def lost(self) -> str | None:
        """Why the lease is no longer held, for a person; None while it is. The driver should then stop."""
        return self._lost

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease and start its heartbeat.

        Crash points: the lease file appears, and is replaced, whole; a process that dies in between leaves a lease
        that the next run takes over by the rules above.

        Raises:
            OutputBusyError: another live run holds it; the message says who, and when it could be taken over.
        """
        self._started_at = time.time()
        if not self._storage.put_if_absent(LEASE_PATH, self._content()):
            self._take_over()
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Stop the heartbeat and remove the lease if it is still ours.

        A storage that fails at this moment does not make a failure of a run that is done: a lease that stays names a
        process that is gone.

        Crash points: the lease is there or not. Between the look and the removal another run may have taken it over,
        if this process slept for a minute there: then that one's lease is gone, and its next beat brings it back.
        """
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with suppress(TransientError):
            if self._is_ours(_read(self._storage)):
                self._storage.delete(LEASE_PATH)

    def look(self) -> None:
        """Find out now whether another run took over, for steps that a run which slept must not take any more.

        A storage that does not answer is left to the heartbeat.
        """
        with suppress(TransientError, ConfigError, OSError):
            self._look()

    def _look(self) -> None:
        found = _read(self._storage)
        if found is not None and not self._is_ours(found):
            self._lost = f"run {found.run_id} on {found.owner.host} took over the lease"

    def _take_over(self) -> None:
        found = _read(self._storage)
        if found is None:  # released since
            if not self._storage.put_if_absent(LEASE_PATH, self._content()):
                self._take_over()
            return
        if not found.may_be_replaced(here=self._owner, now=time.time()):
            raise OutputBusyError(_busy_message(self._storage, found, now=time.time()))
        # Two runs may find the same dead lease. An exclusive claim lets one of them replace it; the look after the
        # claim keeps a slow second one from replacing the first one's new lease.
        claim = f"{STAGING_FOLDER}/claim-{found.run_id}-{found.owner.pid}-{int(found.heartbeat)}"
        if not self._storage.put_if_absent(claim, uuid.uuid4().hex.encode()):
            self._drop_dead_claim(claim)
            raise OutputBusyError(
                f"output {self._storage.name!r}: another run is taking over the lease of run {found.run_id}; "
                f"run again in {EXPIRY_SECONDS:.0f} s"
            )
        try:
            again = _read(self._storage)
            if again != found:
                holder = again.run_id if again is not None else "none"
                raise OutputBusyError(
                    f"output {self._storage.name!r}: run {holder} took over the lease just now; wait for it to end"
                )
            self._storage.replace(LEASE_PATH, self._content())
        finally:
            self._storage.delete(claim)

    def _drop_dead_claim(self, claim: str) -> None:
        for file in self._storage.list(STAGING_FOLDER):
            if file.path == claim and time.time() - file.modified > EXPIRY_SECONDS:
                self._storage.delete(claim)

    def _beat(self) -> None:
        last_beat = time.monotonic()
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self._look()
                if self._lost is not None:
                    return
                self._storage.replace(LEASE_PATH, self._content())
                last_beat = time.monotonic()
            except (TransientError, ConfigError, OSError) as error:
                # One missed beat does no harm; after the expiry another run may rightly think this one dead.
                if time.monotonic() - last_beat > EXPIRY_SECONDS:
                    self._lost = f"the lease could not be renewed for {EXPIRY_SECONDS:.0f} s: {error}"
                    return

    def _is_ours(self, found: LeaseHolder | None) -> bool:
        return found is not None and (found.run_id, found.owner) == (self._run_id, self._owner)

    def _content(self) -> bytes:
        holder = LeaseHolder(run_id=self._run_id, owner=self._owner, started_at=self._started_at, heartbeat=time.time())
        return holder.to_json()


def read_lease(storage: Storage) -> LeaseHolder | None:
    """The run that holds an output, or held it when it died; None when there is no lease."""
    return _read(storage)


def _read(storage: Storage) -> LeaseHolder | None:
    try:
        content = storage.read_bytes(LEASE_PATH)
    except FileNotFoundError:
        return None
    try:
        fields = json.loads(content)
        return LeaseHolder(
            run_id=str(fields["run_id"]),
            owner=_owner(fields),
            started_at=float(fields.get("started_at", 0.0)),
            heartbeat=float(fields["heartbeat"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        # A lease is never half visible, so this was no run of ours: as one not heard of since 1970.
        return LeaseHolder(run_id="unreadable", owner=_owner({}), started_at=0.0, heartbeat=0.0)


def _owner(fields: Mapping[str, Any]) -> Owner:
    return Owner(
        host=str(fields.get("host", "")),
        boot_id=str(fields.get("boot_id", "")),
        pid_namespace=str(fields.get("pid_namespace", "")),
        pid=int(fields.get("pid", 0)),
        pid_started=int(fields.get("pid_started", 0)),
    )


def _busy_message(storage: Storage, found: LeaseHolder, *, now: float) -> str:
    left = EXPIRY_SECONDS - (now - found.heartbeat)
    return (
        f"output {storage.name!r} is held by run {found.run_id} on {found.owner.host} (pid {found.owner.pid}, "
        f"last heard of {max(0.0, now - found.heartbeat):.0f} s ago); wait for it to end, or stop it. "
        f"If its machine is gone, it can be taken over in {max(0.0, left):.0f} s"
    )
