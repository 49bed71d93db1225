"""Classes of one's own: a job file names them as `package.module:Class`."""

from importlib import import_module
from typing import Any

from tokenizer_jobs.errors import ConfigError

__all__ = ["import_class"]


def import_class(name: str, *, key: str) -> Any:
    """Import what `package.module:Class` names.

    Args:
        name: As the job file has it.
        key: Of the job file, for the message.

    Raises:
        ConfigError: there is no such module or class, or the module cannot be read.
    """
    module_name, _, class_name = name.partition(":")
    try:
        # A name that begins with a dot, or is empty, is a TypeError or a ValueError to Python.
        return getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError, SyntaxError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{key} = {name!r} cannot be imported ({error}); "
            "expected package.module:Class importable where the job runs"
        ) from error
