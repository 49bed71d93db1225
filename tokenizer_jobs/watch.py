"""What a run can be asked while it goes on, from any thread: what its encoders do, and how the latest units went."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

from tokenizer_jobs.commits import Commit
from tokenizer_jobs.pace import LATEST_UNITS, RecentWork, UnitPace, recent_work
from tokenizer_jobs.stopping import StopRequest

__all__ = ["EncoderNow", "EncoderState", "Watch", "Watchable"]


class EncoderState(StrEnum):
    """What an encoder does."""

    PLACING = "placing"
    """It was asked for, and has no place on a node yet."""
    LOADING = "loading"
    ENCODING = "encoding"
    """It has a unit in hand; of an encoder in this process: and encodes or writes."""
    WAITING = "waiting"
    """For a unit; of an encoder in this process: or for the next of it to be decoded."""
    LEAVING = "leaving"
    """Its node drains: it ends what it holds."""
    LOST = "lost"
    """Another is asked for in its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderNow:
    """One encoder at one moment."""

    name: str
    state: EncoderState
    num_units: int = 0
    """That it holds."""
    num_items: int = 0
    """Of these units; 0 where only the encoder knows."""
    num_decoded: int = 0
    """Of these items, that came to the codec so far."""

    @classmethod
    def of(cls, name: str, state: EncoderState, *, num_units: int = 0) -> "EncoderNow":
        """One that is told by its state and what it holds: with units in hand it does not wait, it encodes."""
        encodes = num_units > 0 and state is EncoderState.WAITING
        return cls(name=name, state=EncoderState.ENCODING if encodes else state, num_units=num_units)


@runtime_checkable
class Watchable(Protocol):
    """Something that can say what its encoders do."""

    def look(self) -> Sequence[EncoderNow]:
        """Say what each encoder does; may be called in any thread, and before and after the work."""


class Watch:
    """What is told of a run between its reports."""

    def __init__(self) -> None:
        self._look: Callable[[], Sequence[EncoderNow]] | None = None
        self._stop: StopRequest | None = None
        self._units: deque[UnitPace] = deque(maxlen=LATEST_UNITS)

    def follow(self, executor: object, stop: StopRequest) -> None:
        """Look at this executor from now on; one that cannot say what its encoders do has none."""
        self._look = executor.look if isinstance(executor, Watchable) else None
        self._stop = stop

    def add(self, commit: Commit) -> None:
        """Take note of a unit of this run."""
        self._units.append(UnitPace.of(commit))

    def encoders(self) -> Sequence[EncoderNow] | None:
        """What each encoder does now; empty where none is there yet, None where nobody can say."""
        return None if self._look is None else self._look()

    def recent(self) -> RecentWork | None:
        """How this run's latest units went; None before the first."""
        return recent_work(sorted(self._units, key=lambda unit: unit.finished))

    @property
    def stop_seconds_left(self) -> float | None:
        """Until units in hand are abandoned; None as long as nobody asked to stop."""
        return None if self._stop is None else self._stop.seconds_left
