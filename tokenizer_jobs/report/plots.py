"""Small plots as SVG: marks with titles to hover over, colours from the page, so that one drawing is light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizer_jobs.report.markup import Markup, joined, tag

__all__ = ["Bar", "Span", "Tick", "bars", "heat_map", "lanes", "nice_ticks", "ranks", "stacked"]

WIDTH, HEIGHT = 720, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 10, 34
_PLOT_WIDTH, _PLOT_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its edges on the axis, its height and what it says."""

    start: float
    end: float
    value: float
    title: str


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


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and its label."""

    place: float
    label: str


def nice_ticks(low: float, high: float, *, number: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about as many as asked for."""
    if not high > low:
        return [low]
    rough = (high - low) / number
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [place * step for place in range(first, math.floor(high / step + 1e-9) + 1)]


def bars(
    values: Sequence[Bar],
    *,
    label: str,
    x_ticks: Sequence[Tick],
    x_label: str,
    y_text: Callable[[float], str],
    limit: Tick | None = None,
) -> Markup:
    """Bars over an axis of numbers; their edges and the ticks are in the axis's own units.

    Args:
        values: At least one.
        label: Of the whole, for who does not see it.
        x_ticks: Of the axis.
        x_label: Of the axis.
        y_text: Words a height.
        limit: A height that no bar is above, drawn as a line.
    """
    low, high = min(bar.start for bar in values), max(bar.end for bar in values)
    top = max([bar.value for bar in values] + ([limit.place] if limit else [])) or 1.0
    x, y = _scale(low, high, LEFT, WIDTH - RIGHT), _scale(0.0, top * (1.12 if limit else 1.04), HEIGHT - BOTTOM, TOP)
    marks = [
        tag(
            "rect",
            tag("title", bar.title),
            x=_at(x(bar.start)),
            y=_at(y(bar.value)),
            width=_at(max(0.8, x(bar.end) - x(bar.start) - 0.8)),
            height=_at(max(0.0, y(0) - y(bar.value))),
            class_="mark",
        )
        for bar in values
        if bar.value > 0
    ]
    lines = [] if limit is None else _limit_line(limit, y(limit.place))
    axes = _axes(x, y, x_ticks=x_ticks, x_label=x_label, y_top=top, y_text=y_text)
    return _svg(label, HEIGHT, *axes, *marks, *lines)


def stacked(
    columns: Sequence[tuple[float, float, Sequence[float]]],
    *,
    label: str,
    names: Sequence[str],
    titles: Sequence[str],
    x_ticks: Sequence[Tick],
    x_label: str,
    y_text: Callable[[float], str],
) -> Markup:
    """Columns of layers, the first at the bottom.

    Args:
        columns: Start, end and the height of each layer.
        label: Of the whole.
        names: Of the layers, in order; layer i has the class `layer-i`.
        titles: Of the columns.
        x_ticks: Of the axis.
        x_label: Of the axis.
        y_text: Words a height.
    """
    top = max(sum(layers) for _, _, layers in columns) or 1.0
    x = _scale(columns[0][0], columns[-1][1], LEFT, WIDTH - RIGHT)
    y = _scale(0.0, top * 1.04, HEIGHT - BOTTOM, TOP)
    marks = []
    for (start, end, layers), title in zip(columns, titles, strict=True):
        below, rects = 0.0, []
        for number, height in enumerate(layers):
            if height > 0:
                rects.append(
                    tag(
                        "rect",
                        x=_at(x(start)),
                        y=_at(y(below + height)),
                        width=_at(max(0.8, x(end) - x(start) - 0.4)),
                        height=_at(y(below) - y(below + height)),
                        class_=f"layer-{number}",
                    )
                )
                below += height
        if rects:
            marks.append(tag("g", tag("title", title), *rects))
    axes = _axes(x, y, x_ticks=x_ticks, x_label=x_label, y_top=top, y_text=y_text)
    legend = tag(
        "p",
        *(
            tag("span", tag("i", class_=f"swatch layer-{number}"), name, class_="key")
            for number, name in enumerate(names)
        ),
        class_="legend",
    )
    return joined([_svg(label, HEIGHT, *axes, *marks), legend])


