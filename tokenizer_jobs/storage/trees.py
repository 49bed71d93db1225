"""Everything below a remote folder, many requests at a time and without holding it all.

fsspec's own `find` gives one dict of everything: a kilobyte a file, 10 GB for ten million. Here folders are listed
level by level until there are enough to share out, then each is taken whole, and forgotten once it was given.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

__all__ = ["NoPermission", "infos_below"]

Info = dict[str, Any]

LISTERS = 16
"""Requests under way; at 50 ms for each and 1,000 files in each, 300,000 files a second."""
ENOUGH_FOLDERS = 1024
"""From here each is listed with all that is below it: of ten million files about ten thousand at a time."""


class NoPermission:
    """Stands for a folder that may not be read."""

    def __init__(self, name: str) -> None:
        self.name = name


def infos_below(system: Any, root: str) -> Iterator[Info | NoPermission]:
    """fsspec's facts on every file and folder below a folder of a file system, each once.

    Raises:
        Exception: as the file system does.
    """
    # Clients that are not built for it, such as FTP's, have one connection and must not be used by two threads.
    workers = LISTERS if getattr(system, "async_impl", False) else 1
    system.invalidate_cache()
    frontier = [root]
    with ThreadPoolExecutor(workers, thread_name_prefix="listing") as pool:
        while frontier and len(frontier) < ENOUGH_FOLDERS:
            below = list[str]()
            for folder, infos in _ahead(pool, lambda folder: _children(system, folder, root=root), frontier):
                for info in infos:
                    if not isinstance(info, NoPermission) and info["type"] == "directory":
                        below.append(info["name"])
                    yield info
                system.invalidate_cache(folder)
            frontier = below
        for folder, infos in _ahead(pool, lambda folder: _tree(system, folder), frontier):
            yield from infos
            system.invalidate_cache(folder)


def _children(system: Any, folder: str, *, root: str) -> list[Info | NoPermission]:
    try:
        infos = system.ls(folder, detail=True)
    except (FileNotFoundError, PermissionError) as error:
        if folder == root:
            raise
        return [NoPermission(folder)] if isinstance(error, PermissionError) else []
    # Stores without folders list an empty object that stands for the folder among its files.
    return [info for info in infos if info["name"].rstrip("/") != folder.rstrip("/")]


def _tree(system: Any, folder: str) -> list[Info | NoPermission]:
    try:
        found = system.find(folder, detail=True, withdirs=True)
    except PermissionError:
        return [NoPermission(folder)]
    return [info for info in found.values() if info["name"].rstrip("/") != folder.rstrip("/")]


def _ahead(
    pool: ThreadPoolExecutor, read: Callable[[str], list[Info | NoPermission]], folders: Iterable[str]
) -> Iterator[tuple[str, list[Info | NoPermission]]]:
    """Read folders in order, no more than `LISTERS` of them before they are asked for."""
    waiting = deque[tuple[str, Future[list[Info | NoPermission]]]]()
    try:
        for folder in folders:
            if len(waiting) == LISTERS:
                first, done = waiting.popleft()
                yield first, done.result()
            waiting.append((folder, pool.submit(read, folder)))
        while waiting:
            first, done = waiting.popleft()
            yield first, done.result()
    finally:
        for _, unread in waiting:
            unread.cancel()
