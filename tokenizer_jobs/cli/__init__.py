"""The command line. Nothing heavy is imported before a command needs it, so that help comes at once."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.endings import as_process
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.cli.streams import flush_streams, has_lost_reader, tell
from tokenizer_jobs.errors import EXIT_FAILED, ConfigError, TokenizerJobsError
from tokenizer_jobs.wording import did_you_mean

__all__ = ["command_line", "main"]

EXIT_INTERRUPTED = 130


def command_line() -> NoReturn:
    """The command `tokenizer-jobs`: run what the process was started with, and end with its exit code."""
    as_process(main)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 75 stopped and resumable, 1 refused or failed.

    Args:
        argv: Words after the program's name; None takes those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    exit_code = _reported(partial(_dispatch, words))
    return _reported(flush_streams) or exit_code


def _reported(step: Callable[[], int]) -> int:
    """The exit code of a step; what keeps it from its end is told."""
    try:
        return step()
    except TokenizerJobsError as error:
        tell(f"error: {error}")
        return EXIT_FAILED
    except OSError as error:
        if not isinstance(error, BrokenPipeError) or not has_lost_reader():  # else nobody wants the rest (`| head`)
            tell(f"error: {error}; the system said no, so check the path, its permissions and the disk")
        return EXIT_FAILED
    except KeyboardInterrupt:
        tell("interrupted")
        return EXIT_INTERRUPTED


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help_text())
        return 0
    if words[0] == "--version":
        print(f"tokenizer-jobs {_version()}")
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        raise ConfigError(
            f"there is no command {words[0]!r}; expected one of {', '.join(COMMANDS)}{did_you_mean(words[0], COMMANDS)}"
        )
    try:
        arguments = parse_arguments(command, words[1:])
    except SystemExit:  # argparse has printed the help that was asked for
        return 0
    return command.execute(arguments)


def _help_text() -> str:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [
        "usage: tokenizer-jobs COMMAND ...",
        "",
        "Audio datasets in, EnCodec codes in Parquet out: every item exactly once.",
    ]
    group = None
    for command in COMMANDS.values():
        if command.group != group:
            lines += ["", f"{command.group}:"]
            group = command.group
        lines.append(f"  {command.usage:<{width}}  {command.summary}")
    return "\n".join(
        [
            *lines,
            "",
            "`tokenizer-jobs COMMAND --help` shows a command's flags and an example. A first job, offline:",
            "  tokenizer-jobs run configs/quickstart.yaml",
            "",
            "exit codes: 0 done; 75 stopped, the same command resumes; 1 refused or failed, the reason is on stderr",
        ]
    )


def _version() -> str:
    try:
        return version("tokenizer-jobs")
    except PackageNotFoundError:
        return "(not installed, run from a checkout)"
