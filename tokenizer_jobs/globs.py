"""Globs on relative paths and ids: `**/` is any number of folders, `*` and `?` stay within one name."""

import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["any_glob", "glob_pattern"]

_WILDCARDS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@lru_cache(maxsize=64)
def glob_pattern(glob: str) -> re.Pattern[str]:
    """The expression that a whole path must match."""
    return re.compile(_expression(glob), re.DOTALL)


def any_glob(globs: Iterable[str]) -> re.Pattern[str]:
    """The expression that a path must match as a whole to match one of several globs; of none, it matches nothing."""
    return re.compile("|".join(f"(?:{_expression(glob)})" for glob in globs) or r"(?!)", re.DOTALL)


def _expression(glob: str) -> str:
    return "".join(_translate(piece) for piece in re.split(r"(\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", glob))


def _translate(piece: str) -> str:
    if piece in _WILDCARDS:
        return _WILDCARDS[piece]
    if piece.startswith("[") and piece.endswith("]") and len(piece) > 2:
        inside = piece[1:-1].replace("\\", r"\\")
        return "[" + ("^" + inside[1:] if inside.startswith("!") else inside) + "]"
    return re.escape(piece)
