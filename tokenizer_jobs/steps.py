"""How long work tells how far it is: a call with what is counted, how many are done, and of how many."""

from collections.abc import Callable

__all__ = ["Steps", "untold"]

Steps = Callable[[str, int, int], None]
"""Called after each step, in the thread that works: what is counted (`files`), how many are done, of how many."""


def untold(_what: str, _done: int, _total: int) -> None:
    """Steps that nobody wants to know of."""
