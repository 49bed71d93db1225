"""Locations as users write them, and what of them may be stored: no credential ever is."""

import os
import re
from pathlib import Path

__all__ = ["is_url", "local_path", "public_uri"]

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+)://")
_MAY_HOLD_SECRETS = re.compile(r"[?#@]")
_WEB = frozenset({"http", "https"})


def is_url(location: str) -> bool:
    """Whether a location is a URL rather than a local path."""
    return _SCHEME.match(location) is not None or "::" in location


def local_path(location: str | os.PathLike[str]) -> Path | None:
    """The local path that a location names, not yet made absolute; None for any other storage."""
    location = os.fspath(location)
    for prefix in ("file://", "local://"):
        if location.startswith(prefix):
            return Path(location.removeprefix(prefix))
    return None if is_url(location) else Path(location)


def public_uri(location: str) -> str:
    """A location without what grants access: query strings of signed URLs, and `user:password@` before a host.

    Local paths come back unchanged, since `?`, `#` and `@` are ordinary characters there.
    """
    if not _MAY_HOLD_SECRETS.search(location) or not is_url(location):
        return location
    return "::".join(_public_link(link) for link in location.split("::"))


def _public_link(link: str) -> str:
    found = _SCHEME.match(link)
    if found is None:
        return link
    scheme, rest = found[1].lower(), link[found.end() :]
    if scheme in _WEB:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    else:
        # Keys of object stores may hold a question mark; a signature is always `name=value`.
        rest = re.sub(r"\?[\w.~%-]+=.*$", "", rest, flags=re.DOTALL)
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    # `container@account` of Azure is an address; a password, or a token before a web host, is not.
    if at and (":" in user or scheme in _WEB):
        authority = host
    return f"{found[1]}://{authority}{slash}{path}"
