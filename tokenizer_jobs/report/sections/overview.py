"""What an output holds, at a glance."""

from tokenizer_jobs.report.markup import Markup, count, joined, percent, section, tag
from tokenizer_jobs.report.statistics import Statistics
from tokenizer_jobs.wording import audio_text, bytes_text, count_text, span_text, speed_text

__all__ = ["overview_section"]


def overview_section(statistics: Statistics) -> Markup:
    """Counts, progress, problems and the digest."""
    counts = statistics.counts
    return section(
        "overview",
        "Overview",
        _problems(statistics),
        _progress(statistics),
        tag("dl", *(_figure(name, value, note) for name, value, note in _figures(statistics)), class_="figures"),
        tag("p", "Digest of all rows, which two runs or two teams compare: ", tag("code", counts.digest)),
    )


def _figures(statistics: Statistics) -> list[tuple[str, str, str | None]]:
    counts, work, content = statistics.counts, statistics.work, statistics.content
    share = percent(counts.rejects / counts.items) if counts.items else "0 %"
    found: list[tuple[str, str, str | None]] = [
        ("Audio", audio_text(counts.hours), "that has codes"),
        ("Items", count(counts.items), "planned" + (f", {count(counts.dropped)} dropped" if counts.dropped else "")),
        ("Rows", count(counts.rows), f"{count(counts.frames)} frames"),
        ("Rejects", count(counts.rejects), f"{share} of the items, {count(counts.filtered)} by filters"),
    ]
    if work is not None and work.speed is not None:
        pauses = ", pauses left out" if work.pauses else ""
        found.append(("Speed", speed_text(work.speed), f"over {span_text(work.clock_seconds)}{pauses}"))
    if work is not None and work.padding_share is not None:
        found.append(("Padding", percent(work.padding_share), "of the samples that were computed"))
    found.append(("Size", bytes_text(counts.bytes), count_text(counts.units_committed, "unit") + " committed"))
    if content is not None and content.codebooks:
        found.append(("Ideal rate", f"{content.ideal_kbps:.2f} kbps", _beside(statistics)))
    return found


def _beside(statistics: Statistics) -> str:
    nominal = statistics.codec.bandwidth_kbps
    return "order 0" if nominal is None else f"order 0; {nominal:g} kbps nominal"


def _figure(name: str, value: str, note: str | None) -> Markup:
    small = None if note is None else tag("small", note)
    return tag("div", tag("dt", name), tag("dd", value, small))


def _progress(statistics: Statistics) -> Markup | None:
    counts = statistics.counts
    if counts.state == "done":
        return None
    if counts.state == "empty":
        return tag("p", "Nothing is planned yet: the job has not listed its source. ", _REFRESH, class_="empty")
    done = f"{count(counts.units_committed)} of {count_text(counts.units, 'unit')} are committed"
    state = "the run goes on" if counts.state == "running" else "nobody works on the rest; run the job again to resume"
    bar = tag("progress", done, value=counts.units_committed, max=max(1, counts.units), aria_label=done)
    return joined([tag("p", f"{done}; {state}. ", _REFRESH), bar])


_REFRESH = "What is shown is how things stood when this page was made; the same command makes it anew."


def _problems(statistics: Statistics) -> Markup | None:
    if not statistics.problems:
        return None
    items = [tag("li", problem) for problem in statistics.problems]
    return tag("div", tag("strong", "Problems"), tag("ul", *items), class_="callout", role="alert")
