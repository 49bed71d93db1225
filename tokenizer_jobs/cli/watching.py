"""The command that looks at an output, `status`: once, until nothing is left to wait for, or at its rejects."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.facts import Fact, on_one_line, rejects_text, shortened, table, totals
from tokenizer_jobs.cli.next_steps import command, next_steps
from tokenizer_jobs.errors import EXIT_DONE, ConfigError
from tokenizer_jobs.wording import count_text, counts_text, span_text, speed_text

if TYPE_CHECKING:
    from tokenizer_jobs.pace import RecentWork
    from tokenizer_jobs.rejected_items import RejectedRow
    from tokenizer_jobs.status import Status

__all__ = ["rejects_screen", "status_command", "status_screen"]

WATCH_SECONDS = 5.0


def status_command(arguments: argparse.Namespace) -> int:
    """Show where an output stands.

    Raises:
        ConfigError: there is no output, or the flags contradict each other.
    """
    from tokenizer_jobs.status import StatusReader

    if arguments.json and arguments.watch:
        raise ConfigError("--json prints one object and --watch many; give one of the two")
    if arguments.rejects is not None and (arguments.json or arguments.watch):
        raise ConfigError("--rejects is a list for people; give it without --json and --watch")
    reader = StatusReader(arguments.output)
    status = reader.read()
    if arguments.rejects is not None:
        from tokenizer_jobs.rejected_items import read_rejects

        print(rejects_screen(status, read_rejects(arguments.output, most=arguments.rejects)))
        return EXIT_DONE
    if arguments.json:
        print(status.model_dump_json())
        return EXIT_DONE
    print(status_screen(status), flush=True)
    while arguments.watch and not status.is_settled:
        time.sleep(WATCH_SECONDS)
        status = reader.read()
        screen = status_screen(status)
        # On a terminal the screen is drawn over the last one, in one write; elsewhere screens follow each other.
        print("\n" + screen if not sys.stdout.isatty() else _drawn_over(screen), flush=True)
    return EXIT_DONE


def _drawn_over(screen: str) -> str:
    """A screen in place of what the terminal shows; each row is erased behind what is drawn, so nothing flickers."""
    return "\033[H" + screen.replace("\n", "\033[K\n") + "\033[K\n\033[J"


def rejects_screen(status: "Status", rejects: "Sequence[RejectedRow]") -> str:
    """The rejects of an output, each with what was wrong.

    Args:
        status: Of the output.
        rejects: The first of them.
    """
    if not rejects:
        return f"{status.output} has no rejects"
    more = f"; these are {len(rejects):,} of them" if len(rejects) < status.rejects else ""
    head = f"{status.output} has {count_text(status.rejects, 'reject')} ({counts_text(status.rejects_by_reason)}){more}"
    lines = [line for row in rejects for line in _reject_lines(row)]
    retry = command("retry", status.output)
    steps = next_steps(retry, heading="next, once the inputs are mended:") if status.rejects > status.filtered else []
    return "\n".join([head, *lines, *steps])


def _reject_lines(row: "RejectedRow") -> list[str]:
    place = row.source_uri if row.source_member is None else f"{row.source_uri} {row.source_member}"
    attempts = f", {row.attempts} attempts" if row.attempts > 1 else ""
    return [
        f"  {on_one_line(row.id)}: {row.reason} ({row.stage}{attempts})",
        f"      {on_one_line(row.message)}",
        *([] if place == row.id else [f"      {on_one_line(place)}"]),
    ]


def status_screen(status: "Status") -> str:
    """Where an output stands."""
    facts = [
        ("output", status.output),
        ("state", _state(status)),
        *totals(status),
        ("units", f"{status.units_committed:,} committed, {status.left:,} left of {status.units:,}"),
        ("rejects", rejects_text(status.rejects, status.rejects_by_reason)),
        ("snapshot", "none yet" if status.snapshot is None else str(status.snapshot)),
        ("digest", status.digest),
    ]
    facts[2:2] = _speeds(status)
    if status.recent is not None:
        facts += _recent(status.recent, is_running=status.running)
    return "\n".join([*table(facts), *(f"  {problem}" for problem in status.problems)])


def _speeds(status: "Status") -> list[Fact]:
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


def _recent(recent: "RecentWork", *, is_running: bool) -> list[Fact]:
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
        facts.append(("encoders", shortened(places)))
    return facts


def _state(status: "Status") -> str:
    live = status.live_run
    if live is not None:
        return f"running on {live.host} (pid {live.pid}, heartbeat {span_text(live.heartbeat_age_seconds)} ago)"
    if status.generations == 0:
        return "not planned yet; run the job"
    if status.left:
        return "no live run; run the job again to resume"
    return "complete"
