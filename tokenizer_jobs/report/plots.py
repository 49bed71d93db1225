"""Plots of numbers as SVG: marks with titles to hover over."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizer_jobs.report.drawing import WIDE, Frame, Scale, Tick, at, nice_ticks, scale, svg
from tokenizer_jobs.report.markup import Markup, joined, percent, tag

__all__ = ["Bar", "Layer", "bars", "shares", "stacked"]

_SHARES_HEIGHT = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar: its edges on the axis, its height and what it says."""

    start: float
    end: float
    value: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One part of a whole."""

    name: str
    value: float
    """In any unit, the same for all parts."""
    text: str
    """The value in words."""


def bars(
    values: Sequence[Bar],
    *,
    label: str,
    x_ticks: Sequence[Tick],
    x_label: str,
    y_text: Callable[[float], str],
    limit: Tick | None = None,
    frame: Frame = WIDE,
    y_whole: bool = False,
    cuts: Sequence[float] = (),
) -> Markup:
    """Bars over an axis of numbers; their edges and the ticks are in the axis's own units.

    Args:
        values: At least one.
        label: Of the whole, for who does not see it.
        x_ticks: Of the axis.
        x_label: Of the axis.
        y_text: Words a height.
        limit: A height that no bar is above, drawn as a line.
        frame: How large.
        y_whole: Whether heights are counts, between which no tick can be.
        cuts: Where something was taken out of the axis.
    """
    low, high = min(bar.start for bar in values), max(bar.end for bar in values)
    top = max([bar.value for bar in values] + ([limit.place] if limit else [])) or 1.0
    x = scale(low, high, frame.left, frame.end)
    y = scale(0.0, top * (1.14 if limit else 1.04), frame.floor, frame.top)
    marks = [
        tag(
            "rect",
            tag("title", bar.title),
            x=at(x(bar.start)),
            y=at(y(bar.value)),
            width=at(max(0.8, x(bar.end) - x(bar.start) - 0.8)),
            height=at(max(0.8, y(0) - y(bar.value))),
            class_="mark",
        )
        for bar in values
        if bar.value > 0
    ]
    y_ticks = [Tick(place, y_text(place)) for place in _heights(top, y_whole=y_whole)]
    axes = frame.axes(x, y, x_ticks=x_ticks, x_label=x_label, y_ticks=y_ticks)
    lines = frame.cuts(x, cuts) + ([] if limit is None else _limit_line(limit, y(limit.place), frame=frame))
    return svg(label, axes, *marks, *lines, width=frame.width, height=frame.height)


def stacked(
    columns: Sequence[tuple[float, float, Sequence[float]]],
    *,
    label: str,
    titles: Sequence[str],
    x_ticks: Sequence[Tick],
    x_label: str,
    y_text: Callable[[float], str],
    cuts: Sequence[float] = (),
) -> Markup:
    """Columns of layers, the first at the bottom; layer i has the class `layer-i`.

    Args:
        columns: Start, end and the height of each layer.
        label: Of the whole.
        titles: Of the columns.
        x_ticks: Of the axis.
        x_label: Of the axis.
        y_text: Words a height.
        cuts: Where something was taken out of the axis.
    """
    frame = WIDE
    top = max(sum(layers) for _, _, layers in columns) or 1.0
    x = scale(columns[0][0], columns[-1][1], frame.left, frame.end)
    y = scale(0.0, top * 1.04, frame.floor, frame.top)
    marks = [
        tag("g", tag("title", title), *_column(layers, x(start), x(end), y=y))
        for (start, end, layers), title in zip(columns, titles, strict=True)
        if any(layers)
    ]
    y_ticks = [Tick(place, y_text(place)) for place in _heights(top, y_whole=False)]
    axes = frame.axes(x, y, x_ticks=x_ticks, x_label=x_label, y_ticks=y_ticks)
    return svg(label, axes, *marks, *frame.cuts(x, cuts), width=frame.width, height=frame.height)


def shares(layers: Sequence[Layer], *, label: str) -> Markup:
    """One bar of parts from left to right, and a legend with the share of each; layer i has the class `layer-i`."""
    whole = sum(layer.value for layer in layers) or 1.0
    x = scale(0.0, whole, 0.0, WIDE.width)
    marks, below = [], 0.0
    for number, layer in enumerate(layers):
        if layer.value > 0:
            title = tag("title", f"{layer.name}: {layer.text}, {percent(layer.value / whole)}")
            width = at(max(0.8, x(layer.value) - 0.8))
            place = {"x": at(x(below)), "y": 0, "width": width, "height": _SHARES_HEIGHT}
            marks.append(tag("rect", title, **place, class_=f"layer-{number}"))
            below += layer.value
    drawn = svg(label, *marks, width=WIDE.width, height=_SHARES_HEIGHT, class_="strip")
    keys = [
        tag(
            "li",
            tag("i", class_=f"swatch layer-{number}"),
            layer.name,
            " ",
            tag("span", percent(layer.value / whole), class_="muted"),
        )
        for number, layer in enumerate(layers)
        if layer.value > 0
    ]
    return joined([drawn, tag("ul", *keys, class_="legend")])


def _column(layers: Sequence[float], left: float, right: float, *, y: Scale) -> list[Markup]:
    below, rects = 0.0, []
    for number, height in enumerate(layers):
        if height > 0:
            upper, lower = y(below + height), y(below)
            size = {"width": at(max(0.8, right - left - 0.4)), "height": at(lower - upper)}
            rects.append(tag("rect", x=at(left), y=at(upper), **size, class_=f"layer-{number}"))
            below += height
    return rects


def _heights(top: float, *, y_whole: bool) -> list[float]:
    return [place for place in nice_ticks(0.0, top, number=4) if not y_whole or float(place).is_integer()]


def _limit_line(limit: Tick, height: float, *, frame: Frame) -> list[Markup]:
    return [
        tag("line", x1=frame.left, y1=at(height), x2=frame.end, y2=at(height), class_="limit"),
        tag("text", limit.label, x=frame.end - 4, y=at(height - 6), class_="tick end"),
    ]
