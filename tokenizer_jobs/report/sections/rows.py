"""What the audio is like: lengths, formats and rates, loudness and silence."""

import math
from collections.abc import Callable
from itertools import pairwise

from tokenizer_jobs.report.distributions import Category, Histogram
from tokenizer_jobs.report.markup import Markup, count, figure, joined, percent, section, short, table, tag
from tokenizer_jobs.report.plots import Bar, Tick, bars, nice_ticks
from tokenizer_jobs.report.statistics import Content
from tokenizer_jobs.wording import audio_text, count_text, span_text

__all__ = ["rows_section", "sampling_note"]

SHOWN_KINDS = 20


def rows_section(content: Content | None) -> Markup:
    """Distributions of the rows' columns."""
    if content is None or not content.rows:
        return section("audio", "Audio", tag("p", "There are no rows yet to be measured.", class_="empty"))
    measures = content.measures
    parts = [
        _durations(measures["duration_seconds"]),
        tag(
            "div",
            _level(measures["rms_db"]),
            _share(measures["peak"], title="Peak", x_label="of full scale", text=lambda value: f"{value:.2f}"),
            _share(measures["silent_fraction"], title="Silence", x_label="share of a row below -60 dB", text=percent),
            _clipping(measures["clipped_fraction"]),
            class_="pair",
        ),
        tag("h3", "Formats and rates"),
        *(_kinds(name, content.kinds[name]) for name in content.kinds),
    ]
    notes = [sampling_note(content)]
    if content.truncated:
        notes.append(f"{count_text(content.truncated, 'row')} kept although the audio was cut short.")
    if content.slices:
        notes.append(f"{count_text(content.slices, 'row')} are slices of longer recordings.")
    return section("audio", "Audio", tag("p", " ".join(notes), class_="note"), *parts)


def sampling_note(content: Content) -> str:
    """Whether all was read."""
    if not content.is_sampled:
        return f"All {count_text(content.rows, 'row')} in {count_text(content.shards, 'shard')} were read."
    return (
        f"A sample: {count_text(content.rows, 'row')} in {count(content.shards_read)} of {count(content.shards)} "
        "shards were read, drawn by the hash of their names."
    )


def _durations(histogram: Histogram) -> Markup:
    """Bins of equal width on a logarithmic axis."""
    used = [number for number, one in enumerate(histogram.counts) if one]
    if not used:
        return _nothing("Durations")
    first, last = max(0, used[0] - 1), min(len(histogram.counts), used[-1] + 2)
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
    places = [10.0**power * factor for power in range(-2, 7) for factor in (1, 2, 5)]
    inside = [place for place in places if edges[first] <= math.log10(place) <= edges[last]]
    if len(inside) > 9:
        inside = [place for place in inside if math.log10(place).is_integer()]
    plot = bars(
        marks,
        label="Number of rows by duration",
        x_ticks=[Tick(math.log10(place), _seconds(place)) for place in inside],
        x_label="duration, logarithmic",
        y_text=short,
    )
    return figure(plot, title="Durations", note=_summary(histogram, _seconds), rows=_bins(histogram, _seconds))


def _level(histogram: Histogram) -> Markup:
    note = f"; {count_text(histogram.absent, 'row')} without any sound" if histogram.absent else ""
    return _plain(
        histogram,
        title="Loudness",
        x_label="dB below full scale, root mean square",
        text=lambda db: f"{db:.0f} dB",
        more=note,
    )


def _share(histogram: Histogram, *, title: str, x_label: str, text: Callable[[float], str]) -> Markup:
    return _plain(histogram, title=title, x_label=x_label, text=text)


def _plain(histogram: Histogram, *, title: str, x_label: str, text: Callable[[float], str], more: str = "") -> Markup:
    if not histogram.values:
        return _nothing(title)
    used = [number for number, value in enumerate(histogram.counts) if value]
    # From the first bin that is used, or from zero where the axis begins there.
    first = 0 if histogram.edges[0] == 0 else max(0, used[0] - 5)
    marks = [
        Bar(start=start, end=end, value=histogram.counts[number], title=_told(histogram, number, text))
        for number, (start, end) in enumerate(pairwise(histogram.edges))
        if number >= first
    ]
    plot = bars(
        marks,
        label=f"Number of rows by {title.lower()}",
        x_ticks=[
            Tick(place, text(place)) for place in nice_ticks(histogram.edges[first], histogram.edges[-1], number=6)
        ],
        x_label=x_label,
        y_text=short,
    )
    return figure(plot, title=title, note=_summary(histogram, text) + more, rows=_bins(histogram, text))


def _clipping(histogram: Histogram) -> Markup:
    """A table: most rows have none, and the others are spread over powers of ten."""
    if not histogram.values:
        return _nothing("Clipping")
    rows = [("none", count(histogram.counts[0]))]
    rows += [
        (f"up to {percent(edge)}", count(value))
        for edge, value in zip(histogram.edges[2:], histogram.counts[1:], strict=True)
        if value
    ]
    return tag(
        "div",
        tag("p", tag("strong", "Clipping")),
        table(("share of samples at full scale", "rows"), rows, numbers=(1,)),
    )


def _kinds(name: str, kinds: dict[str, Category]) -> Markup:
    shown = list(kinds.items())[:SHOWN_KINDS]
    whole = sum(kind.hours for kind in kinds.values()) or 1.0
    rows = [
        (tag("bdi", value), count(kind.rows), audio_text(kind.hours), percent(kind.hours / whole))
        for value, kind in shown
    ]
    left = len(kinds) - len(shown)
    note = tag("p", f"{count(left)} more with fewer rows.", class_="note") if left > 0 else None
    return joined([table((_HEADS.get(name, name), "rows", "audio", "share"), rows, numbers=(1, 2, 3)), note, tag("br")])


_HEADS = {"source_format": "format", "source_sample_rate": "sample rate in Hz", "source_channels": "channels"}


def _nothing(title: str) -> Markup:
    return tag("div", tag("p", tag("strong", title)), tag("p", "No row says anything of it.", class_="empty"))


def _summary(histogram: Histogram, text: Callable[[float], str]) -> str:
    quantiles = histogram.quantiles
    assert histogram.minimum is not None
    assert histogram.maximum is not None
    return (
        f"half of the rows below about {text(quantiles['p50'])}, nine in ten from {text(quantiles['p05'])} to "
        f"{text(quantiles['p95'])}; all from {text(histogram.minimum)} to {text(histogram.maximum)}"
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
