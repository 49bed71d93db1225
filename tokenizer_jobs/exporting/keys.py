"""Ids as names of files and of members of archives, and back.

WebDataset cuts a name at its first dot and groups by what comes before; folders, `..` and other systems' characters
would be trouble elsewhere. So a key is made of ASCII letters, digits, `-` and `_`; every other byte of the id's UTF-8
is `%` and two hex digits, as in URLs: `urllib.parse.unquote` of any language gives the id back.
"""

import hashlib
import urllib.parse

__all__ = ["MAX_NAME_BYTES", "file_stem_of", "id_of", "key_of"]

MAX_NAME_BYTES = 200
"""Of a file's name: file systems end at 255, and the extension comes behind."""


def key_of(row_id: str) -> str:
    """The key of an id; different ids have different keys."""
    return urllib.parse.quote(row_id, safe="").replace(".", "%2E").replace("~", "%7E")


def id_of(key: str) -> str:
    """The id of a key."""
    return urllib.parse.unquote(key, errors="strict")


def file_stem_of(row_id: str) -> str:
    """The key, or where that is too long for a file's name its beginning, `~` and a hash; no key has a `~`."""
    key = key_of(row_id)
    if len(key) <= MAX_NAME_BYTES:
        return key
    digest = hashlib.sha256(row_id.encode()).hexdigest()[:32]
    return f"{key[: MAX_NAME_BYTES - 40].rstrip('%')}~{digest}"
