"""Waiting for what other processes, threads and nodes do."""

import time
from collections.abc import Callable

__all__ = ["wait_until"]


def wait_until(condition: Callable[[], object], *, what: str, seconds: float) -> None:
    """Look until a condition holds.

    Args:
        condition: Looked at again and again; its time is at most a tenth of all, so that what is waited for gets on.
        what: What is waited for, for the message.
        seconds: How long at most.

    Raises:
        AssertionError: it did not hold in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        begin = time.monotonic()
        if condition():
            return
        end = time.monotonic()
        assert end < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(max(0.01, 9 * (end - begin)))
