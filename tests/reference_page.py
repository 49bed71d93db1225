"""The text of `docs/api.md`: commands, keys of the job file, and public names, each with what the code says of it.

`python -m tests.reference_page > docs/api.md` writes it anew.
"""

import inspect
from collections.abc import Iterator
from types import ModuleType

import encodec_core
import tokenizer_jobs
import tokenizer_jobs.training
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.flags import Flag, job_flags

MODULES = (tokenizer_jobs, tokenizer_jobs.training, encodec_core)


def page() -> str:
    """The text of `docs/api.md`."""
    return "\n".join([*_HEAD, *_commands(), "", *_keys(), "", *_names()]) + "\n"


def first_line(module: ModuleType, name: str) -> str:
    """What a public name's own docstring begins with; empty where it has none.

    A dataclass without a docstring is given its signature as one, and that says nothing.
    """
    value = getattr(module, name)
    text: str | None = value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
    line = inspect.cleandoc(text or "").partition("\n")[0].strip()
    return "" if line.startswith(f"{name}(") else line


_HEAD = (
    "# Reference",
    "",
    "Commands, keys of the job file, and public names, with what the code says of each. Made by",
    "`python -m tests.reference_page`; a test compares it with this page.",
    "",
    "- [Commands](#commands) · [Keys of the job file](#keys-of-the-job-file) · [Names](#names)",
    "",
)


def _commands() -> Iterator[str]:
    yield "## Commands"
    yield ""
    yield "Of `tokenizer-jobs`; `COMMAND --help` has each one's flags and examples."
    yield ""
    yield "| command | does |"
    yield "| --- | --- |"
    for command in COMMANDS.values():
        yield f"| `{_cell(command.usage)}` | {_cell(command.summary)} |"


def _keys() -> Iterator[str]:
    yield "## Keys of the job file"
    yield ""
    yield "Each is a flag of `run`, `plan` and `submit` too: `recipe.codec.bandwidth_kbps` is"
    yield "`--recipe.codec.bandwidth-kbps`."
    sections: dict[str, list[Flag]] = {}
    for flag in job_flags():
        sections.setdefault(".".join(flag.key[:-1]), []).append(flag)
    for section, flags in sections.items():
        yield ""
        if section:
            yield f"### `{section}`"
            yield ""
        yield "| key | takes | meaning |"
        yield "| --- | --- | --- |"
        for flag in flags:
            yield f"| `{flag.key[-1]}` | {_cell(_takes(flag))} | {_cell(flag.help)} |"


def _names() -> Iterator[str]:
    yield "## Names"
    for module in MODULES:
        yield ""
        yield f"### `{module.__name__}`"
        yield ""
        yield "| name | is |"
        yield "| --- | --- |"
        for name in sorted(module.__all__, key=str.lower):
            yield f"| `{name}` | {_cell(first_line(module, name))} |"


def _takes(flag: Flag) -> str:
    return ", ".join(flag.values) + (" (several)" if flag.is_list else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
