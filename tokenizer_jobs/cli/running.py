"""The commands that tokenize, `run` and `retry`: their display while they work, and their last screen."""

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import complain, example_id, sigterm_as_interrupt
from tokenizer_jobs.cli.facts import left_alone, rejects_text, table, totals
from tokenizer_jobs.cli.flags import load_job
from tokenizer_jobs.cli.next_steps import after_work
from tokenizer_jobs.cli.streams import show, tell
from tokenizer_jobs.errors import EXIT_STOPPED
from tokenizer_jobs.machine import uncollected
from tokenizer_jobs.wording import audio_text, count_text, span_text, speed_text

if TYPE_CHECKING:
    from tokenizer_jobs.job import Report
    from tokenizer_jobs.logs import LogFormat
    from tokenizer_jobs.results import RunResult

__all__ = ["retry_command", "run_command", "run_screen"]


def run_command(arguments: argparse.Namespace) -> int:
    """Of `run`.

    Raises:
        ConfigError: the job cannot be done as it is written.
    """
    from tokenizer_jobs.submission import check_submitted_version

    check_submitted_version(os.environ)
    config = load_job(arguments)

    def work(report: "Report") -> "RunResult":
        with uncollected():
            from tokenizer_jobs.job import run  # a second, in which the display already says something
        return run(config, replace=arguments.replace, report=report)

    return _do(work, log_format=arguments.log_format)


def retry_command(arguments: argparse.Namespace) -> int:
    """Of `retry`.

    Raises:
        ConfigError: there is no output, or no such reason.
    """
    from tokenizer_jobs.config import JobConfig

    config = None if arguments.config is None else JobConfig.load(arguments.config, output=arguments.output)

    def work(report: "Report") -> "RunResult":
        from tokenizer_jobs.retrying import retry

        return retry(
            arguments.output,
            reasons=arguments.reason,
            filtered=arguments.filtered,
            config=config,
            report=report,
        )

    return _do(work, log_format=arguments.log_format)


def _do(work: "Callable[[Report], RunResult]", *, log_format: "LogFormat") -> int:
    """Work under the progress display, and say how it ended."""
    from tokenizer_jobs.logs import json_logs
    from tokenizer_jobs.progress import ProgressDisplay

    try:
        with sigterm_as_interrupt():
            with (
                json_logs(sys.stderr) if log_format == "json" else nullcontext(),
                ProgressDisplay(sys.stderr, log_format=log_format) as display,
            ):
                result = work(display.report)
            shown_id = example_id(result.output, snapshot=result.snapshot)
    except KeyboardInterrupt:  # while loading, planning or publishing; with units in hand `run` stops by itself
        tell("stopped; nothing is lost, and the same command resumes")
        return EXIT_STOPPED
    show(run_screen(result, example_id=shown_id))
    complain(result.problems)
    return result.exit_code


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
        *totals(result),
        ("rejects", rejects_text(result.rejects, result.rejects_by_reason)),
        *left_alone(result.changed, result.changed_ids, vanished=result.vanished, vanished_ids=result.vanished_ids),
        ("codec", result.codec),
        ("recipe", result.recipe_id),
        ("snapshot", "none yet" if result.snapshot is None else str(result.snapshot)),
        ("digest", result.digest),
    ]
    steps = after_work(
        result.output, example_id=example_id, num_rejects=result.rejects - result.filtered, stopped=result.stopped
    )
    return "\n".join([head, *table(facts), *steps])


def _speed(hours: float, seconds: float) -> str:
    return f", {speed_text(hours * 3600 / seconds)}" if hours > 0 and seconds > 0 else ""
