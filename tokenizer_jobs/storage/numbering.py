"""Numbered files of a folder, `000001.json` and so on: which numbers there are, also where listings lag behind."""

import re

from tokenizer_jobs.storage.outputs import Storage

__all__ = ["listed_numbers", "numbers_in"]


def numbers_in(storage: Storage, folder: str, *, suffix: str) -> list[int]:
    """The numbers, in order, for writers: those listed, and those after them, asked for by name until one is absent.

    Some stores, and network mounts that cache folders, list a file a while after it was written. A run that overlooked
    a plan or a receipt that way would publish a snapshot without them; so the newest is never taken from a listing
    alone. One request more, since a number follows the one before it.
    """
    numbers = listed_numbers(storage, folder, suffix=suffix)
    newest = numbers[-1] if numbers else 0
    while _is_there(storage, f"{folder}/{newest + 1:06d}{suffix}"):
        newest += 1
        numbers.append(newest)
    return numbers


def listed_numbers(storage: Storage, folder: str, *, suffix: str) -> list[int]:
    """The numbers that one listing shows, in order: enough for readers."""
    pattern = re.compile(rf"/(\d+){re.escape(suffix)}$")
    return sorted(int(found[1]) for found in (pattern.search(file.path) for file in storage.list(folder)) if found)


def _is_there(storage: Storage, path: str) -> bool:
    if storage.is_local:
        return storage.exists(path)
    try:
        storage.read_bytes(path)  # one request, where asking whether it exists takes two for what is absent
    except FileNotFoundError:
        return False
    return True
