"""Typed flags for every key of the job file, made from the pydantic tree, and their way back into it.

A value goes through the same validation as in the file, so both complain in the same words. tyro was tried in this
place: its flags follow the loaded file's source, and its messages are boxes that do not name what was expected.
"""

import argparse
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError

__all__ = ["Flag", "add_job_flags", "as_words", "job_flags", "load_job", "override", "overrides_in"]

NULLS = frozenset({"null", "none"})
PLUGIN_KIND = "package.module:Class"
_DEST = "override:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One key of the job file as a flag."""

    key: tuple[str, ...]
    """Steps from the root of the file."""
    values: tuple[str, ...]
    """What it takes: words, or TEXT, NUMBER, COUNT, null."""
    help: str
    is_list: bool = False
    """Whether it takes several values."""
    kinds: frozenset[str] = frozenset()
    """Kinds of source that have the key; empty where it is no key of a source."""

    @property
    def name(self) -> str:
        """As typed: `--recipe.codec.bandwidth-kbps`."""
        return "--" + ".".join(self.key).replace("_", "-")

    @property
    def metavar(self) -> str:
        """The values as help shows them."""
        return "|".join(self.values)


def job_flags() -> tuple[Flag, ...]:
    """Every flag of the job file, in the file's order, `output` first."""
    return tuple(_flags_of(JobConfig, ()))


def add_job_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the job file, grouped as the file is."""
    groups: dict[str, argparse._ArgumentGroup] = {}
    for flag in job_flags():
        section = ".".join(flag.key[:-1])
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "job")
        groups[section].add_argument(
            flag.name,
            dest=_DEST + ".".join(flag.key),
            metavar=flag.metavar,
            nargs="+" if flag.is_list else None,
            default=argparse.SUPPRESS,
            help=flag.help.replace("%", "%%"),
        )


def overrides_in(arguments: argparse.Namespace) -> dict[Flag, str | list[str]]:
    """The flags of the job file that were given, with their values as typed."""
    given = vars(arguments)
    found = ((flag, given.get(_DEST + ".".join(flag.key))) for flag in job_flags())
    return {flag: value for flag, value in found if value is not None}


def override(config: JobConfig, overrides: Mapping[Flag, str | Sequence[str]], *, origin: str) -> JobConfig:
    """Put flags over a job file and validate the whole again.

    Args:
        config: The file as loaded.
        overrides: Values as typed.
        origin: Name of the file, for messages.

    Raises:
        ConfigError: naming the flags, the value, and what was expected.
    """
    if not overrides:
        return config
    content = config.model_dump(mode="json", exclude_unset=True)
    for flag, typed in overrides.items():
        if flag.key == ("selection", "source", "kind") and content["selection"]["source"]["kind"] != typed:
            content["selection"]["source"] = {}  # the other keys belong to the kind that was
        *sections, key = flag.key
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        words = [typed] if isinstance(typed, str) else typed
        is_null = "null" in flag.values and len(words) == 1 and words[0].lower() in NULLS
        place[key] = None if is_null else typed
    _check_source_flags(overrides, kind=str(content["selection"]["source"].get("kind")))
    return JobConfig.parse(content, origin=f"{origin} with {' '.join(as_words(overrides))}")


def load_job(arguments: argparse.Namespace) -> JobConfig:
    """The job file that the arguments name, with their flags over it.

    Raises:
        ConfigError: a key or value of either is wrong.
    """
    overrides = overrides_in(arguments)
    output = next((str(value) for flag, value in overrides.items() if flag.key == ("output",)), None)
    config = JobConfig.load(arguments.config, output=output)
    return override(config, {f: v for f, v in overrides.items() if f.key != ("output",)}, origin=arguments.config)


def as_words(overrides: Mapping[Flag, str | Sequence[str]]) -> list[str]:
    """Flags as they are typed."""
    words: list[str] = []
    for flag, typed in overrides.items():
        words += [flag.name, *([typed] if isinstance(typed, str) else typed)]
    return words


def _check_source_flags(overrides: Mapping[Flag, Any], *, kind: str) -> None:
    if ":" in kind:
        return  # every key goes to the constructor of the user's own class, which judges it
    for flag in overrides:
        if flag.kinds and kind not in flag.kinds:
            raise ConfigError(
                f"{flag.name} does not apply to a source of kind {kind!r}; it belongs to "
                f"{' and '.join(sorted(flag.kinds))}, so add --selection.source.kind or leave the flag out"
            )


def _flags_of(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Flag]:
    for name, info in model.model_fields.items():
        members = [member for member in map(_bare, _members(info.annotation)) if _is_model(member)]
        if len(members) > 1:
            yield from _flags_of_kinds(members, (*path, name))
        elif members:
            yield from _flags_of(members[0], (*path, name))
        else:
            yield _leaf(info, (*path, name))


def _flags_of_kinds(members: Sequence[type[BaseModel]], path: tuple[str, ...]) -> Iterator[Flag]:
    """Flags of a union whose members are told apart by `kind`: the kind, then each key once."""
    fields: dict[str, FieldInfo] = {}
    kinds: dict[str, set[str]] = {}
    names: list[str] = []
    for member in members:
        member_kinds = [str(value) for value in get_args(member.model_fields["kind"].annotation)]
        names += member_kinds
        for name, info in member.model_fields.items():
            fields.setdefault(name, info)
            kinds.setdefault(name, set()).update(member_kinds)
    yield Flag(key=(*path, "kind"), values=(*names, PLUGIN_KIND), help="Where items come from.")
    for name, info in fields.items():
        if name != "kind":
            yield _leaf(info, (*path, name), kinds=frozenset(kinds[name]))


def _leaf(info: FieldInfo, path: tuple[str, ...], *, kinds: frozenset[str] = frozenset()) -> Flag:
    text = " ".join((info.description or "").split())
    if not info.is_required():
        default = info.get_default(call_default_factory=True)
        text += f" (default: {'null' if default is None else default})"
    if kinds:
        text += f" For kind {', '.join(sorted(kinds))}."
    return Flag(
        key=path,
        values=tuple(dict.fromkeys(_values(info.annotation))),
        help=text.strip(),
        is_list=any(get_origin(member) in (tuple, list) for member in _members(info.annotation)),
        kinds=kinds,
    )


def _values(annotation: Any) -> list[str]:
    values: list[str] = []
    for member in map(_bare, _members(annotation)):
        if member is None or member is type(None):
            values.append("null")
        elif get_origin(member) is Literal:
            values += [str(value) for value in get_args(member)]
        elif get_origin(member) in (tuple, list):
            values += _values(get_args(member)[0])
        else:
            values.append({str: "TEXT", float: "NUMBER", int: "COUNT", bool: "true|false"}[member])
    return values


def _members(annotation: Any) -> list[Any]:
    bare = _bare(annotation)
    if get_origin(bare) in (Union, types.UnionType):
        return [inner for member in get_args(bare) for inner in _members(member)]
    return [bare]


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
