"""The commands that come next: one place that words them, as they can be typed where this one was."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from tokenizer_jobs.wording import count_text

__all__ = ["after_work", "command", "next_steps"]

_NAME = "tokenizer-jobs"


def command(*words: str) -> str:
    """A command of this program as it can be typed here, its words quoted for the shell."""
    return " ".join([_program(), *map(shlex.quote, words)])


def next_steps(*commands: str, heading: str = "next:") -> list[str]:
    """Lines of a screen: an empty one, the heading, a command a line."""
    return ["", heading, *(f"  {line}" for line in commands)]


def after_work(output: str, *, example_id: str | None, num_rejects: int, stopped: bool = False) -> list[str]:
    """What to do with an output that was just written to: prove it, hear it, see it; and look at its rejects.

    Args:
        output: As it was named.
        example_id: Of a row, to be decoded; None where there is none yet.
        num_rejects: In the output.
        stopped: Whether the work is not done, so that the same command goes on with it.
    """
    commands = [command("verify", output)]
    if example_id is None:
        commands.insert(0, command("status", output))
    else:
        commands.append(command("decode", output, "--id", example_id, "-o", "decoded.wav"))
    heading = "next: the same command again resumes; or" if stopped else "next:"
    lines = next_steps(*commands, command("report", output), heading=heading)
    if num_rejects:
        lines += [
            f"{count_text(num_rejects, 'reject')}, with what was wrong:",
            f"  {command('status', output, '--rejects')}",
        ]
    return lines


def _program() -> str:
    """The command by name where the path has it, else where it is installed."""
    beside_python = Path(sys.executable).with_name(_NAME)
    if shutil.which(_NAME) is None and beside_python.exists():
        return shlex.quote(min(os.path.relpath(beside_python), str(beside_python), key=len))
    return _NAME
