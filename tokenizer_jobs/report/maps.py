"""Drawings without an axis of heights: who did what when, what follows what, which entries are used, and sound."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizer_jobs.report.drawing import WIDE, Frame, Tick, at, nice_ticks, scale, svg
from tokenizer_jobs.report.markup import Markup, tag
from tokenizer_jobs.report.spectrogram import height_of

__all__ = ["Span", "heat_map", "lanes", "ranks", "sound"]

_SOUND = Frame(width=444, height=176, left=54, right=12, top=4, bottom=24)
_HERTZ = (100, 250, 500, 1000, 2000, 4000, 8000, 16000)
_APART = 15
"""Of two labels one above the other, at least."""
_LEGEND_STEPS = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One stretch of time in a lane."""

    lane: int
    row: int
    start: float
    end: float
    strength: float
    """From 0 to 1: how strong its colour is."""
    title: str
    marked: bool = False
    """Whether its colour is that of a warning."""


def lanes(
    spans: Sequence[Span],
    *,
    rows_of: Sequence[int],
    label: str,
    length: float,
    x_ticks: Sequence[Tick],
    cuts: Sequence[float] = (),
) -> Markup:
    """Stretches of time, one band for each lane, with as many rows as it needs.

    Args:
        spans: In any order.
        rows_of: Rows of each lane.
        label: Of the whole.
        length: Of the axis.
        x_ticks: Of the axis.
        cuts: Where something was taken out of the axis.
    """
    row_height, gap = (12, 10) if sum(rows_of) <= 40 else (4, 8)
    tops, floor = [], 6
    for number in rows_of:
        tops.append(floor)
        floor += max(1, number) * row_height + gap
    frame = Frame(width=WIDE.width, height=floor + WIDE.bottom, top=0)
    x = scale(0.0, length or 1.0, frame.left, frame.end)
    marks = [
        tag(
            "rect",
            tag("title", span.title),
            x=at(x(span.start)),
            y=tops[span.lane] + span.row * row_height,
            width=at(max(0.8, x(span.end) - x(span.start) - 0.4)),
            height=row_height - 1.5,
            rx=1,
            class_="less" if span.marked else "mark",
            fill_opacity=f"{0.4 + 0.6 * span.strength:.2f}",
        )
        for span in spans
    ]
    names = [
        tag("text", f"{number + 1}", x=frame.left - 8, y=at(top + max(1, rows) * row_height / 2 + 4), class_="tick end")
        for number, (top, rows) in enumerate(zip(tops, rows_of, strict=True))
        if row_height > 4 or rows > 1 or len(rows_of) <= 20 or number % 5 == 4
    ]
    axis = tag("line", x1=frame.left, y1=frame.floor, x2=frame.end, y2=frame.floor, class_="axis")
    words = [
        tag("text", "time", x=at((frame.left + frame.end) / 2), y=frame.height - 5, class_="label middle"),
        tag("text", "band", x=14, y=at(floor / 2), class_="label middle", transform=f"rotate(-90 14 {at(floor / 2)})"),
    ]
    words = words if floor > 60 else words[:1]
    ticks = frame.x_axis(x, x_ticks) + frame.cuts(x, cuts)
    return svg(label, *ticks, axis, *names, *words, *marks, width=frame.width, height=frame.height)


