"""The screens of the commands as text: pure functions of what the commands found."""

import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizer_jobs.wording import (
    audio_text,
    bytes_text,
    count_text,
    counts_text,
    span_text,
    speed_text,
)

if TYPE_CHECKING:
    from tokenizer_jobs.exporting import ExportResult
    from tokenizer_jobs.importing import ImportResult
    from tokenizer_jobs.pace import RecentWork
    from tokenizer_jobs.reencoding import ReencodeResult
    from tokenizer_jobs.results import Calibration, DropResult, MachineCost, OutputSummary, PlanResult, RunResult
    from tokenizer_jobs.status import Status
    from tokenizer_jobs.verification import VerifyResult

__all__ = [
    "drop_screen",
    "export_screen",
    "import_screen",
    "plan_screen",
    "run_screen",
    "status_screen",
    "verify_screen",
]

SHOWN = 5
"""Examples in a list of ids; the JSON form has all of them."""


def run_screen(result: "RunResult", *, example_id: str | None) -> str:
    """What a run made, where, and what to do next.

    Args:
        result: Of the run.
        example_id: Of a row, for the command that decodes; None when no snapshot has a row.
    """
    if result.stopped:
        head = f"stopped: {result.units_committed:,} of {count_text(result.units, 'unit')} committed; nothing is lost"
    elif result.problems:
        head = "failed"
    else:
        head = "done" if result.new_rows or result.rows == 0 else "done: nothing was new"
    new = (
        f"{count_text(result.new_rows, 'row')} ({audio_text(result.new_hours)}) in {span_text(result.elapsed_seconds)}"
    )
    facts = [
        ("output", result.output),
        ("this run", new + _speed(result.new_hours, result.elapsed_seconds)),
        *_totals(result),
        ("rejects", _rejects(result.rejects, result.rejects_by_reason)),
        *_left_alone(result.changed, result.changed_ids, vanished=result.vanished, vanished_ids=result.vanished_ids),
        ("codec", result.codec),
        ("recipe", result.recipe_id),
        ("snapshot", "none yet" if result.snapshot is None else str(result.snapshot)),
        ("digest", result.digest),
    ]
    return "\n".join([head, *_table(facts), *_next_steps(result, example_id)])


_LAYOUTS = {"1": "mono", "2": "stereo", "unknown": "unknown"}


def plan_screen(result: "PlanResult", *, run_command: str) -> str:
    """What a run would do.

    Args:
        result: Of the dry run.
        run_command: Does it.
    """
    known = {"unchanged": result.unchanged_items, "changed": result.changed_items, "vanished": result.vanished_items}
    facts = [
        ("output", result.output),
        (
            "items",
            f"{result.new_items:,} new" + "".join(f", {count:,} {name}" for name, count in known.items() if count),
        ),
        *(_planned_work(result) if result.new_items else ()),
    ]
    facts += [("skipped", counts_text(result.skipped))] if result.skipped else []
    if result.missing_files:
        missing = f"{count_text(result.missing_files, 'file')} of the manifest{_such_as(result.missing_ids)}"
        facts.append(("missing", f"{missing}; a reject each"))
    facts += _left_alone(
        result.changed_items, result.changed_ids, vanished=result.vanished_items, vanished_ids=result.vanished_ids
    )
    facts += [("duplicates", _shortened(result.duplicate_ids))] if result.duplicate_ids else []
    facts += [] if result.calibration is None else _predictions(result.calibration)
    facts += [("cost", _cost(machine)) for machine in result.costs]
    open_units = result.units - result.units_committed
    if result.problems:
        end = "a run would be refused:"  # the problems follow on stderr
    elif open_units:
        end = f"next:\n  {run_command}"
    else:
        end = "nothing to do"
    return "\n".join(["plan (nothing was written)", *_table(facts), "", end])


