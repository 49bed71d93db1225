"""What all plots are drawn with: sizes, scales, axes and ticks, as SVG whose colours are the page's, light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizer_jobs.report.markup import Markup, tag

__all__ = ["HALF", "WIDE", "Frame", "Scale", "Tick", "at", "nice_ticks", "scale", "svg", "time_ticks"]

Scale = Callable[[float], float]
"""From an axis's own units to a place in the drawing."""

_TIME_STEPS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800)
"""In seconds: what clocks are divided into."""
_NARROW = 7.0
"""Width of a digit in the page's font for ticks, or a little more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where a plot's axes are, in the drawing's own units: pixels where it has the room that it is made for."""

    width: int
    height: int
    left: int = 58
    right: int = 24
    """Room for half of the last tick's label."""
    top: int = 12
    bottom: int = 42

    @property
    def floor(self) -> int:
        """Where the axis of x is."""
        return self.height - self.bottom

    @property
    def end(self) -> int:
        """Where the axis of x ends."""
        return self.width - self.right

    def cuts(self, x: Scale, places: Sequence[float]) -> list[Markup]:
        """Lines from top to bottom, where something was taken out of the axis of x."""
        lines = ({"x1": at(x(place)), "x2": at(x(place)), "y1": self.top, "y2": self.floor} for place in places)
        return [tag("line", **line, class_="limit") for line in lines]

    def axes(self, x: Scale, y: Scale, *, x_ticks: Sequence["Tick"], x_label: str, y_ticks: list["Tick"]) -> Markup:
        """Lines, ticks and labels; those of x that would stand in one another are left out."""
        found = []
        for tick in y_ticks:
            height = at(y(tick.place))
            found.append(tag("line", x1=self.left, y1=height, x2=self.end, y2=height, class_="grid"))
            found.append(tag("text", tick.label, x=self.left - 7, y=at(y(tick.place) + 4.5), class_="tick end"))
        found += self.x_axis(x, x_ticks)
        found.append(tag("line", x1=self.left, y1=self.floor, x2=self.end, y2=self.floor, class_="axis"))
        middle = (self.left + self.end) / 2
        found.append(tag("text", x_label, x=at(middle), y=self.height - 5, class_="label middle"))
        return tag("g", *found, aria_hidden="true")

    def x_axis(self, x: Scale, ticks: Sequence["Tick"]) -> list[Markup]:
        """Ticks below the floor."""
        found, free = [], -math.inf
        for tick in ticks:
            place, half = x(tick.place), _NARROW * len(tick.label) / 2
            found.append(tag("line", x1=at(place), y1=self.floor, x2=at(place), y2=self.floor + 4, class_="axis"))
            if place - half > free and place + half <= self.width:
                found.append(tag("text", tick.label, x=at(place), y=self.floor + 18, class_="tick middle"))
                free = place + half + _NARROW
        return found


WIDE = Frame(width=920, height=250)
HALF = Frame(width=440, height=210, left=44)


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


def time_ticks(seconds: float, *, number: int = 8) -> list[Tick]:
    """Ticks from 0 to so many seconds, at places that clocks have: `30 s`, `5 min`, `1 h 30 min`, `2 d`."""
    if seconds < number:
        return [Tick(place, f"{place:.3g} s" if place else "0") for place in nice_ticks(0.0, seconds, number=number)]
    rough = seconds / number
    step = next((one for one in _TIME_STEPS if one >= rough), 86400 * math.ceil(rough / 86400))
    return [Tick(place, _clock(place)) for place in range(0, math.floor(seconds) + 1, step)]


def _clock(seconds: int) -> str:
    rest, words = seconds, []
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        whole, rest = divmod(rest, unit)
        if whole:
            words.append(f"{whole} {name}")
    return " ".join(words) or "0"


def scale(low: float, high: float, first: float, last: float) -> Scale:
    """Straight from [low, high] to [first, last]."""
    span = high - low or 1.0
    return lambda value: first + (value - low) / span * (last - first)


def svg(label: str, *children: object, width: float, height: float, class_: str | None = None) -> Markup:
    """A drawing that is one picture to who cannot see it."""
    view = f"0 0 {width:g} {height:g}"
    return tag("svg", *children, viewBox=view, role="img", aria_label=label, class_=class_)


def at(place: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    return f"{place:.1f}".removesuffix(".0")
