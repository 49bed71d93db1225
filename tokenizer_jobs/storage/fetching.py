"""Whole remote files, fetched in the background: one request each where the store tells the version with the bytes."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tokenizer_jobs.storage.inputs import version_of
from tokenizer_jobs.storage.systems import file_system

__all__ = ["Wanted", "start_fetch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a file must be to be fetched."""

    size_bytes: int | None
    """None: any size up to `most_bytes`."""
    etag: str | None
    """Its version, as listings give it; None: any."""
    most_bytes: int
    """No more than these are ever asked for, whatever lies there by now."""

    def has_size(self, size_bytes: int | None) -> bool:
        """Whether a file of this size is the one."""
        if size_bytes is None or size_bytes > self.most_bytes:
            return False
        return self.size_bytes is None or size_bytes == self.size_bytes


def start_fetch(uri: str, wanted: Wanted) -> "Future[bytes | None]":
    """Begin to fetch a file; nobody has to wait for it, and to cancel it ends the request.

    Args:
        uri: A URL.
        wanted: What the file must be.

    Returns:
        What will be the content; None where it is not what is wanted, or where this storage cannot be read in the
        background: that is known at once. Its faults are those of the file system, not classified.
    """
    import asyncio  # these take a tenth of a second, which a worker that reads local files does without

    from fsspec.asyn import AsyncFileSystem

    try:
        system, path = file_system(uri)
        # Others block, and nobody says which of them threads may share: one FTP connection, for instance, may not be.
        if isinstance(system, AsyncFileSystem) and not system.asynchronous:
            fetch, loop = (_fetch_object if hasattr(system, "_call_s3") else _fetch_file), system.loop
            return asyncio.run_coroutine_threadsafe(fetch(system, path, wanted), loop)
    except Exception:  # noqa: BLE001  # whatever is wrong with the storage, opening the file says so when it is its turn
        pass
    nothing = Future[bytes | None]()
    nothing.set_result(None)
    return nothing


async def _fetch_object(system: Any, path: str, wanted: Wanted) -> bytes | None:
    """Fetch an object of S3 by one request, whose answer tells the version before the bytes come.

    s3fs gives no answer's headers with `cat_file` (2026.9.0), which would take a second request for the version.
    """
    bucket, key, version = system.split_path(path)
    more = {} if version is None else {"VersionId": version}
    # `req_kw` says who pays: s3fs 2025.3, the oldest that we take, does not add it by itself.
    answer = await system._call_s3("get_object", Bucket=bucket, Key=key, **more, **system.req_kw)
    body = answer["Body"]
    try:
        if not wanted.has_size(answer["ContentLength"]) or wanted.etag not in (None, version_of(answer)):
            return None
        content: bytes = await body.read()
    finally:
        body.close()
    return content if len(content) == answer["ContentLength"] else None


async def _fetch_file(system: Any, path: str, wanted: Wanted) -> bytes | None:
    """Fetch a file of any other store: the bytes, and what else is to be known by a second request.

    The version is asked for after the bytes came: if it still is the planned one, they are of it.
    """
    size = wanted.size_bytes
    if size is None:
        size = (await system._info(path)).get("size")
    if size is None or not wanted.has_size(size):
        return None
    # To one byte more than there should be: a file that grew is seen to have, and costs no more memory than this.
    content: bytes = await system._cat_file(path, start=0, end=size + 1)
    if len(content) != size:
        return None
    if wanted.etag is not None:
        system.invalidate_cache()
        if version_of(await system._info(path)) != wanted.etag:
            return None
    return content
