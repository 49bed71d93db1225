"""How the work went: throughput, stages, padding, and which device did which unit when."""

from tokenizer_jobs.report.drawing import time_ticks
from tokenizer_jobs.report.maps import Span, lanes
from tokenizer_jobs.report.markup import (
    Markup,
    audio_length,
    count,
    figure,
    joined,
    percent,
    section,
    short,
    table,
    tag,
)
from tokenizer_jobs.report.plots import Bar, Layer, bars, shares, stacked
from tokenizer_jobs.report.work import STAGES, TimeBin, Work
from tokenizer_jobs.wording import count_text, span_text, speed_text

__all__ = ["work_section"]

FEWEST_UNITS = 5
"""From which the work is shown over time. A unit counts evenly over the time that it took: one is a flat block."""
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
    note = tag("p", _note(work), class_="note")
    if not work.bins:
        return section("work", "Work", note, tag("p", "The units took no measurable time.", class_="empty"))
    num_units = sum(lane.units for lane in work.lanes)
    if num_units < FEWEST_UNITS:
        few = f"With fewer than {FEWEST_UNITS} units there is no course of the work over time to show."
        return section("work", "Work", note, _stages(work), tag("p", few, class_="note"), _devices(work))
    return section("work", "Work", note, _stages(work), _throughput(work), _stages_over_time(work), _timeline(work))


def _note(work: Work) -> str:
    words = [f"{span_text(work.clock_seconds)} of work"]
    if work.pauses:
        pauses = f"{count_text(work.pauses, 'pause')} of {span_text(work.pause_seconds)} in all left out"
        words.append(f"{pauses}, dashed below" if sum(lane.units for lane in work.lanes) >= FEWEST_UNITS else pauses)
    if work.retried_units:
        words.append(f"{count_text(work.retried_units, 'unit')} took more than one attempt")
    if work.padding_share is not None:
        words.append(f"{percent(work.padding_share)} of the computed samples were padding")
    return "; ".join(words) + "."


def _stages(work: Work) -> Markup:
    whole = sum(work.stage_seconds.values()) or 1.0
    layers = [
        Layer(name=_NAMES[stage], value=seconds, text=span_text(seconds) if seconds >= 0.05 else "< 0.1 s")
        for stage in _ORDER
        for seconds in (work.stage_seconds[stage],)
    ]
    title = "Where the time went"
    rows = table(
        ("stage", "time", "share"),
        [(layer.name, layer.text, percent(layer.value / whole)) for layer in layers if layer.value > 0],
        numbers=(1, 2),
    )
    note = "The time of all units, added up over those in hand at once."
    return figure(shares(layers, label="Time of all units, by stage"), title=title, note=note, rows=rows)


def _throughput(work: Work) -> Markup:
    speeds = [one.audio_seconds / (one.end_seconds - one.start_seconds) for one in work.bins]
    marks = [
        Bar(start=one.start_seconds, end=one.end_seconds, value=speed, title=f"{_when(one)}: {speed_text(speed)}")
        for one, speed in zip(work.bins, speeds, strict=True)
    ]
    plot = bars(
        marks,
        label="Seconds of audio per second, over the time of the work",
        x_ticks=time_ticks(work.clock_seconds),
        cuts=work.pauses_at,
        x_label="time",
        y_text=lambda value: f"{short(value)} ×",
    )
    rows = [
        (_when(one), audio_length(one.audio_seconds / 3600), speed_text(speed))
        for one, speed in zip(work.bins, speeds, strict=True)
    ]
    shown = table(("time", "audio", "speed"), rows, numbers=(1, 2))
    note = "Seconds of audio for each second of work; a unit counts evenly over the time that it took."
    return figure(plot, title="Throughput", note=note, rows=shown)


def _stages_over_time(work: Work) -> Markup:
    columns, titles, rows = [], [], []
    for one in work.bins:
        length = one.end_seconds - one.start_seconds
        layers = [one.stage_seconds.get(stage, 0.0) / length for stage in _ORDER]
        columns.append((one.start_seconds, one.end_seconds, layers))
        words = ", ".join(f"{_NAMES[stage]} {layer:.2f}" for stage, layer in zip(_ORDER, layers, strict=True))
        titles.append(f"{_when(one)}: {words}")
        rows.append((_when(one), *(f"{layer:.2f}" for layer in layers)))
    plot = stacked(
        columns,
        label="Units in hand by stage, over the time of the work",
        titles=titles,
        x_ticks=time_ticks(work.clock_seconds),
        cuts=work.pauses_at,
        x_label="time",
        y_text=short,
    )
    shown = table(("time", *(_NAMES[stage] for stage in _ORDER)), rows, numbers=range(1, 6))
    return figure(plot, title="Units in hand", note="By stage, in the colours above.", rows=shown)


def _when(one: TimeBin) -> str:
    return f"{span_text(one.start_seconds)} to {span_text(one.end_seconds)}"


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
                f"{audio_length(span.audio_seconds / 3600)} in {span_text(seconds)}, {speed_text(speed)}",
                marked=span.attempt > 1,
            )
        )
    plot = lanes(
        marks,
        rows_of=rows_of,
        label="Units by device, over the time of the work",
        length=work.clock_seconds,
        x_ticks=time_ticks(work.clock_seconds),
        cuts=work.pauses_at,
    )
    again = ", orange where it was not the first attempt" if work.retried_units else ""
    left_out = f" {count(work.spans_left_out)} more units are not shown." if work.spans_left_out else ""
    note = f"A band for each device, a bar for each unit, stronger where faster{again}.{left_out}"
    return joined([figure(plot, title="Units", note=note), _devices(work)])


def _devices(work: Work) -> Markup:
    rows = [
        (
            number + 1,
            tag("bdi", lane.host),
            lane.device,
            count(lane.units),
            audio_length(lane.audio_seconds / 3600),
            percent(min(1.0, lane.busy_seconds / work.clock_seconds)),
        )
        for number, lane in enumerate(work.lanes)
    ]
    heads = ("band", "host", "device", "units", "audio", "busy")
    others = tag("p", f"{count(work.other_lanes)} more devices did less.", class_="note") if work.other_lanes else None
    return joined([table(heads, rows, numbers=(0, 3, 4, 5)), others])


def _speed(audio_seconds: float, seconds: float) -> float:
    return audio_seconds / seconds if seconds > 0 else 0.0
