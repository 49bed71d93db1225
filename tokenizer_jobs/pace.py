"""How the work goes, by what commits say of themselves: how fast, what it waits for, who does it. Pure functions.

All times are the commits' own: the clock of the machine that asks may differ.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict

from tokenizer_jobs.commits import Commit

__all__ = ["LATEST_UNITS", "EncoderSeen", "RecentWork", "UnitPace", "latest", "recent_work"]

LATEST_UNITS = 256
"""Units that tell how the work goes: a few for each encoder, and four rounds of requests where each is one."""

NOW_SECONDS = 600.0
"""Before the latest commit: what ended earlier is not now."""


class EncoderSeen(BaseModel):
    """A device on a host that the latest units were encoded on; several encoders may share it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    host: str
    device: str
    units: int
    audio_seconds: float
    last_finished_at: datetime


class RecentWork(BaseModel):
    """What the latest units say; shares are of the time that they took, one unit after the other."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    units: int
    """That the rest is of."""
    speed: float | None
    """Hours of audio per hour over the last ten minutes of commits; null before two of them."""
    stage_shares: dict[str, float]
    """decode_wait, encode_wait, encode, write, and other; they sum to 1."""
    bound_by: str | None
    """The stage with the largest share."""
    padding_share: float | None
    """Of the samples that the codec computed, those that were padding; null where no commit says."""
    retried: int
    """Units that took more than one attempt."""
    encoders: list[EncoderSeen]
    """The busiest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPace:
    """What a commit says of how its unit was done."""

    started: float
    """Seconds since 1970, as the next."""
    finished: float
    audio_seconds: float
    is_retried: bool
    host: str
    device: str
    stage_seconds: dict[str, float]
    num_samples: int
    num_padded_samples: int

    @staticmethod
    def of(commit: Commit) -> "UnitPace":
        """Of one commit."""
        work = commit.encode_work
        return UnitPace(
            started=commit.started_at.timestamp(),
            finished=commit.finished_at.timestamp(),
            audio_seconds=commit.audio_seconds,
            is_retried=commit.attempt > 1,
            host=commit.host,
            device=commit.device,
            stage_seconds=commit.stage_seconds,
            num_samples=0 if work is None else work.num_samples,
            num_padded_samples=0 if work is None else work.num_padded_samples,
        )


def latest(units: Iterable[UnitPace]) -> list[UnitPace]:
    """The units that ended last, in order."""
    return sorted(units, key=lambda unit: unit.finished)[-LATEST_UNITS:]


def recent_work(units: Sequence[UnitPace]) -> RecentWork | None:
    """Sum up the latest units; None where there are none.

    Args:
        units: In the order in which they ended.
    """
    if not units:
        return None
    shares = _stage_shares(units)
    num_samples = sum(unit.num_samples for unit in units)
    num_padded = sum(unit.num_padded_samples for unit in units)
    return RecentWork(
        units=len(units),
        speed=_speed_now(units),
        stage_shares=shares,
        bound_by=max(shares, key=lambda stage: shares[stage]) if shares else None,
        padding_share=num_padded / (num_samples + num_padded) if num_samples else None,
        retried=sum(unit.is_retried for unit in units),
        encoders=_encoders(units),
    )


def _stage_shares(units: Sequence[UnitPace]) -> dict[str, float]:
    seconds: defaultdict[str, float] = defaultdict(float)
    for unit in units:
        for stage, spent in unit.stage_seconds.items():
            seconds[stage] += spent
        seconds["other"] += max(0.0, unit.finished - unit.started - sum(unit.stage_seconds.values()))
    whole = sum(seconds.values())
    return {stage: seconds[stage] / whole for stage in sorted(seconds)} if whole > 0 else {}


def _speed_now(units: Sequence[UnitPace]) -> float | None:
    """Audio of the units that ended after the first of them, by the time since it ended."""
    now = [unit for unit in units if unit.finished > units[-1].finished - NOW_SECONDS]
    seconds = now[-1].finished - now[0].finished
    return sum(unit.audio_seconds for unit in now[1:]) / seconds if seconds > 0 else None


def _encoders(units: Sequence[UnitPace]) -> list[EncoderSeen]:
    by_place: dict[tuple[str, str], list[UnitPace]] = {}
    for unit in units:
        by_place.setdefault((unit.host, unit.device), []).append(unit)
    seen = [
        EncoderSeen(
            host=host,
            device=device,
            units=len(own),
            audio_seconds=sum(unit.audio_seconds for unit in own),
            last_finished_at=datetime.fromtimestamp(own[-1].finished, UTC),
        )
        for (host, device), own in by_place.items()
    ]
    return sorted(seen, key=lambda one: (-one.audio_seconds, one.host, one.device))