def lanes(
    spans: Sequence[Span], *, rows_of: Sequence[int], label: str, length: float, x_ticks: Sequence[Tick]
) -> Markup:
    """Stretches of time, one band for each lane, with as many rows as it needs.

    Args:
        spans: In any order.
        rows_of: Rows of each lane.
        label: Of the whole.
        length: Of the axis.
        x_ticks: Of the axis.
    """
    row_height, gap = (9, 7) if sum(rows_of) <= 40 else (4, 3)
    tops, height = [], TOP
    for number in rows_of:
        tops.append(height)
        height += max(1, number) * row_height + gap
    bottom = height
    x = _scale(0.0, length or 1.0, LEFT, WIDTH - RIGHT)
    marks = [
        tag(
            "rect",
            tag("title", span.title),
            x=_at(x(span.start)),
            y=tops[span.lane] + span.row * row_height,
            width=_at(max(0.8, x(span.end) - x(span.start) - 0.4)),
            height=row_height - 1.5,
            rx=1,
            class_="mark",
            fill_opacity=f"{0.35 + 0.65 * span.strength:.2f}",
        )
        for span in spans
    ]
    names = [
        tag("text", f"{number + 1}", x=LEFT - 8, y=top + row_height, class_="tick end")
        for number, top in enumerate(tops)
    ]
    grid = [line for tick in x_ticks for line in _x_tick(tick, x(tick.place), bottom=bottom)]
    return _svg(label, bottom + BOTTOM, *grid, *names, *marks)


def heat_map(
    cells: Sequence[Sequence[float]], *, label: str, titles: Sequence[Sequence[str]], x_label: str, y_label: str
) -> Markup:
    """A square of cells, each from -1 (less than expected) over 0 to 1 (more)."""
    side, left, top = 384.0, 40, 14
    size = side / len(cells)
    marks = [
        tag(
            "rect",
            tag("title", titles[row][column]),
            x=_at(left + column * size),
            y=_at(top + row * size),
            width=_at(size + 0.2),
            height=_at(size + 0.2),
            class_="less" if value < 0 else "more",
            fill_opacity=f"{abs(value):.2f}",
        )
        for row, values in enumerate(cells)
        for column, value in enumerate(values)
    ]
    frame = tag("rect", x=left, y=top, width=side, height=side, class_="frame")
    middle = top + side / 2
    words = [
        tag("text", x_label, x=left + side / 2, y=top + side + 18, class_="tick middle"),
        tag(
            "text", y_label, x=left - 12, y=middle, class_="tick middle", transform=f"rotate(-90 {left - 12} {middle})"
        ),
    ]
    width = round(left + side + 8)
    return _svg(label, round(top + side + 28), frame, *marks, *words, width=width, class_="square")


def ranks(shares: Sequence[float], *, label: str, title: str) -> Markup:
    """A little plot without axes: bars of shares of the largest, on a scale of logarithms from 1 to 1/1000."""
    width, height = 150, 54
    step = width / len(shares)
    heights = [max(0.0, 1 + math.log10(share) / 3) * (height - 2) if share > 0 else 0.0 for share in shares]
    marks = [
        tag("rect", x=_at(place * step), y=_at(height - tall), width=_at(step), height=_at(tall), class_="mark")
        for place, tall in enumerate(heights)
        if tall > 0
    ]
    base = tag("line", x1=0, y1=height, x2=width, y2=height, class_="axis")
    return _svg(label, height + 1, tag("title", title), *marks, base, width=width, class_="small")


def _svg(label: str, height: float, *children: object, width: int = WIDTH, class_: str | None = None) -> Markup:
    return tag("svg", *children, viewBox=f"0 0 {width} {height:g}", role="img", aria_label=label, class_=class_)


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def _at(place: float) -> str:
    return f"{place:.1f}"


def _axes(
    x: Callable[[float], float],
    y: Callable[[float], float],
    *,
    x_ticks: Sequence[Tick],
    x_label: str,
    y_top: float,
    y_text: Callable[[float], str],
) -> list[Markup]:
    found = []
    for place in nice_ticks(0.0, y_top, number=4):
        found.append(tag("line", x1=LEFT, y1=_at(y(place)), x2=WIDTH - RIGHT, y2=_at(y(place)), class_="grid"))
        found.append(tag("text", y_text(place), x=LEFT - 6, y=_at(y(place) + 4), class_="tick end"))
    for tick in x_ticks:
        found += _x_tick(tick, x(tick.place), bottom=HEIGHT - BOTTOM)
    bottom = HEIGHT - BOTTOM
    found.append(tag("line", x1=LEFT, y1=bottom, x2=WIDTH - RIGHT, y2=bottom, class_="axis"))
    found.append(tag("text", x_label, x=WIDTH - RIGHT, y=HEIGHT - 3, class_="tick end"))
    return found


def _x_tick(tick: Tick, place: float, *, bottom: float) -> list[Markup]:
    return [
        tag("line", x1=_at(place), y1=bottom, x2=_at(place), y2=bottom + 4, class_="axis"),
        tag("text", tick.label, x=_at(place), y=bottom + 16, class_="tick middle"),
    ]


def _limit_line(limit: Tick, height: float) -> list[Markup]:
    return [
        tag("line", x1=LEFT, y1=_at(height), x2=WIDTH - RIGHT, y2=_at(height), class_="limit"),
        tag("text", limit.label, x=WIDTH - RIGHT - 4, y=_at(height - 5), class_="tick end"),
    ]
