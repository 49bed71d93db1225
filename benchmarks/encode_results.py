"""What the encode benchmark found, as a section of `RESULTS.md` and as a plot."""

import importlib.util
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from benchmarks.encode_rows import ALONE, OURS, PADDED_BATCH, PEERS, TOGETHER, Measurement, Setting
from benchmarks.machine import describe_machine

__all__ = ["ModelResult", "row", "section", "write_plot"]

_WAYS = tuple(f"{peer}, {way}" for peer in PEERS for way in (ALONE, TOGETHER))
_COLUMNS = (
    "Clips", "n_q", "Allocator", "Ours ms/s", "× real time", *_WAYS, "Over ours", "differ, alone", "differ, batched",
    "of codes", "Neighbours",
)  # fmt: skip
PLOTTED_N_Q = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelResult:
    """All rows of one codec."""

    sampling_rate: int
    audio: str
    """What was encoded, in a line."""
    rows: Sequence[tuple[Setting, Measurement]]


def row(setting: Setting, found: Measurement) -> str:
    """One row of the table."""
    ours = found.milliseconds[OURS]
    best = _best_way(found)
    cells = [
        setting.name,
        str(found.n_q),
        setting.allocator,
        _spread(ours, digits=1),
        f"{1000 / statistics.median(ours):.1f}",
        *(_time(found, way, best=best) for way in _WAYS),
        f"**{statistics.median(_ratios(found)):.2f}** ({min(_ratios(found)):.2f} to {max(_ratios(found)):.2f})",
        str(found.num_differing[f"encodec, {ALONE}"]),
        ", ".join(str(found.num_differing[way]) for way in _WAYS if TOGETHER in way and way in found.num_differing),
        str(found.num_codes),
        f"{found.neighbour_cores:.1f}, {found.wait:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def section(results: Sequence[ModelResult], *, command: str, weights: str) -> str:
    """The text for `RESULTS.md`."""
    machine = describe_machine(packages=("torch", "transformers", "encodec", "soxr"))
    mixes = {setting.name: setting for result in results for setting, _ in result.rows if len(set(setting.seconds)) > 1}
    about_mix = "".join(
        f" {name}: {min(mix.seconds):g} to {max(mix.seconds):g} s, {mix.audio_seconds:.0f} s in all, which peers take "
        f"one by one, or sorted by length in batches of {PADDED_BATCH}, padded."
        for name, mix in mixes.items()
    )
    taken = [found.neighbour_cores for result in results for _, found in result.rows]
    head = (
        f"\n## Encode, {date.today()}\n\n`{command}`; {machine}. {weights[:1].upper()}{weights[1:]}, fp32, one thread. "
        "CPU milliseconds per second of audio: ours with least and most, medians of the turns; ours as seconds of "
        "audio per second of a core; of each peer both its ways, that which counts in bold, a way that was clearly "
        "slower in the first turn timed in that turn alone (~). CPU time over ours, of the fastest way of either peer: "
        "median (least to most) of the ratios within a turn. Codes of ours that differ from those of the reference "
        "(encodec) for each clip alone; from encodec's and from transformers' for the same clips in batches, where "
        "their own can change with the batch. Cores that other work on the machine took meanwhile, and wall time over "
        f"CPU time.{about_mix} Over all rows other work took {statistics.median(taken):.1f} of {os.cpu_count()} cores "
        f"(median; at most {max(taken):.1f}).\n"
    )
    return head + "".join(_table(result) for result in results)


def _table(result: ModelResult) -> str:
    lines = [
        f"\n### {result.sampling_rate // 1000} kHz\n\n{result.audio[:1].upper()}{result.audio[1:]}.\n\n",
        f"| {' | '.join(_COLUMNS)} |\n|{' --- |' * len(_COLUMNS)}\n",
    ]
    return "".join(lines) + "".join(row(setting, found) + "\n" for setting, found in result.rows)


def _best_way(found: Measurement) -> str:
    """Return the peer and way that counts: the fastest of those that were timed to the end."""
    num_turns = len(found.milliseconds[OURS])
    ways = [way for way in found.milliseconds if way != OURS and len(found.milliseconds[way]) == num_turns]
    return min(ways, key=lambda way: statistics.median(found.milliseconds[way]))


def _ratios(found: Measurement) -> list[float]:
    theirs = found.milliseconds[_best_way(found)]
    return [their / our for their, our in zip(theirs, found.milliseconds[OURS], strict=True)]


def _time(found: Measurement, way: str, *, best: str) -> str:
    if way not in found.milliseconds:
        return ""
    text = f"{statistics.median(found.milliseconds[way]):.1f}"
    if way == best:
        return f"**{text}**"
    return text if len(found.milliseconds[way]) == len(found.milliseconds[OURS]) else f"~{text}"


def _spread(values: Sequence[float], *, digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def write_plot(results: Sequence[ModelResult], *, path: Path) -> bool:
    """Draw seconds of audio per second of one core: ours, and each peer its better way, by allocator.

    Returns:
        False where matplotlib is missing.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    plotted = {result.sampling_rate: _speeds(result) for result in results}
    widths = [len(speeds) for speeds in plotted.values()]
    figure = Figure(figsize=(max(7.0, 2.5 + 1.1 * sum(widths)), 3.2), layout="constrained")
    panels = figure.subplots(1, len(plotted), width_ratios=widths, squeeze=False)[0]
    bars = [(system, allocator) for allocator in ("default", "tuned") for system in (OURS, *PEERS)]
    for axes, (rate, speeds) in zip(panels, plotted.items(), strict=True):
        for place, bar in enumerate(bars):
            heights = [by_bar.get(bar, 0.0) for by_bar in speeds.values()]
            positions = [index + (place - (len(bars) - 1) / 2) * 0.8 / len(bars) for index in range(len(speeds))]
            color = f"C{(OURS, *PEERS).index(bar[0])}"
            axes.bar(
                positions, heights, 0.8 / len(bars), color=color, alpha=1.0 if bar[1] == "tuned" else 0.5,
                label=f"{bar[0]}, {bar[1]} allocator" if axes is panels[0] else "_",
            )  # fmt: skip
        axes.set_xticks(range(len(speeds)), list(speeds))
        axes.set_title(f"{rate // 1000} kHz, n_q = {PLOTTED_N_Q}", fontsize="medium")
    panels[0].set_ylabel("× real time, one core")
    figure.legend(loc="outside upper center", ncols=3, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    return True


def _speeds(result: ModelResult) -> dict[str, dict[tuple[str, str], float]]:
    """Return by clips, then by system and allocator, seconds of audio per second."""
    speeds: dict[str, dict[tuple[str, str], float]] = {}
    for setting, found in result.rows:
        if found.n_q != PLOTTED_N_Q:
            continue
        for system in (OURS, *PEERS):
            times = [
                statistics.median(values)
                for way, values in found.milliseconds.items()
                if way.partition(", ")[0] == system
            ]
            speeds.setdefault(setting.name, {})[system, setting.allocator] = 1000 / min(times)
    return speeds
