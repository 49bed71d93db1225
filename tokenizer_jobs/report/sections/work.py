"""How the work went: throughput, stages, padding, and which device did which unit when."""

from tokenizer_jobs.report.markup import Markup, count, figure, joined, percent, section, short, table, tag
from tokenizer_jobs.report.plots import Bar, Span, Tick, bars, lanes, nice_ticks, stacked
from tokenizer_jobs.report.work import STAGES, Work
from tokenizer_jobs.wording import audio_text, count_text, span_text, speed_text

__all__ = ["work_section"]

_NAMES = {
    "encode": "encode",
    "decode_wait": "wait for audio",
    "encode_wait": "wait for the codec",
    "write": "write",
    "other": "other",
}
_ORDER = ("encode", "decode_wait", "encode_wait", "write", "other")
assert set(_ORDER) == set(STAGES)


def work_section(work: Work | None) -> Markup:
    """Throughput over time, by stage, and the units."""
    if work is None:
        return section("work", "Work", tag("p", "No unit is committed yet.", class_="empty"))
    note = _note(work)
    if not work.bins:
        return section("work", "Work", note, tag("p", "The units took no measurable time.", class_="empty"))
    return section("work", "Work", note, _throughput(work), _stages(work), _timeline(work))


def _note(work: Work) -> Markup:
    words = [f"{span_text(work.clock_seconds)} of work"]
    if work.pauses:
        words.append(f"{count_text(work.pauses, 'pause')} of {span_text(work.pause_seconds)} in all left out")
    if work.retried_units:
        words.append(f"{count_text(work.retried_units, 'unit')} took more than one attempt")
    if work.padding_share is not None:
        words.append(f"{percent(work.padding_share)} of the computed samples were padding")
    return tag("p", "; ".join(words), ".", class_="note")


def _ticks(work: Work) -> list[Tick]:
    return [Tick(place, span_text(place) if place else "0") for place in nice_ticks(0.0, work.clock_seconds, number=7)]


def _throughput(work: Work) -> Markup:
    speeds = [one.audio_seconds / (one.end_seconds - one.start_seconds) for one in work.bins]
    marks = [
        Bar(
            start=one.start_seconds,
            end=one.end_seconds,
            value=speed,
            title=f"{span_text(one.start_seconds)} to {span_text(one.end_seconds)}: {speed_text(speed)}",
        )
        for one, speed in zip(work.bins, speeds, strict=True)
    ]
    plot = bars(
        marks,
        label="Seconds of audio per second, over the time of the work",
        x_ticks=_ticks(work),
        x_label="time",
        y_text=lambda value: f"{short(value)} ×",
    )
    rows = [
        (span_text(one.start_seconds), audio_text(one.audio_seconds / 3600), speed_text(speed))
        for one, speed in zip(work.bins, speeds, strict=True)
    ]
    shown = table(("from", "audio", "speed"), rows, numbers=(0, 1, 2))
    return figure(plot, title="Throughput", note="× real time; a unit counts evenly over its time", rows=shown)


def _stages(work: Work) -> Markup:
    columns, titles, rows = [], [], []
    for one in work.bins:
        length = one.end_seconds - one.start_seconds
        layers = [one.stage_seconds.get(stage, 0.0) / length for stage in _ORDER]
        columns.append((one.start_seconds, one.end_seconds, layers))
        words = ", ".join(f"{_NAMES[stage]} {layer:.2f}" for stage, layer in zip(_ORDER, layers, strict=True))
        titles.append(f"{span_text(one.start_seconds)} to {span_text(one.end_seconds)}: {words}")
        rows.append((span_text(one.start_seconds), *(f"{layer:.2f}" for layer in layers)))
    plot = stacked(
        columns,
        label="Units in hand by stage, over the time of the work",
        names=[_NAMES[stage] for stage in _ORDER],
        titles=titles,
        x_ticks=_ticks(work),
        x_label="time",
        y_text=short,
    )
    whole = sum(work.stage_seconds.values()) or 1.0
    shares = ", ".join(f"{_NAMES[stage]} {percent(work.stage_seconds[stage] / whole)}" for stage in _ORDER)
    shown = table(("from", *(_NAMES[stage] for stage in _ORDER)), rows, numbers=range(6))
    return figure(plot, title="Stages", note=f"units in hand; over all: {shares}", rows=shown)


def _timeline(work: Work) -> Markup:
    rows_of = [1] * len(work.lanes)
    for span in work.spans:
        rows_of[span.lane] = max(rows_of[span.lane], span.row + 1)
    fastest = max((_speed(span.audio_seconds, span.end_seconds - span.start_seconds) for span in work.spans), default=1)
    marks = []
    for span in work.spans:
        seconds = span.end_seconds - span.start_seconds
        speed = _speed(span.audio_seconds, seconds)
        again = f", attempt {span.attempt}" if span.attempt > 1 else ""
        marks.append(
            Span(
                lane=span.lane,
                row=span.row,
                start=span.start_seconds,
                end=span.end_seconds,
                strength=speed / fastest if fastest else 1.0,
                title=f"generation {span.generation}, unit {span.index}{again}: "
                f"{audio_text(span.audio_seconds / 3600)} in {span_text(seconds)}, {speed_text(speed)}",
            )
        )
    plot = lanes(
        marks,
        rows_of=rows_of,
        label="Units by device, over the time of the work",
        length=work.clock_seconds,
        x_ticks=_ticks(work),
    )
    rows = [
        (
            number + 1,
            tag("bdi", lane.host),
            lane.device,
            count(lane.units),
            audio_text(lane.audio_seconds / 3600),
            percent(lane.busy_seconds / work.clock_seconds),
        )
        for number, lane in enumerate(work.lanes)
    ]
    heads = ("", "host", "device", "units", "audio", "busy")
    left_out = f"; {count(work.spans_left_out)} more units are not shown" if work.spans_left_out else ""
    note = f"one band a device, darker where faster{left_out}"
    others = tag("p", f"{count(work.other_lanes)} more devices did less.", class_="note") if work.other_lanes else None
    return joined([figure(plot, title="Units", note=note), table(heads, rows, numbers=(0, 3, 4, 5)), others])


def _speed(audio_seconds: float, seconds: float) -> float:
    return audio_seconds / seconds if seconds > 0 else 0.0