def _planned_work(result: "PlanResult") -> list[tuple[str, str]]:
    rates = {f"{rate} Hz" if rate.isdigit() else rate: hours for rate, hours in result.hours_by_sample_rate.items()}
    layouts = {_LAYOUTS.get(name, f"{name} channels"): hours for name, hours in result.hours_by_channels.items()}
    open_units = result.units - result.units_committed
    unreadable = (
        [("no header", f"{result.unreadable_headers:,} of {result.headers_read:,} could not be read")]
        if result.unreadable_headers
        else []
    )
    filtered = (
        [("filters", f"will reject about: {counts_text(result.expected_filtered)}")] if result.expected_filtered else []
    )
    return [
        ("audio", audio_text(result.hours)),
        ("formats", _hours(result.hours_by_format)),
        ("rates", _hours(rates)),
        ("channels", _hours(layouts)),
        ("longest", f"{_on_one_line(result.longest_id or '')}, {span_text(result.longest_seconds)}"),
        *unreadable,
        *filtered,
        ("units", f"{open_units:,} to do, about {span_text(60 * result.unit_minutes)} of audio each"),
        ("codes", f"about {result.expected_codes:,} in {bytes_text(result.expected_bytes)}"),
        ("time", f"about {span_text(result.expected_seconds)} of encoding on this machine alone"),
    ]


def _hours(by_name: dict[str, float]) -> str:
    return ", ".join(f"{name} {audio_text(hours)}" for name, hours in by_name.items()) or "none"


def _predictions(found: "Calibration") -> list[tuple[str, str]]:
    rates = [
        f"{name} at {speed_text(1 / cost)} per {unit}"
        for name, cost, unit in (
            ("decoding", found.decode_cpu_per_audio_second, "core"),
            ("encoding", found.encode_per_audio_second, "GPU" if found.device == "cuda" else "core"),
        )
        if cost > 0
    ]
    what_if = [f"twice the cores {span_text(found.twice_cores_seconds)}"]
    what_if += [
        f"{count_text(number, 'GPU')} {span_text(seconds)}" if number else f"GPUs no less than {span_text(seconds)}"
        for number, seconds in found.gpus_seconds.items()
    ]
    sample = f"{count_text(found.items, 'item')} ({audio_text(found.audio_seconds / 3600)})"
    return [
        ("sample", f"{sample} took {span_text(found.elapsed_seconds)}: {', '.join(rates)}"),
        (
            "duration",
            f"about {span_text(found.predicted_seconds)} in all{_as_busy(found)}, "
            f"{span_text(found.startup_seconds)} of them around the work; the job waits for {found.bound_stage} most",
        ),
        ("what if", ", ".join(what_if)),
        ("assuming", "; ".join(found.assumptions)),
    ]


def _as_busy(found: "Calibration") -> str:
    """What other work on the machine makes of the duration, where that is worth saying."""
    if found.alone_seconds is None or found.alone_seconds > 0.9 * found.predicted_seconds:
        return ""
    return f" on this machine as busy as it is now (no less than {span_text(found.alone_seconds)} with it to itself)"


def _cost(machine: "MachineCost") -> str:
    name = f"{machine.name}, this machine" if machine.is_this_machine else machine.name
    if machine.seconds is None or machine.cost is None:
        return f"{name}: this machine cannot tell; calibrate on one of that kind"
    return f"{name}: {machine.cost:,.2f} {machine.currency} for {span_text(machine.seconds)}"


def status_screen(status: "Status") -> str:
    """Where an output stands."""
    facts = [
        ("output", status.output),
        ("state", _state(status)),
        *_totals(status),
        ("units", f"{status.units_committed:,} committed, {status.left:,} left of {status.units:,}"),
        ("rejects", _rejects(status.rejects, status.rejects_by_reason)),
        ("snapshot", "none yet" if status.snapshot is None else str(status.snapshot)),
        ("digest", status.digest),
    ]
    facts[2:2] = _speeds(status)
    if status.recent is not None:
        facts += _recent(status.recent, is_running=status.running)
    return "\n".join([*_table(facts), *(f"  {problem}" for problem in status.problems)])


