"""fsspec's file systems with enough connections, and whether a store itself refuses to overwrite."""

import errno
import inspect
import threading
import uuid
from functools import lru_cache
from typing import Any

__all__ = ["REQUESTS_AT_ONCE", "creates_exclusively", "file_system", "is_conflict", "is_taken", "read_whole", "upload"]

REQUESTS_AT_ONCE = 64
"""To one store from one process. S3's client alone would keep 10 connections: 200 requests a second at 50 ms each."""

S3_CLIENT = {
    "max_pool_connections": REQUESTS_AT_ONCE,
    "connect_timeout": 10.0,
    "read_timeout": 30.0,
    "retries": {"mode": "standard", "max_attempts": 8},
}
"""What one request goes through below us, unless the user's fsspec configuration has `config_kwargs` of its own.

botocore sends a request up to 8 times after 500, 503 (SlowDown), a cut connection or 30 s without a byte, with pauses
of up to 1, 2, 4 … 20 s by chance; "standard" also stops doing so while most requests fail (its retry quota), so that a
store that is down is not asked eight times as often. s3fs then tries cut connections, time-outs and SlowDown up to 5
times around that, 0.1 to 0.8 s apart. What is left is a `TransientError`, and one try of a unit.
Measured on the loopback, 1,500 uploads by 32 threads: with 30 % of requests failing none failed for good, slowest 11 s
(botocore's own choice, "legacy" with 5 tries: 3 failed, slowest 12 s); with 5 % failing the slowest took 2 s.
"adaptive" holds all requests of a process back after a 503: 1,500 uploads with 5 % failing were not done after 60 s.
"""

_S3 = frozenset({"s3", "s3a"})
_CONDITIONAL = frozenset({*_S3, "gs", "gcs", "az", "abfs", "abfss"})
"""Whose fsspec packages turn mode "create" into a condition that the store itself checks."""

_PROBING = threading.Lock()


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL and its path there; fsspec keeps one for each URL and set of options.

    Raises:
        ValueError, ImportError: no package on this machine understands the URL.
    """
    import fsspec  # 0.08 s of CPU, which a decode worker that reads local files does without

    if url.partition("://")[0] in _S3 and "config_kwargs" not in fsspec.config.conf.get("s3", {}):
        system, path = fsspec.core.url_to_fs(url, config_kwargs=S3_CLIENT)
    else:
        system, path = fsspec.core.url_to_fs(url)
    return system, str(path)


def read_whole(system: Any, path: str) -> bytes:
    """Read a whole file by one request: s3fs asks for the size first unless it may not share the work (2026.9.0)."""
    content: bytes = system.cat_file(path, **_at_once(system, "cat_file", 1))
    return content


def upload(system: Any, source: str, path: str, *, mode: str = "overwrite") -> None:
    """Upload a local file, of a large one two parts at once: ten parts, as s3fs has it, are 500 MB of memory."""
    options = {} if mode == "overwrite" else {"mode": mode}
    system.put_file(source, path, **options, **_at_once(system, "put_file", 2))


def _at_once(system: Any, call: str, most: int) -> dict[str, int]:
    parameters = inspect.signature(getattr(system, f"_{call}", getattr(system, call))).parameters
    return {"max_concurrency": most} if "max_concurrency" in parameters else {}


def creates_exclusively(url: str, *, folder: str) -> bool:
    """Whether a store refuses a second write in mode "create" itself; tried once in a process, with three requests.

    Not every store that speaks S3 knows the condition: some of them overwrite without a word.

    Args:
        url: Of the output.
        folder: Where the trial may be written.
    """
    if url.partition("://")[0] not in _CONDITIONAL:
        return False
    with _PROBING:
        return _probe(url, folder)


@lru_cache(maxsize=64)
def _probe(url: str, folder: str) -> bool:
    system, _ = file_system(url)
    trial = f"{folder}/{uuid.uuid4().hex}.trial"
    try:
        # Nobody else writes this name: a refusal is of the second write, or of one sent again since its answer was
        # lost, and either says that the store refuses.
        for _ in range(2):
            system.pipe_file(trial, b"", mode="create")
    except OSError as error:
        if is_taken(error):
            return True
        raise
    else:
        return False
    finally:
        system.rm_file(trial)


def is_taken(error: BaseException) -> bool:
    """Whether a write in mode "create" failed since something is there.

    s3fs gives EINVAL for the answer 412 (2026.9.0); its text is S3's code for it.
    """
    if isinstance(error, FileExistsError):
        return True
    return isinstance(error, OSError) and error.errno == errno.EINVAL and "PreconditionFailed" in str(error)


def is_conflict(error: BaseException) -> bool:
    """Whether S3 could not decide who was first, by the answer 409: the same write is to be sent again."""
    return isinstance(error, OSError) and "ConditionalRequestConflict" in str(error)
