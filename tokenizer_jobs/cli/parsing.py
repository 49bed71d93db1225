"""Words behind a command to typed arguments; a wrong word is answered with the one that was meant."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

from tokenizer_jobs.cli.commands import Command
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.wording import did_you_mean

__all__ = ["parse_arguments"]


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
    dashed = [_dashed(word) for word in words]
    _check_flags(dashed, parser=parser, name=command.name)
    arguments, rest = parser.parse_known_args(dashed)
    if rest:
        told = (
            f"has no flag {rest[0]}"
            if rest[0].startswith("-")
            else f"takes no further argument, and {rest[0]!r} is one"
        )
        raise ConfigError(
            f"tokenizer-jobs {command.name} {told}; `tokenizer-jobs {command.name} --help` lists what it takes"
        )
    return arguments


def _check_flags(words: Sequence[str], *, parser: argparse.ArgumentParser, name: str) -> None:
    """Refuse the first word that looks like a flag and is none.

    argparse would first miss what is required, and so pass over the flag that was meant to give it.
    """
    options = sorted({option for action in parser._actions for option in action.option_strings})
    for word in words:
        flag = word.partition("=")[0]
        if word == "--":
            return
        if flag.startswith("--") and " " not in flag and flag not in options:
            raise ConfigError(
                f"tokenizer-jobs {name} has no flag {flag}; `tokenizer-jobs {name} --help` lists what it takes"
                f"{_meant_flag(flag, options)}"
            )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        end = " " if message.endswith("?") else "; "
        raise ConfigError(f"{self.prog}: {message}{end}`{self.prog} --help` shows an example")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            message = f"{value!r} is none of {', '.join(choices)}{did_you_mean(str(value), choices)}"
            raise argparse.ArgumentError(action, message)


def _dashed(word: str) -> str:
    """Let `--recipe.codec.bandwidth_kbps`, as the key is written in the file, be the flag too."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def _meant_flag(flag: str, options: Sequence[str]) -> str:
    """The end of a message about an unknown flag: one that is like it, else one whose last word is."""
    meant = did_you_mean(flag, options)
    if meant:
        return meant
    by_last_word = {_last_word(option): option for option in reversed(options)}
    close = difflib.get_close_matches(_last_word(flag), by_last_word, n=1)
    return f"; did you mean {by_last_word[close[0]]}?" if close else ""


def _last_word(flag: str) -> str:
    """`bandwidth-kbps` of `--recipe.codec.bandwidth-kbps`."""
    return flag.lstrip("-").rpartition(".")[2]
