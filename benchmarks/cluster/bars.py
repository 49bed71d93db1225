"""What every measurement ends with: figures, and the bars that they are held against."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from benchmarks.machine import add_section, describe_machine

__all__ = ["Bar", "Found", "add_to_results", "slope_per_hour", "text_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A promise, and what was found."""

    promise: str
    found: str
    is_kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of one measurement."""

    title: str
    about: str
    """What was done, and what the columns mean."""
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    bars: tuple[Bar, ...]


def text_of(found: Found) -> str:
    """The table and the bars, as Markdown."""
    lines = [" | ".join(("", *row, "")).strip() for row in (found.columns, ["---"] * len(found.columns), *found.rows)]
    bars = [f"- {'kept' if bar.is_kept else 'MISSED'}: {bar.promise}: **{bar.found}**" for bar in found.bars]
    return "\n".join([*lines, "", *bars])


def add_to_results(found: Found, *, command: str, wall_seconds: float) -> None:
    """Add a section to `RESULTS.md`."""
    machine = describe_machine(packages=("ray", "pyarrow", "fsspec", "s3fs"))
    text = (
        f"\n## {found.title}, {date.today()}\n\n`{command}`, {wall_seconds:.0f} s; {machine}. {found.about}\n\n"
        f"{text_of(found)}\n"
    )
    add_section(text)


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """Slope of the least-squares line through points of seconds and values, per hour; 0 of fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
