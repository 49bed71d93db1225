"""The format version: one number for every file of an output, and what is said of a newer one.

A JSON record that names no version is of version 1. What may be added without a new version, and what may not, is in
`docs/format.md`.
"""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tokenizer_jobs.errors import IntegrityError, NewerFormatError

__all__ = ["FORMAT_VERSION", "check_format_version", "check_record_version", "first_fault", "parse_record"]

FORMAT_VERSION = 1
"""Of everything that is written; a reader refuses a higher one."""

Record = TypeVar("Record", bound=BaseModel)

_KEY = "format_version"


def parse_record(model: type[Record], content: bytes, *, origin: str, fault: str, remedy: str) -> Record:
    """Understand a stored JSON record. Fields of it that are not known are passed over where its model does so.

    Args:
        model: What it should be.
        content: Its bytes.
        origin: Names it in messages.
        fault: What to call it when it is not that, such as `not a commit record`.
        remedy: What to do then.

    Raises:
        NewerFormatError: it has a higher format version.
        IntegrityError: it is not what it should be.
    """
    check_record_version(content, origin=origin)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise IntegrityError(f"{origin} is {fault} ({first_fault(error)}); {remedy}") from error


def check_record_version(content: bytes, *, origin: str) -> None:
    """Refuse a JSON record of a higher format version; what is no JSON is left to whoever parses it.

    Raises:
        NewerFormatError: it has one.
        IntegrityError: what it gives is no version.
    """
    if f'"{_KEY}"'.encode() not in content:  # spares a million commits a second parsing
        return
    try:
        fields = json.loads(content)
    except ValueError:
        return
    if isinstance(fields, dict):
        check_format_version(fields.get(_KEY), origin=origin)


def check_format_version(version: object, *, origin: str) -> None:
    """Refuse what has a higher format version than this package knows.

    Args:
        version: As it is stored; None: none is, which means 1.
        origin: Names the file in messages.

    Raises:
        NewerFormatError: it is higher.
        IntegrityError: it is no version.
    """
    if version is None:
        return
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise IntegrityError(
            f"{origin} has {_KEY} = {version!r}, expected a whole number from 1 on; restore it from a copy"
        )
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{origin} has {_KEY} = {version}, and this tokenizer-jobs reads versions up to {FORMAT_VERSION}; install "
            "a newer tokenizer-jobs, and leave the files as they are: nothing is wrong with them"
        )


def first_fault(error: ValidationError) -> str:
    """Where a record first departs from its model, and how."""
    detail = error.errors()[0]
    where = ".".join(map(str, detail["loc"]))
    return f"{where}: {detail['msg']}" if where else detail["msg"]
