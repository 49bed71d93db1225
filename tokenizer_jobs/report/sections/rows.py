"""What the audio is like: lengths, formats and rates, loudness and silence."""

import math
from collections.abc import Callable
from itertools import pairwise

from tokenizer_jobs.report.distributions import Category, Histogram
from tokenizer_jobs.report.drawing import HALF, Tick, nice_ticks
from tokenizer_jobs.report.markup import (
    Markup,
    audio_length,
    count,
    figure,
    percent,
    section,
    short,
    table,
    tag,
    whole_percent,
)
from tokenizer_jobs.report.plots import Bar, bars
from tokenizer_jobs.report.statistics import Content
from tokenizer_jobs.wording import count_text, span_text

__all__ = ["rows_section", "sampling_note"]

SHOWN_KINDS = 20
FEWEST_BINS = 15
"""Of durations: rows that are all alike are no wall."""


def rows_section(content: Content | None) -> Markup:
    """Distributions of the rows' columns."""
    if content is None or not content.rows:
        return section("audio", "Audio", tag("p", "There are no rows yet to be measured.", class_="empty"))
    measures = content.measures
    notes = [sampling_note(content)]
    if content.truncated:
        notes.append(f"{count_text(content.truncated, 'row')} kept although the audio was cut short.")
    if content.slices:
        notes.append(f"{count_text(content.slices, 'row')} are slices of longer recordings.")
    first, *others = [_kinds(name, kinds) for name, kinds in content.kinds.items()]
    return section(
        "audio",
        "Audio",
        tag("p", " ".join(notes), class_="note"),
        _durations(measures["duration_seconds"]),
        tag(
            "div",
            _level(measures["rms_db"]),
            _plain(
                measures["peak"],
                title="Peak",
                x_label="largest sample, of full scale",
                text=lambda value: f"{value:.2f}",
                edge_text=lambda value: f"{value:g}",
                whole=(0.0, 1.0),
            ),
            _plain(
                measures["silent_fraction"],
                title="Silence",
                x_label="share of a row below -60 dB",
                text=percent,
                edge_text=whole_percent,
                whole=(0.0, 1.0),
            ),
            _clipping(measures["clipped_fraction"]),
            class_="pair",
        ),
        tag("h3", "Formats and rates"),
        tag("div", tag("div", first), tag("div", *others), class_="pair"),
    )


def sampling_note(content: Content) -> str:
    """Whether all was read."""
    if not content.is_sampled:
        return f"Everything was read: {count_text(content.rows, 'row')} in {count_text(content.shards, 'shard')}."
    return (
        f"A sample: {count_text(content.rows, 'row')} in {count(content.shards_read)} of {count(content.shards)} "
        "shards were read, drawn by the hash of their names."
    )


def _durations(histogram: Histogram) -> Markup:
    """Bins of equal width on a logarithmic axis."""
    used = [number for number, one in enumerate(histogram.counts) if one]
    if not used:
        return _nothing("Durations")
    beside = max(2, (FEWEST_BINS - len(range(used[0], used[-1] + 1))) // 2)
    first, last = max(0, used[0] - beside), min(len(histogram.counts), used[-1] + 1 + beside)
    edges = [math.log10(edge) for edge in histogram.edges]
    marks = [
        Bar(
            start=edges[number],
            end=edges[number + 1],
            value=histogram.counts[number],
            title=_told(histogram, number, _seconds),
        )
        for number in range(first, last)
    ]
    inside = [place for place in _DURATIONS if edges[first] <= math.log10(place) <= edges[last]]
    plot = bars(
        marks,
        label="Number of rows by duration",
        x_ticks=[Tick(math.log10(place), _tick_seconds(place)) for place in inside],
        x_label="duration, logarithmic",
        y_text=short,
        y_whole=True,
    )
    return figure(plot, title="Durations", note=_summary(histogram, _seconds), rows=_bins(histogram, _seconds))


_DURATIONS = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 18000, 36000, 86400, 172800, 432000, 864000),
)


def _level(histogram: Histogram) -> Markup:
    silent = f" {count_text(histogram.absent, 'row')} without any sound." if histogram.absent else ""
    lowest = min(-40.0, 10.0 * math.floor((histogram.minimum or 0.0) / 10))
    return _plain(
        histogram,
        title="Loudness",
        x_label="root mean square, against full scale",
        text=lambda db: f"{db:.0f} dB",
        edge_text=lambda db: f"{db:.0f} dB",
        whole=(lowest, 0.0),
        more=silent,
    )


