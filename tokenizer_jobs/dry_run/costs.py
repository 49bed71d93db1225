"""What work costs, fitted to measured units, and how long other work takes by it: pure functions.

    seconds of a stage = per_item x items + per_audio_second x seconds of audio + per_unit

A rate alone would not do: opening a clip of half a second costs as much as decoding a minute of it.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.results import StageCost

__all__ = [
    "ENCODE",
    "Machine",
    "MeasuredUnit",
    "UnitWork",
    "fit_stages",
    "fit_with_first",
    "job_seconds",
    "stage_seconds",
]

ENCODE = "encode"
"""The stage that a GPU takes over; all others stay on the cores."""

LEAST_UNITS = 3
"""Of each lane, for its first to be told from the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitWork:
    """How much is in a unit."""

    items: int
    audio_seconds: float
    """Estimated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredUnit(UnitWork):
    """How long a unit took."""

    stages: Mapping[str, float]
    """Seconds of one lane, by stage: every second of the unit is in one of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What works at once."""

    lanes: int
    """Units at once on the cores: one for each core that the job uses."""
    gpus: int = 0
    """Where encoding is on GPUs; 0: it is on the cores."""


def fit_stages(units: Sequence[MeasuredUnit]) -> dict[str, StageCost]:
    """Fit the cost of each stage: least squares with no cost below zero, larger units weighing less for their size."""
    work = np.array([[unit.items, unit.audio_seconds, 1.0] for unit in units])
    weights = 1 / np.sqrt(np.maximum(work @ [0.1, 1.0, 0.1], 1e-9))
    names = dict.fromkeys(name for unit in units for name in unit.stages)
    costs = {}
    for name in names:
        seconds = np.array([unit.stages.get(name, 0.0) for unit in units])
        per_item, per_second, per_unit = _least_squares(work * weights[:, None], seconds * weights)
        # The weights move the fit a little off the total; the whole sample's time is what was really measured.
        fitted = float((work @ [per_item, per_second, per_unit]).sum())
        scale = float(seconds.sum()) / fitted if fitted > 0 else 1.0
        costs[name] = StageCost(
            per_item=per_item * scale, per_audio_second=per_second * scale, per_unit=per_unit * scale
        )
    return costs


def fit_with_first(units: Sequence[MeasuredUnit], *, lanes: int) -> tuple[dict[str, StageCost], float]:
    """Fit the cost of each stage to all but the first unit of each lane, which a lane begins with: it starts children.

    Args:
        units: In the order in which they began.
        lanes: Units at once.

    Returns:
        The costs, and the seconds that beginning takes beyond them; with fewer than three units for each lane that
        is 0, and a part of the costs.
    """
    if len(units) < LEAST_UNITS * lanes:
        return fit_stages(units), 0.0
    costs = fit_stages(units[lanes:])
    first = units[:lanes]
    spent = sum(sum(unit.stages.values()) for unit in first)
    return costs, max(0.0, spent - sum(stage_seconds(first, costs).values())) / lanes


def _least_squares(work: npt.NDArray[np.float64], seconds: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """The best non-negative solution: with three unknowns, that of the best of all subsets of them."""
    best, least = (0.0, 0.0, 0.0), inf
    for size in (1, 2, 3):
        for chosen in combinations(range(3), size):
            columns = work[:, chosen]
            solution, _, rank, _ = np.linalg.lstsq(columns, seconds, rcond=1e-6)
            error = float(((columns @ solution - seconds) ** 2).sum())
            if rank == size and (solution >= 0).all() and error < least * (1 - 1e-9):
                costs = [0.0, 0.0, 0.0]
                for place, value in zip(chosen, solution.tolist(), strict=True):
                    costs[place] = value
                best, least = (costs[0], costs[1], costs[2]), error
    return best


def stage_seconds(units: Iterable[UnitWork], costs: Mapping[str, StageCost]) -> dict[str, float]:
    """Seconds of one lane that units take in each stage."""
    total_items = total_audio = num_units = 0.0
    for unit in units:
        total_items += unit.items
        total_audio += unit.audio_seconds
        num_units += 1
    return {
        name: cost.per_item * total_items + cost.per_audio_second * total_audio + cost.per_unit * num_units
        for name, cost in costs.items()
    }


def job_seconds(
    units: Sequence[UnitWork], costs: Mapping[str, StageCost], *, machine: Machine, startup_seconds: float
) -> float:
    """How long a job takes.

    On cores alone the units go to lanes in plan order, each to the lane that is free first. With GPUs the cores work
    ahead: the job takes what the slower side takes, encoding shared by the GPUs or all the rest shared by the lanes,
    and the other side's part of one unit.

    Args:
        units: Of the plan, in order.
        costs: Seconds of one lane; of encoding, of one GPU where there are any.
        machine: What works at once.
        startup_seconds: Before the first unit and after the last.
    """
    if not machine.gpus:
        lanes = [0.0] * machine.lanes
        for unit in units:
            heapq.heapreplace(lanes, lanes[0] + sum(stage_seconds([unit], costs).values()))
        return startup_seconds + max(lanes)
    stages = stage_seconds(units, costs)
    encoding = stages.pop(ENCODE, 0.0)
    on_gpus = encoding / min(machine.gpus, max(len(units), 1))
    on_cores = sum(stages.values()) / machine.lanes
    return startup_seconds + max(on_gpus, on_cores) + min(on_gpus, on_cores) / max(len(units), 1)
