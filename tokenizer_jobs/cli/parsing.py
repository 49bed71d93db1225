"""Words behind a command to typed arguments; a wrong word is answered with the one that was meant."""

import argparse
import difflib
from collections.abc import Sequence
from typing import Any, NoReturn

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
                f"tokenizer-jobs {name} has no flag {flag}{did_you_mean(flag, options)}; "
                f"`tokenizer-jobs {name} --help` lists what it takes"
            )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}; `{self.prog} --help` shows an example")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            message = f"{value!r} is none of {', '.join(choices)}{did_you_mean(str(value), choices)}"
            raise argparse.ArgumentError(action, message)


def _dashed(word: str) -> str:
    """Let `--recipe.codec.bandwidth_kbps`, as the key is written in the file, be the flag too."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if name.startswith("--") else word


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Suggest the known name that was meant, by likeness or by its last word; empty where none comes close."""
    by_last_word = [option for option in known if option.rpartition(".")[2] == name.lstrip("-").rpartition(".")[2]]
    last_words = {option.lstrip("-").rpartition(".")[2]: option for option in known}
    same_letters = [option for option in known if option.lower() == name.lower()]
    close = same_letters or difflib.get_close_matches(name, known, n=1) or by_last_word
    close = close or [last_words[word] for word in difflib.get_close_matches(name.lstrip("-"), last_words, n=1)]
    return f" (did you mean {close[0]}?)" if close else ""
