"""Words behind a command to typed arguments; a wrong word is answered with the one that was meant."""

import argparse
import difflib
from collections.abc import Sequence
from typing import NoReturn

from tokenizer_jobs.cli.commands import Command
from tokenizer_jobs.errors import ConfigError

__all__ = ["did_you_mean", "parse_arguments"]


def parse_arguments(command: Command, words: Sequence[str]) -> argparse.Namespace:
    """Parse the words behind a command's name.

    Raises:
        ConfigError: a word is unknown, missing or of the wrong type; the message suggests what was meant.
        SystemExit: help was asked for, and printed.
    """
    parser = _Parser(
        prog=f"tokenizer-jobs {command.name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog="example:\n" + "\n".join(f"  {line}" for line in command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    options = sorted({option for action in parser._actions for option in action.option_strings})
    arguments, rest = parser.parse_known_args([_dashed(word) for word in words])
    if rest:
        unknown = next((word for word in rest if word.startswith("-")), rest[0])
        kind = "flag" if unknown.startswith("-") else "argument"
        name = unknown.partition("=")[0]
        raise ConfigError(
            f"tokenizer-jobs {command.name} has no {kind} {name}{did_you_mean(name, options)}; "
            f"`tokenizer-jobs {command.name} --help` lists what it takes"
        )
    return arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; `{self.prog} --help` shows an example")


def _dashed(word: str) -> str:
    """Let `--recipe.codec.bandwidth_kbps`, as the key is written in the file, be the flag too."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Suggest the known name that was meant, by likeness or by its last word; empty where none comes close."""
    by_last_word = [option for option in known if option.rpartition(".")[2] == name.lstrip("-").rpartition(".")[2]]
    last_words = {option.lstrip("-").rpartition(".")[2]: option for option in known}
    close = difflib.get_close_matches(name, known, n=1) or by_last_word
    close = close or [last_words[word] for word in difflib.get_close_matches(name.lstrip("-"), last_words, n=1)]
    return f" (did you mean {close[0]}?)" if close else ""
