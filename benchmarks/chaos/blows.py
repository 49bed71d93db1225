"""What is done to the service in one round, and when: drawn from a seed, so that a show can be repeated in kind.

The moments at which blows land depend on the machine; which ones come, in which order and after which pauses do not.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.chaos.settings import Blow

__all__ = ["Moment", "Planned", "plan_blows"]

ALWAYS = (Blow.ENCODER, Blow.ENCODER, Blow.DECODER, Blow.DECODER, Blow.RAYLET, Blow.DRIVER, Blow.STOP)
NOW_AND_THEN = (Blow.SECOND_DRIVER, Blow.FROZEN_ENCODER, Blow.FROZEN_DRIVER)
PAUSE_SECONDS = (0.2, 2.5)
FROZEN_SECONDS = (2.0, 8.0)
START_SECONDS = (0.5, 8.0)
"""After the start of a driver that is struck while it loads, plans or connects."""
END_SECONDS = (0.0, 1.5)
"""After the last commit, when a driver is struck while it publishes, sweeps and says goodbye."""


class Moment(StrEnum):
    """In which part of a run a blow lands."""

    START = "start"
    WORK = "work"
    END = "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A blow to come."""

    blow: Blow
    moment: Moment
    pause_seconds: float
    """After the blow before; at the start or the end of a run: after that."""
    luck: float
    """In [0, 1): picks the victim among those that are there."""
    frozen_seconds: float


def plan_blows(chance: random.Random) -> list[Planned]:
    """Draw the blows of a round: each kind that always comes, one or two of the others, in any order.

    What lands at the end of a run comes last.
    """
    blows = [*ALWAYS, *chance.sample(NOW_AND_THEN, chance.choice((1, 2)))]
    chance.shuffle(blows)
    planned = [_drawn(blow, chance) for blow in blows]
    return sorted(planned, key=lambda one: one.moment is Moment.END)


def _drawn(blow: Blow, chance: random.Random) -> Planned:
    moments = {
        Blow.DRIVER: (Moment.START, Moment.WORK, Moment.WORK, Moment.END),
        Blow.STOP: (Moment.START, Moment.WORK, Moment.WORK, Moment.WORK, Moment.END),
        Blow.SECOND_DRIVER: (Moment.START, Moment.WORK),
    }.get(blow, (Moment.WORK,))
    moment = chance.choice(moments)
    spans = {Moment.START: START_SECONDS, Moment.WORK: PAUSE_SECONDS, Moment.END: END_SECONDS}
    span = (0.0, 1.0) if blow is Blow.SECOND_DRIVER and moment is Moment.START else spans[moment]
    return Planned(
        blow=blow,
        moment=moment,
        pause_seconds=chance.uniform(*span),
        luck=chance.random(),
        frozen_seconds=chance.uniform(*FROZEN_SECONDS),
    )
