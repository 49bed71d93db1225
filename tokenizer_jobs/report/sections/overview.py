"""What an output holds, at a glance."""

from tokenizer_jobs.report.markup import Markup, audio_length, count, joined, percent, section, tag
from tokenizer_jobs.report.statistics import Statistics
from tokenizer_jobs.wording import bytes_text, count_text, span_text

__all__ = ["overview_section"]


def overview_section(statistics: Statistics) -> Markup:
    """Counts, progress, problems and the digest."""
    digest = tag("code", statistics.counts.digest, class_="digest")
    return section(
        "overview",
        "Overview",
        _problems(statistics),
        _progress(statistics),
        tag("dl", *(_figure(name, value, note) for name, value, note in _figures(statistics)), class_="figures"),
        tag("p", "Digest of all rows, which two runs or two teams compare: ", digest),
    )


def _figures(statistics: Statistics) -> list[tuple[str, str, str]]:
    counts, work, content = statistics.counts, statistics.work, statistics.content
    dropped = f", {count(counts.dropped)} dropped since" if counts.dropped else ""
    found: list[tuple[str, str, str]] = [
        ("Audio", audio_length(counts.hours), "that has codes"),
        ("Items", count(counts.items), f"planned{dropped}"),
        ("Rows", count(counts.rows), f"with {count_text(counts.frames, 'frame')}"),
        ("Rejects", count(counts.rejects), _rejected(statistics)),
    ]
    if work is not None and work.speed is not None:
        found.append(("Speed", _speed(work.speed), f"real time, over {span_text(work.clock_seconds)} of work"))
    if work is not None and work.padding_share is not None:
        found.append(("Padding", percent(work.padding_share), "of the computed samples"))
    found.append(("Size", bytes_text(counts.bytes), f"in {count_text(counts.units_committed, 'unit')}"))
    if content is not None and content.codebooks and statistics.codec.frame_rate is not None:
        found.append(("Ideal rate", f"{content.ideal_kbps:.2f} kbps", _beside(statistics)))
    return found


def _rejected(statistics: Statistics) -> str:
    counts = statistics.counts
    if not counts.rejects:
        return "every item has codes" if counts.state == "done" and counts.items else "so far"
    share = percent(counts.rejects / max(1, counts.items))
    return f"{share}, {count(counts.filtered)} of them by filters" if counts.filtered else f"{share} of the items"


def _speed(speed: float) -> str:
    return f"{speed:,.1f} ×" if speed < 10 else f"{speed:,.0f} ×"


def _beside(statistics: Statistics) -> str:
    nominal = statistics.codec.bandwidth_kbps
    return "order 0" if nominal is None else f"order 0, of {nominal:g} kbps nominal"


def _figure(name: str, value: str, note: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value, tag("small", note)))


def _progress(statistics: Statistics) -> Markup | None:
    counts = statistics.counts
    if counts.state == "done":
        return None
    made = f"This is how things stood at {statistics.made_at:%H:%M:%S UTC on %Y-%m-%d}; the same command makes it anew."
    if counts.state == "empty":
        return tag("p", f"Nothing is planned yet: the job has not listed its source. {made}", class_="empty")
    done = f"{count(counts.units_committed)} of {count_text(counts.units, 'unit')} are committed"
    state = (
        "the job is running" if counts.state == "running" else "nobody works on the rest; run the job again to resume"
    )
    bar = tag("progress", done, value=counts.units_committed, max=max(1, counts.units), aria_label=done)
    return joined([tag("p", tag("strong", f"{done}; {state}."), f" {made}"), bar])


def _problems(statistics: Statistics) -> Markup | None:
    if not statistics.problems:
        return None
    items = [tag("li", problem) for problem in statistics.problems]
    return tag("div", tag("strong", "Problems"), tag("ul", *items), class_="callout", role="alert")
