"""Asking a run to stop: no new units, a grace period for those in flight, then they are abandoned."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tokenizer_jobs.errors import TokenizerJobsError

__all__ = ["StopRequest", "UnitAbandonedError", "stop_on_signals"]


class UnitAbandonedError(TokenizerJobsError):
    """The grace period ended with the unit in flight; nothing of it was committed."""


class StopRequest:
    """Whether a run should stop, and until when units in flight may go on.

    Args:
        grace_seconds: Time from the request until units in flight are abandoned.
    """

    def __init__(self, *, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._deadline: float | None = None
        self._requested = threading.Event()

    def request(self) -> None:
        """Ask to stop; asking again ends the grace period at once."""
        if self.requested:
            self.abandon()
            return
        self._deadline = time.monotonic() + self._grace_seconds
        self._requested.set()

    def abandon(self) -> None:
        """Ask to stop without a grace period."""
        self._deadline = time.monotonic()
        self._requested.set()

    @property
    def requested(self) -> bool:
        """No new unit may begin."""
        return self._requested.is_set()

    @property
    def seconds_left(self) -> float | None:
        """Grace left for units in flight, not below 0; None as long as nobody asked to stop."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def check(self) -> None:
        """Raise once the grace period is over.

        Raises:
            UnitAbandonedError: it is over.
        """
        if self.seconds_left == 0.0:
            raise UnitAbandonedError("stopped before the unit was done; run again to resume")


@contextmanager
def stop_on_signals(stop: StopRequest) -> Iterator[None]:
    """Turn SIGTERM and SIGINT into a request to stop; a second one ends the grace period.

    Ray installs handlers of its own in `ray.init`, so enter this after it. Outside the main thread, where Python
    allows no handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(_signal: int, _frame: FrameType | None) -> None:
        stop.request()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