def _plain(
    histogram: Histogram,
    *,
    title: str,
    x_label: str,
    text: Callable[[float], str],
    edge_text: Callable[[float], str],
    whole: tuple[float, float],
    more: str = "",
) -> Markup:
    """A histogram over `whole`, and beyond it as far as there are rows.

    Args:
        histogram: Of a column.
        title: Of the plot.
        x_label: Of its axis.
        text: Words a value that was measured.
        edge_text: Words an edge of a bin.
        whole: Lower and upper end of the axis, at least.
        more: To be said below the title.
    """
    if not histogram.values:
        return _nothing(title)
    edges = histogram.edges
    shown = [
        number
        for number, (start, end) in enumerate(pairwise(edges))
        if histogram.counts[number] or (start >= whole[0] - 1e-9 and end <= whole[1] + 1e-9)
    ]
    first, last = min(shown), max(shown)
    marks = [
        Bar(
            start=edges[number],
            end=edges[number + 1],
            value=histogram.counts[number],
            title=_told(histogram, number, edge_text),
        )
        for number in range(first, last + 1)
    ]
    plot = bars(
        marks,
        label=f"Number of rows by {title.lower()}",
        x_ticks=[Tick(place, edge_text(place)) for place in nice_ticks(edges[first], edges[last + 1], number=6)],
        x_label=x_label,
        y_text=short,
        frame=HALF,
        y_whole=True,
    )
    return figure(plot, title=title, note=_summary(histogram, text) + more, rows=_bins(histogram, edge_text))


def _clipping(histogram: Histogram) -> Markup:
    """A table: most rows have none, and the others are spread over powers of ten."""
    if not histogram.values:
        return _nothing("Clipping")
    rows = [("none", count(histogram.counts[0]), percent(histogram.counts[0] / histogram.values))]
    rows += [
        (f"up to {whole_percent(edge)}", count(value), percent(value / histogram.values))
        for edge, value in zip(histogram.edges[2:], histogram.counts[1:], strict=True)
        if value
    ]
    return tag(
        "div",
        tag("h3", "Clipping"),
        tag("p", "Share of a row's samples that are at full scale.", class_="note"),
        table(("clipped", "rows", "share"), rows, numbers=(1, 2)),
    )


def _kinds(name: str, kinds: dict[str, Category]) -> Markup:
    shown = list(kinds.items())[:SHOWN_KINDS]
    whole = sum(kind.hours for kind in kinds.values()) or 1.0
    head, word = _HEADS.get(name, (name, str))
    rows = [
        (tag("bdi", word(value)), count(kind.rows), audio_length(kind.hours), percent(kind.hours / whole))
        for value, kind in shown
    ]
    left = len(kinds) - len(shown)
    note = tag("p", f"{count(left)} more with fewer rows.", class_="note") if left > 0 else None
    return tag("div", table((head, "rows", "audio", "of the audio"), rows, numbers=(1, 2, 3)), note, class_="kinds")


def _hertz(text: str) -> str:
    return f"{int(text):,} Hz" if text.isdecimal() else text


_HEADS: dict[str, tuple[str, Callable[[str], str]]] = {
    "source_format": ("format", str),
    "source_sample_rate": ("sample rate", _hertz),
    "source_channels": ("channels", str),
}


def _nothing(title: str) -> Markup:
    return tag("div", tag("h3", title), tag("p", "No row says anything of it.", class_="empty"))


def _summary(histogram: Histogram, text: Callable[[float], str]) -> str:
    quantiles = histogram.quantiles
    assert histogram.minimum is not None
    assert histogram.maximum is not None
    least, most = text(histogram.minimum), text(histogram.maximum)
    if least == most:
        return f"{least} in each of {histogram.values:,} rows." if histogram.values > 1 else f"{least} in the only row."
    return (
        f"Median about {text(quantiles['p50'])}, nine rows in ten from about {text(quantiles['p05'])} to "
        f"{text(quantiles['p95'])}, all from {least} to {most}."
    )


def _bins(histogram: Histogram, text: Callable[[float], str]) -> Markup:
    rows = [
        (text(histogram.edges[number]), text(histogram.edges[number + 1]), count(value))
        for number, value in enumerate(histogram.counts)
        if value
    ]
    return table(("from", "to", "rows"), rows, numbers=(0, 1, 2))


def _told(histogram: Histogram, number: int, text: Callable[[float], str]) -> str:
    start, end = histogram.edges[number], histogram.edges[number + 1]
    return f"{text(start)} to {text(end)}: {count_text(histogram.counts[number], 'row')}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else span_text(seconds)


def _tick_seconds(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"
