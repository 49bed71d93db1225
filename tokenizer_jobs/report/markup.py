"""Elements of a page, escaped by construction: only what `tag` and `joined` have made is taken as it is.

Ids and messages come from other people's files. What is well-formed here is so for HTML and for XML.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence

from tokenizer_jobs.wording import audio_text, span_text

__all__ = [
    "Markup",
    "audio_length",
    "count",
    "data_uri",
    "figure",
    "joined",
    "listed",
    "percent",
    "section",
    "short",
    "table",
    "tag",
    "whole_percent",
]

_NARROW_COLUMNS = 5
"""Of a table that can be squeezed onto a phone."""
_VOID = frozenset({"meta", "link", "img", "br", "hr", "source"})
# Neither XML nor a reader's screen takes these; lone surrogates stand for bytes that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are no markup are escaped; None and attributes of None are left out.

    `class_` is the attribute `class`; underscores in names stand for hyphens.
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{words} />")
    return Markup(f"<{name}{words}>{joined(children)}</{name}>")


def joined(children: Iterable[object]) -> Markup:
    """Children one after the other, escaped where they are no markup."""
    return Markup("".join(one if isinstance(one, Markup) else escaped(one) for one in children if one is not None))


def escaped(value: object) -> str:
    """Text that can stand anywhere in a page."""
    return html.escape(_UNPRINTABLE.sub("\ufffd", str(value)))


def data_uri(content: bytes, *, kind: str) -> str:
    """The bytes themselves as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def section(name: str, title: str, *children: object) -> Markup:
    """A part of the page with a heading, which the contents lead to."""
    return tag("section", tag("h2", title, id=f"{name}-title"), *children, id=name, aria_labelledby=f"{name}-title")


def figure(plot: Markup, *, title: str, note: object = None, rows: Markup | None = None) -> Markup:
    """A plot with its title, and the same as a table for who cannot see it."""
    caption = tag("figcaption", tag("h3", title), None if note is None else tag("p", note, class_="note"))
    frame = tag("div", plot, class_="plot", tabindex=0, role="region", aria_label=f"{title}, scrollable")
    shown = None if rows is None else tag("details", tag("summary", f"{title} as a table"), rows)
    return tag("figure", caption, frame, shown)


def listed(facts: Iterable[tuple[str, object]]) -> Markup:
    """Names and what they are, one a line."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in facts), class_="facts")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: Sequence[int] = ()) -> Markup:
    """A table that scrolls sideways by itself.

    Args:
        heads: Of the columns.
        rows: Their cells.
        numbers: Columns that are set to the right.
    """
    right = set(numbers)

    def cell(kind: str, place: int, content: object) -> Markup:
        scope = "col" if kind == "th" else None
        return tag(kind, content, class_="number" if place in right else None, scope=scope)

    head = tag("tr", *(cell("th", place, content) for place, content in enumerate(heads)))
    body = [tag("tr", *(cell("td", place, content) for place, content in enumerate(row))) for row in rows]
    is_wide = len(heads) > _NARROW_COLUMNS
    inner = tag("table", tag("thead", head), tag("tbody", *body), class_="wide" if is_wide else None)
    return tag("div", inner, class_="table", tabindex=0, role="region", aria_label=f"Table: {', '.join(heads)}")


def count(number: float) -> str:
    """A whole number with separators: `12,000`."""
    return f"{number:,.0f}"


def audio_length(hours: float) -> str:
    """How much audio: `9.5 s`, `3 min 20 s`, from an hour on `1,234.50 h`."""
    return span_text(3600 * hours) if hours < 1 else audio_text(hours)


def short(number: float) -> str:
    """A number in a few characters, for axes: `0.05`, `12`, `3.4 k`, `2.2 G`."""
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g}{unit}" if abs(number) < 100 * factor else f"{number / factor:.0f}{unit}"
    return f"{number:.3g}"


def percent(share: float) -> str:
    """A share that was measured, to a tenth, and below one to a digit: `12.5 %`, `0.003 %`.

    What is neither nothing nor all never reads as if it were.
    """
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share < 0.0005:
        return "< 0.001 %" if share < 0.00001 else f"{100 * share:.1g} %"
    return "> 99.9 %" if 0.9995 <= share < 1.0 else f"{100 * share:.1f} %"


def whole_percent(share: float) -> str:
    """A share that was chosen, as ticks and edges are: `20 %`, `0.001 %`."""
    return f"{100 * share:g} %"
