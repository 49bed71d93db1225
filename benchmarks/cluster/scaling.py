"""Units a second in steady state with 1 to 16 encoders, and the driver's memory over a run of many units.

An encoder's device is busy for 2 s with each unit, one at a time, so that N encoders can do N / 2 units a second at
most: that is 100 %. Each has two or more units in hand, of which the next is ready when the device is free. Steady
state: from the moment when every encoder has ended two units until the first one has none left.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.cluster.bars import Bar, Found
from benchmarks.cluster.driver import Setting, UnitEnded
from benchmarks.cluster.inputs import made_up
from benchmarks.cluster.processes import Driver, work_folder

__all__ = ["Growth", "Steady", "do_units", "efficiency", "growth", "measure"]

LEAST_EFFICIENCY = 0.9
MOST_GROWTH = 0.1
"""Of the driver's memory, from 1,000 units to the end."""
ROUNDS = 15
"""Units of each encoder in a run."""
ENCODERS = 4
"""Of the run of many units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steady:
    """What some encoders did in steady state."""

    encoders: int
    units_per_second: float
    efficiency: float
    """Of what their devices can do."""
    units: int
    """That were measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A run of many units."""

    units: int
    units_per_second: float
    megabytes: dict[int, float]
    """Resident size of the driver after so many units."""


def do_units(num_units: int, *, encoders: int, unit_seconds: float, ray_address: str | None = None) -> list[UnitEnded]:
    """Run a job of about so many units to its end."""
    source, unit_minutes = made_up(num_units)
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
            return driver.run_to_end()


def efficiency(units: Sequence[UnitEnded], *, encoders: int, unit_seconds: float) -> Steady:
    """Rate of the steady part of a run, and its share of what the devices can do.

    The rate of an encoder is that of the intervals between its units; no unit in phase with others is counted by the
    luck of where a window begins.

    Raises:
        SystemExit: not every encoder ended two units while all were at work.
    """
    ends = defaultdict[str, list[float]](list)
    for unit in sorted(units, key=lambda unit: unit.at):
        ends[unit.encoder].append(unit.at)
    first = max(times[:2][-1] for times in ends.values())
    last = min(times[-1] for times in ends.values())
    inside = {encoder: [at for at in times if first <= at <= last] for encoder, times in ends.items()}
    if len(ends) < encoders or any(len(times) < 2 for times in inside.values()):
        raise SystemExit(
            f"{len(ends)} of {encoders} encoders were at work, with {sorted(map(len, inside.values()))} units while "
            "all were; take more units"
        )
    rate = sum((len(times) - 1) / (times[-1] - times[0]) for times in inside.values())
    return Steady(
        encoders=encoders,
        units_per_second=rate,
        efficiency=rate / (encoders / unit_seconds),
        units=sum(map(len, inside.values())),
    )


def growth(units: Sequence[UnitEnded]) -> Growth:
    """Rate and memory over a whole run."""
    sizes = {number: unit.driver_megabytes for number, unit in enumerate(units, 1) if unit.driver_megabytes}
    seconds = units[-1].at - units[0].at
    return Growth(units=len(units), units_per_second=(len(units) - 1) / seconds, megabytes=sizes)


def measure(*, unit_seconds: float, encoders: Sequence[int], num_units: int) -> Found:
    """Both: steady states, and a run of many units."""
    states = list[Steady]()
    for count in encoders:
        units = do_units(count * ROUNDS, encoders=count, unit_seconds=unit_seconds)
        states.append(efficiency(units, encoders=count, unit_seconds=unit_seconds))
        print(states[-1], flush=True)
    grown = growth(do_units(num_units, encoders=ENCODERS, unit_seconds=0.0))
    marks = _marks(grown)
    rows = [
        (
            f"{state.encoders} encoders, {unit_seconds:g} s a unit",
            f"{state.units}",
            f"{state.units_per_second:.2f}",
            f"**{state.efficiency:.1%}**",
            "",
        )
        for state in states
    ]
    sizes = ", ".join(f"{megabytes:.0f} at {number:,}" for number, megabytes in marks.items())
    rows.append((f"{ENCODERS} encoders, no time", f"{grown.units}", f"{grown.units_per_second:.1f}", "", sizes))
    return Found(
        title="Scaling",
        about=(
            "The service's driver, encoder actors, shards and commits on a private Ray, with waveforms made up in the "
            "encoders and a codec that sleeps; all of them share the cores. 100 %: every device busy all the time, "
            "one unit each. Units and rate of the steady state: from when every encoder has ended two units until "
            "the first has none left."
        ),
        columns=("Job", "Units", "Units/s", "Efficiency", "Driver MB"),
        rows=tuple(rows),
        bars=(_scaling_bar(states[-1]), _memory_bar(marks)),
    )


def _marks(grown: Growth) -> dict[int, float]:
    """Sizes after 1,000, 5,000, 10,000 … units, and the last one; of a shorter run all of them."""
    last = max(grown.megabytes)
    wanted = {1_000, 5_000, 10_000, 20_000, 50_000, last} if last > 1_000 else set(grown.megabytes)
    return {number: size for number, size in grown.megabytes.items() if number in wanted}


def _scaling_bar(state: Steady) -> Bar:
    return Bar(
        promise=f"efficiency of {state.encoders} encoders above {LEAST_EFFICIENCY:.0%}",
        found=f"{state.efficiency:.1%}",
        is_kept=state.efficiency > LEAST_EFFICIENCY,
    )


def _memory_bar(marks: dict[int, float]) -> Bar:
    (few, before), (many, after) = min(marks.items()), max(marks.items())
    each = 1024 * (after - before) / max(1, many - few)
    steps = ", ".join(f"{b - a:+.0f}" for (_, a), (_, b) in pairwise(sorted(marks.items())))
    return Bar(
        promise=f"driver memory flat: less than {MOST_GROWTH:.0%} more after {many:,} units than after {few:,}",
        found=f"{after / before - 1:+.1%} ({steps} MB; {each:.2f} kB a unit)",
        is_kept=after < (1 + MOST_GROWTH) * before,
    )
