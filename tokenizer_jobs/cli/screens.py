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
    from tokenizer_jobs.reencoding import ReencodeResult
    from tokenizer_jobs.results import OutputSummary, PlanResult, RunResult
    from tokenizer_jobs.status import Status
    from tokenizer_jobs.verification import VerifyResult

__all__ = ["plan_screen", "run_screen", "status_screen", "verify_screen"]

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
        *_left_alone(result),
        ("codec", result.codec),
        ("recipe", result.recipe_id),
        ("snapshot", "none yet" if result.snapshot is None else str(result.snapshot)),
        ("digest", result.digest),
    ]
    return "\n".join([head, *_table(facts), *_next_steps(result, example_id)])


_LAYOUTS = {1: "mono", 2: "stereo"}


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
    facts += [("duplicates", _shortened(result.duplicate_ids))] if result.duplicate_ids else []
    open_units = result.units - result.units_committed
    if result.problems:
        end = "a run would be refused:"  # the problems follow on stderr
    elif open_units:
        end = f"next:\n  {run_command}"
    else:
        end = "nothing to do"
    return "\n".join(["plan (nothing was written)", *_table(facts), "", end])


def _planned_work(result: "PlanResult") -> list[tuple[str, str]]:
    rates = {f"{rate} Hz": count for rate, count in result.sample_rates.items()}
    layouts = {_LAYOUTS.get(channels, f"{channels} channels"): count for channels, count in result.channels.items()}
    open_units = result.units - result.units_committed
    unreadable = (
        [("no header", f"{result.unreadable_headers:,} could not be read")] if result.unreadable_headers else []
    )
    return [
        ("audio", audio_text(result.hours)),
        ("formats", counts_text(result.formats)),
        ("rates", counts_text(rates)),
        ("channels", counts_text(layouts)),
        *unreadable,
        ("units", f"{open_units:,} to do, about {result.unit_minutes:.2g} min of audio each"),
        ("codes", f"about {result.expected_codes:,} in {bytes_text(result.expected_bytes)}"),
        ("time", f"about {span_text(result.expected_seconds)} of encoding on this machine alone"),
    ]


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
    if status.rate is not None:
        left = "" if status.eta_seconds is None else f", {span_text(status.eta_seconds)} left"
        facts.insert(2, ("speed", f"{status.rate:,.1f} hours of audio per hour{left}"))
    return "\n".join([*_table(facts), *(f"  {problem}" for problem in status.problems)])


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
    return f"{text}; {found.gone:,} sampled inputs are gone or changed" if found.gone else text


def _state(status: "Status") -> str:
    live = status.live_run
    if live is not None:
        return f"running on {live.host} (pid {live.pid}, heartbeat {span_text(live.heartbeat_age_seconds)} ago)"
    if status.left:
        return "no live run; run the job again to resume"
    return "complete"


def _totals(totals: "OutputSummary") -> list[tuple[str, str]]:
    return [
        ("rows", f"{totals.rows:,} of {count_text(totals.items, 'item')}"),
        ("audio", audio_text(totals.hours)),
        ("size", bytes_text(totals.bytes)),
    ]


def _rejects(count: int, by_reason: dict[str, int]) -> str:
    return f"{count:,} ({counts_text(by_reason)})" if count else "0"


def _left_alone(result: "RunResult") -> list[tuple[str, str]]:
    changed = count_text(result.changed, "input") + " under a known id; their rows were left as they are"
    vanished = count_text(result.vanished, "input") + " that the source holds no more; their rows stay"
    return [
        (n, text)
        for n, count, text in (("changed", result.changed, changed), ("vanished", result.vanished, vanished))
        if count
    ]


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


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
