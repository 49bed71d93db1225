"""What one show of the chaos is made of, and what a broken law is called."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

__all__ = ["ROOT", "Blow", "Seen", "Settings", "ViolationError"]

ROOT = Path(__file__).parents[2]


class ViolationError(Exception):
    """A law was broken: the message says which, with the numbers."""


class Blow(StrEnum):
    """What is done to the service; the words are those of the screen and of the results."""

    ENCODER = "encoder killed"
    DECODER = "decode worker killed"
    RAYLET = "raylet killed"
    DRIVER = "driver killed"
    STOP = "SIGTERM stop"
    SECOND_DRIVER = "second driver"
    FROZEN_ENCODER = "encoder frozen"
    FROZEN_DRIVER = "driver frozen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One show."""

    rounds: int
    seed: int
    minutes: float | None
    """No round begins after so long; None: no limit."""
    store: Literal["s3", "local"]
    num_items: int
    unit_minutes: float
    errors: float
    """Share of the store's requests that are answered by an error."""
    cuts: float
    """Share whose connection is cut."""
    late: float
    """Share that comes late."""
    late_ms: float
    num_blows: int | None
    """In one round, the first that were drawn; None: all."""
    round_seconds: float
    """That a round may take before it counts as hanging."""


@dataclass(slots=True)
class Seen:
    """What happened so far, over all rounds."""

    rounds: int = 0
    """That ended with every law kept."""
    blows: Counter[Blow] = field(default_factory=Counter)
    starts: int = 0
    """Of drivers."""
    endings: Counter[str] = field(default_factory=Counter)
    """How drivers ended."""
    nodes_replaced: int = 0
    requests: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    drain_seconds: list[float] = field(default_factory=list)
    """From SIGTERM to the end, of drivers that were at work."""
    items: int = 0
    """Over all rounds, each checked."""
