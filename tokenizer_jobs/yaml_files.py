"""YAML files into frozen pydantic trees: unknown and doubled keys are errors, and every message names what is wrong."""

import difflib
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.wording import did_you_mean

__all__ = ["Frozen", "OutputFile", "load_yaml", "validated"]


class Frozen(BaseModel):
    """A part of a file: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class OutputFile(Frozen):
    """A whole file, which says where its work goes."""

    output: str

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, output: str | None = None) -> Self:
        """Read and validate a file.

        Args:
            path: A YAML file.
            output: Replaces the file's `output`; None keeps it.

        Raises:
            ConfigError: the file is missing, is not YAML, or a key or value is wrong.
        """
        content = load_yaml(path)
        if output is not None:
            content["output"] = output
        return cls.parse(content, origin=os.fspath(path))

    @classmethod
    def parse(cls, content: Mapping[str, Any], *, origin: str) -> Self:
        """Validate a mapping; `origin` names it in messages.

        Raises:
            ConfigError: naming every wrong key and value.
        """
        return validated(cls, content, origin=origin)


Model = TypeVar("Model", bound=BaseModel)

MOST_LISTED = 12
"""Keys of a place that are listed where an unknown one is like none of them."""


def load_yaml(path: str | os.PathLike[str], *, what: str = "job file") -> dict[str, Any]:
    """Read a file that holds a mapping; `what` it is, for messages.

    Raises:
        ConfigError: the file is missing, is not YAML, gives a key twice, or holds something else.
    """
    name = os.fspath(path)
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{what} {name!r} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{what} {name!r} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{what} {name!r} holds {type(content).__name__}, expected a mapping of keys")
    return content


def validated(model: type[Model], content: Mapping[str, Any], *, origin: str) -> Model:
    """Validate a mapping; `origin` names it in messages.

    Raises:
        ConfigError: naming every wrong key and value.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(_explain(error, model))) from error


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice, of which plain YAML keeps the last in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As the file has it: a key beside `<<` is there to take the place of one that is merged in.
        node = super().compose_mapping_node(anchor)
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        doubled = [name for number, (tag, name) in enumerate(keys) if (tag, name) in keys[:number]]
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"key {doubled[0]!r} is given twice", node.start_mark)
        return node


def _explain(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for detail in error.errors():
        path = tuple("*" if isinstance(step, int) else step for step in detail["loc"])
        # The names of union members that pydantic puts into the path are ours, not the user's.
        steps = [str(step) for step in detail["loc"] if str(step) not in _UNION_MEMBERS]
        key = ".".join(steps) or "the file"
        match detail["type"]:
            case "extra_forbidden" | "unexpected_keyword_argument":
                yield f"unknown key {key}{_meant_key(path, model)}"
            case "missing" | "missing_keyword_only_argument":
                yield f"{key} is missing"
            case "source_kind":
                yield _wrong_kind(
                    detail, key, kinds={place[len(path)] for place in _keys(model) if _is_below(path, place)}
                )
            case "literal_error":
                known = re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected")))
                meant = did_you_mean(str(detail["input"]), known)
                yield f"{key} = {detail['input']!r}: {detail['msg']}{meant}"
            case _:
                yield f"{key} = {detail['input']!r}: {detail['msg']}"


_UNION_MEMBERS = frozenset(
    {
        *("files", "manifest", "parquet", "hub", "tar", "demo", "plugin"),
        *("literal['auto']", "constrained-float", "constrained-int"),
    }
)


def _wrong_kind(detail: Any, key: str, *, kinds: Iterable[str]) -> str:
    """One of several records is told by its `kind`, and this is none of them."""
    given = detail["input"].get("kind") if isinstance(detail["input"], Mapping) else None
    if given is None:
        return f"{key}.kind is missing: {detail['msg']}"
    return f"{key}.kind = {given!r}: {detail['msg']}{did_you_mean(str(given), kinds)}"


_Path = tuple[str, ...]
"""Steps to a key as pydantic counts them: names, `*` in lists, and the tags of records that are told apart by one."""


def _meant_key(path: _Path, model: type[BaseModel]) -> str:
    """What a key that is unknown in its place was meant to be: one like it there, else one of its name elsewhere."""
    *section, name = path
    known = list(_keys(model))
    here = [place[-1] for place in known if list(place[:-1]) == section]
    meant = did_you_mean(name, here)
    if meant:
        return meant
    elsewhere = [place for place in known if place[-1] == name]
    if not elsewhere:
        by_name = {place[-1]: place for place in known}
        close = difflib.get_close_matches(name, by_name, n=1)
        elsewhere = [by_name[close[0]]] if close else []
    of_kinds = [place[-2] for place in elsewhere if _spelt(place) == _spelt(path)]
    if of_kinds:
        return f"; it is a key of kind {' and '.join(of_kinds)}"
    if elsewhere:
        return f"; did you mean {' or '.join(dict.fromkeys(map(_spelt, elsewhere)))}?"
    return f"; expected {', '.join(here)}" if 0 < len(here) <= MOST_LISTED else ""


def _spelt(place: _Path) -> str:
    """A place as the file has it."""
    return ".".join(step for step in place if step not in _UNION_MEMBERS)


def _is_below(section: _Path, place: _Path) -> bool:
    return len(place) > len(section) + 1 and place[: len(section)] == section


def _keys(annotation: Any, path: _Path = ()) -> Iterator[_Path]:
    """Every key of a model or dataclass, and of those that its fields are made of."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            for name, info in annotation.model_fields.items():
                yield (*path, name)
                yield from _keys(info.annotation, (*path, name))
        elif is_dataclass(annotation):
            for field in fields(annotation):
                yield (*path, field.name)
                yield from _keys(field.type, (*path, field.name))
    elif get_origin(annotation) is Annotated:
        tags = [each.tag for each in annotation.__metadata__ if isinstance(each, Tag)]
        yield from _keys(get_args(annotation)[0], (*path, *tags))
    elif get_origin(annotation) in (list, tuple):
        yield from _keys(get_args(annotation)[0], (*path, "*"))
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _keys(argument, path)
