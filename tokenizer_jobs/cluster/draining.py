"""Which nodes are about to leave. The one place that asks Ray's private state for it: there is no public call (2.60).

A node drains once the autoscaler takes it for idle, or when its provider gives notice of a preemption. Ray places
nothing new there, and lets what runs go on until the node is gone.
"""

import logging
from functools import cache

__all__ = ["draining_nodes"]

_log = logging.getLogger(__name__)


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that drain; none where this Ray cannot say, so that a node is lost without notice at worst."""
    try:
        from ray._private.state import state

        return frozenset(state.get_draining_nodes())
    except Exception as error:  # noqa: BLE001  # a private face may change in every way, and nothing depends on it
        _say_once(f"this Ray does not say which nodes drain ({type(error).__name__}: {error})")
        return frozenset()


@cache
def _say_once(message: str) -> None:
    _log.warning("%s", message)
