"""What Ray's public calls do not say (2.60): which nodes are about to leave, and which actors hold a place already.

The one place that asks Ray's private state. A node drains once the autoscaler takes it for idle, or when its provider
gives notice of a preemption. Ray places nothing new there, and lets what runs go on until the node is gone.
"""

import logging
from functools import cache
from typing import Any

__all__ = ["draining_nodes", "holds_place"]

_log = logging.getLogger(__name__)


def draining_nodes() -> frozenset[str]:
    """Ids of the nodes that drain; none where this Ray cannot say, so that a node is lost without notice at worst."""
    try:
        from ray._private.state import state

        return frozenset(state.get_draining_nodes())
    except Exception as error:  # noqa: BLE001  # a private face may change in every way, and nothing depends on it
        _say_once(f"this Ray does not say which nodes drain ({type(error).__name__}: {error})")
        return frozenset()


def holds_place(actor: Any) -> bool:
    """Whether an actor has its process, be it still importing; False where this Ray cannot say."""
    try:
        from ray._private.state import actors

        return bool(actors(actor._actor_id.hex())["Address"]["Port"])
    except Exception as error:  # noqa: BLE001  # as above
        _say_once(f"this Ray does not say which encoders have a process ({type(error).__name__}: {error})")
        return False


@cache
def _say_once(message: str) -> None:
    _log.warning("%s", message)
