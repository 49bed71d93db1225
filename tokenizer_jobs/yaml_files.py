"""YAML files into frozen pydantic trees: unknown and doubled keys are errors, and every message names what is wrong."""

import difflib
import os
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tokenizer_jobs.errors import ConfigError

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

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        doubled = [key for number, key in enumerate(keys) if key in keys[:number]]
        if doubled:
            raise yaml.constructor.ConstructorError(None, None, f"key {doubled[0]!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _explain(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for detail in error.errors():
        # The names of union members that pydantic puts into the path are ours, not the user's.
        steps = [str(step) for step in detail["loc"] if str(step) not in _UNION_MEMBERS]
        key = ".".join(steps) or "the file"
        if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            yield f"unknown key {key}{_suggestion(steps[-1], model)}"
        elif detail["type"] in ("missing", "missing_keyword_only_argument"):
            yield f"{key} is missing"
        else:
            yield f"{key} = {detail['input']!r}: {detail['msg']}"


_UNION_MEMBERS = frozenset({"files", "demo", "plugin", "literal['auto']", "constrained-float", "constrained-int"})


def _suggestion(key: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(key, sorted(_known_keys(model)), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _known_keys(annotation: Any) -> Iterator[str]:
    """Every key of a model or dataclass, and of those that its fields are made of."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield from annotation.model_fields
            for info in annotation.model_fields.values():
                yield from _known_keys(info.annotation)
        elif is_dataclass(annotation):
            for field in fields(annotation):
                yield field.name
                yield from _known_keys(field.type)
    elif get_origin(annotation) is not None:
        for argument in get_args(annotation):
            yield from _known_keys(argument)
