"""How long one of eight encoders is missed after SIGKILL, and how many units are done again for it.

     rate before            dip            95 % again
──────────────────── kill ──────── │ five seconds │ ──────
                      0 ─────────────────────────▶ s
"""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cluster.bars import Bar, Found
from benchmarks.cluster.driver import Setting, UnitEnded
from benchmarks.cluster.inputs import made_up
from benchmarks.cluster.processes import Driver, is_encoder, work_folder

__all__ = ["Recovery", "measure", "recover", "seconds_to_recover"]

SHARE = 0.95
MOST_SECONDS = 60.0
MOST_REDONE = 2
STEP_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """One kill and what came of it."""

    rate_before: float
    """Units a second."""
    seconds: float | None
    """From the kill to the end of the first window with 95 % of that; None: it did not come."""
    redone: int
    """Units with more than one attempt."""


def recover(
    *,
    encoders: int,
    unit_seconds: float,
    kills: int,
    before_seconds: float,
    after_seconds: float,
    window_seconds: float,
    ray_address: str | None = None,
) -> list[Recovery]:
    """Kill an encoder after each stretch of steady work, and see what becomes of the rate.

    Args:
        encoders: At work.
        unit_seconds: That a device is busy with a unit.
        kills: How many, one after the other.
        before_seconds: Of steady work before each kill, over which the rate is taken.
        after_seconds: Of watching after it, at most: less when the rate is back.
        window_seconds: Over which a rate is taken afterwards.
        ray_address: Of a cluster; None: a private one.
    """
    # More than can be done: it is stopped when enough was seen.
    seconds = kills * (before_seconds + after_seconds) + 60
    source, unit_minutes = made_up(round(1.5 * seconds * encoders / unit_seconds))
    found = list[Recovery]()
    with work_folder() as folder:
        setting = Setting(
            output=str(folder / "out"),
            source=source,
            unit_minutes=unit_minutes,
            encoders=encoders,
            unit_seconds=unit_seconds,
            ray_address=ray_address,
        )
        with Driver(setting) as driver:
            pids = _wait_for_all(driver, encoders)
            for number in range(kills):
                before = list(driver.units(seconds=before_seconds))
                pids |= {unit.encoder: unit.pid for unit in before}
                killed = _kill(pids, before, turn=number)
                found.append(
                    _watch(driver, since=killed, rate=_rate(before), most=after_seconds, window=window_seconds)
                )
                print(found[-1], flush=True)
    return found


def _wait_for_all(driver: Driver, encoders: int) -> dict[str, int]:
    """Wait until each encoder has ended two units; their processes."""
    ended = dict[str, list[UnitEnded]]()
    for unit in driver.units():
        ended.setdefault(unit.encoder, []).append(unit)
        if len(ended) == encoders and all(len(units) > 1 for units in ended.values()):
            return {name: units[-1].pid for name, units in ended.items()}
    raise SystemExit(f"{len(ended)} of {encoders} encoders had ended two units when there were none left")


def _kill(pids: dict[str, int], before: Sequence[UnitEnded], *, turn: int) -> float:
    """SIGKILL one of the encoders that were at work; when, in seconds since 1970."""
    at_work = sorted({unit.encoder for unit in before})
    name = at_work[turn % len(at_work)]
    assert is_encoder(pids[name]), f"process {pids[name]} is no encoder any more"
    now = time.time()
    os.kill(pids[name], signal.SIGKILL)
    return now


def _watch(driver: Driver, *, since: float, rate: float, most: float, window: float) -> Recovery:
    """Listen until the rate is back, and for two windows more: units that were lost have ended again by then."""
    after, seconds = list[UnitEnded](), None
    while seconds is None and time.time() < since + most:
        after += driver.units(seconds=window)
        seconds = seconds_to_recover(
            [unit.at for unit in after], since=since, until=time.time(), rate=rate, window_seconds=window
        )
    after += driver.units(seconds=2 * window)
    return Recovery(rate_before=rate, seconds=seconds, redone=sum(unit.attempt > 1 for unit in after))


def _rate(units: Sequence[UnitEnded]) -> float:
    """Units a second, over the intervals between them."""
    return (len(units) - 1) / (units[-1].at - units[0].at)


def seconds_to_recover(
    ends: Sequence[float], *, since: float, until: float, rate: float, window_seconds: float
) -> float | None:
    """Time to the end of the first window after a moment that has 95 % of a rate; None where there is none.

    Args:
        ends: When units ended.
        since: The moment.
        until: When the watching ended.
        rate: In units a second.
        window_seconds: Length of a window.
    """
    wanted = SHARE * rate * window_seconds
    begin = since
    while begin + window_seconds <= until:
        if sum(begin < at <= begin + window_seconds for at in ends) >= wanted:
            return begin + window_seconds - since
        begin += STEP_SECONDS
    return None


def measure(*, encoders: int, unit_seconds: float, kills: int) -> Found:
    """Kill some, and hold the worst against the bars."""
    window_seconds = 5.0
    found = recover(
        encoders=encoders,
        unit_seconds=unit_seconds,
        kills=kills,
        before_seconds=20.0,
        after_seconds=75.0,
        window_seconds=window_seconds,
    )
    rows = [
        (
            f"{number}",
            f"{one.rate_before:.2f}",
            "never" if one.seconds is None else f"**{one.seconds:.1f}**",
            f"**{one.redone}**",
        )
        for number, one in enumerate(found, 1)
    ]
    times = [one.seconds for one in found if one.seconds is not None]
    worst, redone = max(times, default=0.0), max(one.redone for one in found)
    all_came_back = len(times) == len(found)
    return Found(
        title="Recovery",
        about=(
            f"{encoders} encoders whose devices take {unit_seconds:g} s a unit, on a private Ray; SIGKILL to one of "
            f"them after 20 s of steady work, {kills} times, each time another. Seconds from the kill to the end of "
            f"the first {window_seconds:g} s with {SHARE:.0%} of the rate before, so that {window_seconds:g} is the "
            "least there is. Redone: units with more than one attempt."
        ),
        columns=("Kill", "Units/s before", "Seconds", "Redone"),
        rows=tuple(rows),
        bars=(
            Bar(
                promise=f"the rate is back to {SHARE:.0%} within {MOST_SECONDS:g} s",
                found=f"{worst:.1f} s at most" if all_came_back else "never",
                is_kept=all_came_back and worst <= MOST_SECONDS,
            ),
            Bar(
                promise=f"at most {MOST_REDONE} units are redone",
                found=f"{redone} at most",
                is_kept=redone <= MOST_REDONE,
            ),
        ),
    )
