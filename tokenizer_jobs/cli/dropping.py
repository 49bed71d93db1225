"""The command that takes items out, `drop`, and its screen."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizer_jobs.cli.endings import sigterm_as_interrupt
from tokenizer_jobs.cli.facts import table
from tokenizer_jobs.cli.next_steps import command, next_steps
from tokenizer_jobs.cli.streams import show, tell
from tokenizer_jobs.errors import EXIT_DONE, EXIT_STOPPED, ConfigError
from tokenizer_jobs.wording import count_text

if TYPE_CHECKING:
    from tokenizer_jobs.results import DropResult

__all__ = ["drop_command", "drop_screen"]


def drop_command(arguments: argparse.Namespace) -> int:
    """Of `drop`.

    Raises:
        ConfigError: ids cannot be read or are not there, or the condition is not understood.
    """
    from tokenizer_jobs.progress import StepDisplay
    from tokenizer_jobs.removal import drop

    ids = None if arguments.ids is None else _read_ids(arguments.ids)
    try:
        with sigterm_as_interrupt(), StepDisplay(sys.stderr) as display:
            result = drop(
                arguments.output,
                ids=ids,
                where=arguments.where,
                missing_ok=arguments.missing_ok,
                dry_run=arguments.dry_run,
                report=display.report,
            )
    except KeyboardInterrupt:
        tell("stopped; the same command finishes it")
        return EXIT_STOPPED
    show(result.model_dump_json() if arguments.json else drop_screen(result, drop_command=_wet(arguments)))
    return EXIT_DONE


def _wet(arguments: argparse.Namespace) -> str:
    """The command without --dry-run."""
    what = ["--ids", arguments.ids] if arguments.ids is not None else ["--where", arguments.where or ""]
    return command("drop", arguments.output, *what, *(["--missing-ok"] if arguments.missing_ok else []))


def _read_ids(path: str) -> list[str]:
    """Ids as they stand in a file, one a line; empty lines are none."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--ids {path!r} cannot be read: {error}; expected a text file of one id a line") from error
    ids = [line for line in text.split("\n") if line]
    if not ids:
        raise ConfigError(f"--ids {path!r} holds no id; expected one a line")
    return [line.removesuffix("\r") for line in ids]


def drop_screen(result: "DropResult", *, drop_command: str) -> str:
    """What was taken out, or would be.

    Args:
        result: Of the drop.
        drop_command: Does it, where it was a dry run.
    """
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
    if result.dry_run:
        steps = next_steps(drop_command) if result.items or result.rows else []
    else:
        steps = next_steps(command("verify", result.output), command("report", result.output))
    return "\n".join([head, *table(facts), *steps])
