"""What streams push into one of the codec's two networks, whichever kernels it runs on.

Letters in shapes: N rows in lockstep, C channels, T time steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

__all__ = ["Network", "StreamPush"]

State = TypeVar("State")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StreamPush(Generic[State]):
    """The next time steps of one stream, or of N in lockstep."""

    inputs: Tensor
    """`[N, C, T]`, T >= 0."""
    state: State
    """What the network remembers of the stream, changed in place."""
    is_last: bool
    """Whether the stream ends with them; its state is then of no more use."""


class Network(Protocol):
    """A network over streams that begin and end when they like; it holds the weights, and nothing of the streams."""

    def start(self, num_rows: int) -> Any:
        """Return the state of N rows before their first time step."""

    def push(self, pushes: Sequence[StreamPush[Any]]) -> list[Tensor]:
        """Take the next time steps of some streams, and return what each completes, `[N, C', T']`.

        States are those that it returned; each is in one push.
        """
