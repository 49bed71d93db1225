"""Paths with braces, as shells write out: `shard-{000..099}.tar`, `{en,de}/*.tar`."""

import math
import re
from collections.abc import Sequence
from itertools import product

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.storage import local_path, public_uri

__all__ = ["expand_braces"]

MOST_PATHS = 1_000_000

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def expand_braces(paths: Sequence[str]) -> tuple[str, ...]:
    """Write out `{000..099}` and `{a,b}` in paths; a local path that exists as it is written stays.

    Raises:
        ConfigError: the braces stand for more paths than anyone has.
    """
    return tuple(each for path in paths for each in _expand(path))


def _expand(path: str) -> Sequence[str]:
    local = local_path(path)
    if "{" not in path or (local is not None and local.expanduser().exists()):
        return (path,)
    pieces = _BRACES.split(path)
    choices = [_choices(piece) if place % 2 else (piece,) for place, piece in enumerate(pieces)]
    if math.prod(map(len, choices)) > MOST_PATHS:
        raise ConfigError(f"selection.source.paths: {public_uri(path)!r} stands for more than {MOST_PATHS} paths")
    return ["".join(parts) for parts in product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    if (found := _RANGE.fullmatch(inside)) is not None:
        first, last = int(found[1]), int(found[2])
        width = max(map(len, found.groups())) if any(text.startswith("0") for text in found.groups()) else 0
        step = 1 if last >= first else -1
        if abs(last - first) >= MOST_PATHS:
            raise ConfigError(f"selection.source.paths: {{{inside}}} stands for more than {MOST_PATHS} paths")
        return [f"{number:0{width}}" for number in range(first, last + step, step)]
    return inside.split(",") if "," in inside else (f"{{{inside}}}",)