def heat_map(
    cells: Sequence[Sequence[float]],
    *,
    label: str,
    titles: Sequence[Sequence[str]],
    ticks: Sequence[tuple[int, str]],
    x_label: str,
    y_label: str,
    legend: tuple[str, str, str],
) -> Markup:
    """A square of cells, each from -1 (less than expected) over 0 to 1 (more), and what its colours mean.

    Args:
        cells: By row, then by column.
        label: Of the whole.
        titles: Of the cells.
        ticks: Places between cells, and their labels, on both axes.
        x_label: Of columns.
        y_label: Of rows.
        legend: What -1, 0 and 1 are.
    """
    side, left, top = 372.0, 56, 8
    size, middle = side / len(cells), top + side / 2
    marks = [
        tag(
            "rect",
            tag("title", titles[row][column]),
            x=at(left + column * size),
            y=at(top + row * size),
            width=at(size + 0.2),
            height=at(size + 0.2),
            class_="less" if value < 0 else "more",
            fill_opacity=f"{abs(value):.2f}",
        )
        for row, values in enumerate(cells)
        for column, value in enumerate(values)
        if abs(value) >= 0.005
    ]
    words = [
        tag("text", x_label, x=at(left + side / 2), y=top + side + 36, class_="label middle"),
        tag("text", y_label, x=12, y=middle, class_="label middle", transform=f"rotate(-90 12 {middle})"),
    ]
    for place, text in ticks:
        words.append(tag("text", text, x=at(left + place * size), y=top + side + 18, class_="tick middle"))
        words.append(tag("text", text, x=left - 6, y=at(top + place * size + 4.5), class_="tick end"))
    frame = tag("rect", x=left, y=top, width=side, height=side, class_="frame")
    scale_bar = _colours(legend, left=left, top=top + side + 54, width=side)
    return svg(
        label, frame, *marks, *words, *scale_bar, width=left + side + 16, height=top + side + 92, class_="square"
    )


def _colours(legend: tuple[str, str, str], *, left: float, top: float, width: float) -> list[Markup]:
    step, middle = width / _LEGEND_STEPS, _LEGEND_STEPS // 2
    steps = [
        tag(
            "rect",
            x=at(left + number * step),
            y=top,
            width=at(step + 0.2),
            height=12,
            class_="less" if number < middle else "more",
            fill_opacity=f"{abs(number - middle) / middle:.2f}",
        )
        for number in range(_LEGEND_STEPS)
    ]
    frame = tag("rect", x=left, y=top, width=width, height=12, class_="frame")
    places = ((left, "start"), (left + width / 2, "middle"), (left + width, "end"))
    words = [
        tag("text", text, x=at(place), y=top + 28, class_=f"tick {anchor}")
        for text, (place, anchor) in zip(legend, places, strict=True)
    ]
    return [frame, *steps, *words]


def ranks(shares: Sequence[float], *, label: str, title: str) -> Markup:
    """A little plot without axes: bars of shares of the largest, on a scale of logarithms from 1 to 1/1000."""
    width, height = 200, 60
    step = width / len(shares)
    heights = [max(0.0, 1 + math.log10(share) / 3) * (height - 2) if share > 0 else 0.0 for share in shares]
    marks = [
        tag("rect", x=at(place * step), y=at(height - tall), width=at(step), height=at(tall), class_="mark")
        for place, tall in enumerate(heights)
        if tall > 0
    ]
    base = tag("line", x1=0, y1=height, x2=width, y2=height, class_="axis")
    return svg(label, tag("title", title), *marks, base, width=width, height=height + 1, class_="small")


def sound(picture: str, *, label: str, seconds: float, sample_rate: int) -> Markup:
    """A spectrogram with its axes.

    Args:
        picture: Address of the bands' picture, from `spectrogram`.
        label: Of the whole.
        seconds: From its left to its right.
        sample_rate: In Hz.
    """
    frame = _SOUND
    y = scale(0.0, 1.0, frame.floor, frame.top)
    size = {"width": frame.end - frame.left, "height": frame.floor - frame.top}
    image = tag("image", href=picture, x=frame.left, y=frame.top, preserveAspectRatio="none", **size)
    words, free = [], math.inf
    for hertz in _HERTZ:
        share = height_of(hertz, sample_rate=sample_rate)
        if 0.03 < share < 0.97 and y(share) < free:
            words.append(tag("line", x1=frame.left - 4, y1=at(y(share)), x2=frame.left, y2=at(y(share)), class_="axis"))
            text = f"{hertz} Hz" if hertz < 1000 else f"{hertz // 1000} kHz"
            words.append(tag("text", text, x=frame.left - 6, y=at(y(share) + 4), class_="tick end"))
            free = y(share) - _APART
    x = scale(0.0, seconds or 1.0, frame.left, frame.end)
    ticks = [Tick(place, f"{place:.3g} s" if place else "0") for place in nice_ticks(0.0, seconds, number=5)]
    return svg(label, image, *words, *frame.x_axis(x, ticks), width=frame.width, height=frame.height, class_="sound")
