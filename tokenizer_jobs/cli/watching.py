"""The command that looks at an output, once or until nothing is left to wait for."""

import argparse
import sys
import time

from tokenizer_jobs.errors import EXIT_DONE, ConfigError

__all__ = ["status_command"]

WATCH_SECONDS = 5.0


def status_command(arguments: argparse.Namespace) -> int:
    """Show where an output stands.

    Raises:
        ConfigError: there is no output, or the flags contradict each other.
    """
    from tokenizer_jobs.cli.screens import status_screen
    from tokenizer_jobs.status import StatusReader

    if arguments.json and arguments.watch:
        raise ConfigError("--json prints one object and --watch many; give one of the two")
    reader = StatusReader(arguments.output)
    status = reader.read()
    if arguments.json:
        print(status.model_dump_json())
        return EXIT_DONE
    print(status_screen(status), flush=True)
    while arguments.watch and not status.is_settled:
        time.sleep(WATCH_SECONDS)
        status = reader.read()
        # On a terminal the screen is drawn over the last one; elsewhere screens follow each other.
        print("\033[H\033[J" if sys.stdout.isatty() else "\n", end="")
        print(status_screen(status), flush=True)
    return EXIT_DONE