def _speeds(status: "Status") -> list[tuple[str, str]]:
    if status.rate is None:
        return []
    text = f"{speed_text(status.rate)} since the run began"
    if status.recent is not None and status.recent.speed is not None:
        text = f"{speed_text(status.recent.speed)} now, {text}"
    left = "" if status.eta_seconds is None else f"; {span_text(status.eta_seconds)} left"
    return [("speed", text + left)]


_STAGES = {
    "decode_wait": "waiting for decoding",
    "encode_wait": "waiting for the codec",
    "encode": "encoding",
    "write": "writing",
    "other": "all else",
}


def _recent(recent: "RecentWork", *, is_running: bool) -> list[tuple[str, str]]:
    """What the latest units say."""
    shares = sorted(recent.stage_shares.items(), key=lambda pair: -pair[1])
    stages = ", ".join(f"{_STAGES.get(stage, stage)} {100 * share:.0f} %" for stage, share in shares)
    places = [f"{one.host} ({one.device}, {count_text(one.units, 'unit')})" for one in recent.encoders]
    facts = [(f"latest {recent.units:,}", stages)] if stages else []
    if recent.padding_share:
        facts.append(("padding", f"{100 * recent.padding_share:.1f} % of the samples that were encoded"))
    if recent.retried:
        facts.append(("retried", f"{recent.retried:,} of the latest {count_text(recent.units, 'unit')}"))
    if is_running or len(places) > 1:
        facts.append(("encoders", _shortened(places)))
    return facts


def drop_screen(result: "DropResult") -> str:
    """What was taken out, or would be."""
    head = "would be dropped (nothing was written)" if result.dry_run else "dropped"
    facts = [
        ("output", result.output),
        ("items", f"{result.items:,}"),
        ("rows", f"{result.rows:,} in {count_text(result.units, 'unit')}"),
        ("rejects", f"{result.rejects:,}"),
    ]
    facts += [("before", f"{count_text(result.already, 'id')} dropped already")] if result.already else []
    facts += [("receipt", result.receipt)] if result.receipt is not None else []
    facts += [("snapshot", str(result.snapshot))] if result.snapshot is not None else []
    return "\n".join([head, *_table(facts)])


def export_screen(result: "ExportResult") -> str:
    """What was exported, and to where."""
    facts = [
        ("output", f"{result.output}, snapshot {result.snapshot}"),
        ("export", f"{result.destination}, {result.format}"),
        (
            "rows",
            f"{result.rows:,}, {count_text(result.frames, 'frame')} of {count_text(result.codebooks, 'codebook')}",
        ),
        ("size", f"{bytes_text(result.bytes)} in {count_text(result.files, 'file')}"),
        ("digest", result.digest),
    ]
    facts += [("pushed to", result.pushed_to)] if result.pushed_to is not None else []
    return "\n".join(["done: this export was there already" if result.was_there else "done", *_table(facts)])


def import_screen(result: "ImportResult") -> str:
    """What was understood of a dump, and what was made of it."""
    head = "would be imported (nothing was written)" if result.dry_run else "failed" if result.problems else "done"
    facts = [("dump", line) for line in result.evidence]
    facts += [("codec", result.codec), ("output", result.output)]
    if result.dry_run:
        return "\n".join([head, *_table([*facts, ("items", f"{result.items:,}")])])
    facts += [
        ("new rows", f"{result.new_rows:,}"),
        *_totals(result),
        ("rejects", _rejects(result.rejects, result.rejects_by_reason)),
    ]
    facts += (
        [("changed", f"{count_text(result.changed, 'item')}; their rows stay as they are")] if result.changed else []
    )
    facts += [("snapshot", str(result.snapshot)), ("digest", result.digest)]
    return "\n".join([head, *_table(facts)])


def verify_screen(result: "VerifyResult") -> str:
    """What verification found; the last line is the digest."""
    head = "sound" if not result.problems else f"not sound: {count_text(len(result.problems), 'fault')}"
    facts = [
        *_totals(result),
        ("items", f"{result.items:,} planned"),
        ("rejects", f"{result.rejects:,} ({result.filtered:,} by a filter)"),
        ("snapshot", "none" if result.snapshot is None else str(result.snapshot)),
    ]
    if result.reencoded is not None:
        facts.append(("reencoded", _reencoded_text(result.reencoded)))
    return "\n".join([head, *_table(facts), result.digest])


def _reencoded_text(found: "ReencodeResult") -> str:
    share = f"{100 * found.equal / found.codes:.4f} % equal" if found.codes else "nothing compared"
    text = (
        f"{count_text(found.items, 'item')}, {count_text(found.codes, 'code')}: {share}, "
        f"{count_text(found.near_tie_frames, 'frame')} of near ties, {count_text(found.wrong_frames, 'frame')} wrong"
    )
    if found.partly:
        text += f"; of {count_text(found.partly, 'item')} ten minutes only"
    return f"{text}; {found.gone:,} sampled inputs are gone or changed" if found.gone else text


def _state(status: "Status") -> str:
    live = status.live_run
    if live is not None:
        return f"running on {live.host} (pid {live.pid}, heartbeat {span_text(live.heartbeat_age_seconds)} ago)"
    if status.generations == 0:
        return "not planned yet; run the job"
    if status.left:
        return "no live run; run the job again to resume"
    return "complete"


def _totals(totals: "OutputSummary") -> list[tuple[str, str]]:
    dropped = f", {totals.dropped:,} dropped" if totals.dropped else ""
    return [
        ("rows", f"{totals.rows:,} of {count_text(totals.items, 'item')}{dropped}"),
        ("audio", audio_text(totals.hours)),
        ("size", bytes_text(totals.bytes)),
    ]


def _rejects(count: int, by_reason: dict[str, int]) -> str:
    return f"{count:,} ({counts_text(by_reason)})" if count else "0"


def _left_alone(
    changed: int, changed_ids: list[str], *, vanished: int, vanished_ids: list[str]
) -> list[tuple[str, str]]:
    """What a run leaves as it is, of what is not as it was."""
    as_before = (
        f"{count_text(changed, 'input')} under a known id{_such_as(changed_ids)}; their rows stay as they are, "
        "--replace tokenizes them anew"
    )
    kept = (
        f"{count_text(vanished, 'input')} that the source holds no more{_such_as(vanished_ids)}; their rows stay "
        "until `drop`"
    )
    return [(n, text) for n, count, text in (("changed", changed, as_before), ("vanished", vanished, kept)) if count]


def _speed(hours: float, seconds: float) -> str:
    return f", {speed_text(hours * 3600 / seconds)}" if hours > 0 and seconds > 0 else ""


def _next_steps(result: "RunResult", example_id: str | None) -> list[str]:
    output, program = shlex.quote(result.output), _program()
    steps = [
        "",
        "next: the same command again resumes; or" if result.stopped else "next:",
        f"  {program} status {output}",
        f"  {program} verify {output}",
    ]
    if example_id is not None:
        steps.append(f"  {program} decode {output} --id {shlex.quote(example_id)} -o decoded.wav")
    return steps


def _program() -> str:
    """The command as it can be typed here: by name where the path has it, else where it is installed."""
    name = "tokenizer-jobs"
    beside_python = Path(sys.executable).with_name(name)
    if shutil.which(name) is None and beside_python.exists():
        return shlex.quote(os.path.relpath(beside_python))
    return name


def _table(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"  {name:<10} {value}" for name, value in facts]


def _such_as(ids: list[str]) -> str:
    return f", such as {', '.join(map(repr, ids[:2]))}" if ids else ""


def _on_one_line(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _shortened(names: list[str]) -> str:
    return ", ".join(map(_on_one_line, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
