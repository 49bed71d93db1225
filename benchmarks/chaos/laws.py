"""The laws that hold after every round, read from the files themselves: every item exactly once, and the same codes."""

import hashlib
import io
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from benchmarks.chaos.service import call
from benchmarks.chaos.settings import ViolationError
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.lease import LEASE_PATH
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.planning import list_generations, read_units
from tokenizer_jobs.storage import STAGING_FOLDER, Storage, staged_by_the_dead

__all__ = ["Content", "check", "read_content"]

T = TypeVar("T")
TRIES = 4
"""Of ours to read from a store that fails on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What an output holds, by its shards and rejects alone."""

    rows: dict[str, str]
    """Hash of the codes by id; each id once, or reading refuses."""
    rejects: dict[str, str]
    """Reason by id."""
    digest: str
    """That `verify` prints last."""


def read_content(output: str, *, log: Path) -> Content:
    """Read every shard and rejects file that the glob finds, and let `verify` judge the whole.

    Raises:
        ViolationError: an id is there twice, codes are not what their hash says, or `verify` finds a fault.
    """
    storage = Storage.at(output)
    rows, rejects = dict[str, str](), dict[str, str]()
    for path, name, codes, sha256, shape in _stored_rows(storage):
        if name in rows:
            raise ViolationError(f"{path} holds {name!r}, which another row has too")
        if codes.size != shape[0] * shape[1] or hashlib.sha256(codes.astype("<u2").tobytes()).hexdigest() != sha256:
            raise ViolationError(f"{path} holds codes of {name!r} that are not those of their hash")
        rows[name] = sha256
    for path in _files(storage, "rejects"):
        table = pq.read_table(io.BytesIO(_steadily(partial(storage.read_bytes, path))))
        for name, reason in zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True):
            if name in rejects or name in rows:
                raise ViolationError(f"{path} holds {name!r}, which is in another file too")
            rejects[name] = reason
    return Content(rows=rows, rejects=rejects, digest=_verified(output, log=log))


def check(output: str, *, inputs: Path, calm: Content, log: Path) -> Content:
    """Check all laws of an output whose job has ended well.

    Args:
        output: Of the round.
        inputs: The folder that was tokenized.
        calm: What a run without any violence made of it.
        log: Takes what `verify` says.

    Raises:
        ViolationError: one of them does not hold.
    """
    storage, found = Storage.at(output), read_content(output, log=log)
    expected = {path.relative_to(inputs).as_posix() for path in inputs.rglob("*.*")}
    planned = Counter(_steadily(lambda: list(_planned(storage))))
    _equal("planned ids that are not those of the inputs", planned, Counter(expected))
    _equal("ids of rows and rejects that are not the planned ones", Counter([*found.rows, *found.rejects]), planned)
    _equal("rejects that a calm run has not, or for other reasons", found.rejects, calm.rejects)
    _equal("codes that are not those of a calm run", found.rows, calm.rows)
    if found.digest != calm.digest:
        raise ViolationError(f"the digest is {found.digest}, that of a calm run {calm.digest}")
    if _steadily(lambda: storage.exists(LEASE_PATH)):
        raise ViolationError(f"the job has ended, and {LEASE_PATH} is still there")
    here = Owner.current()
    staged = _steadily(lambda: storage.list(STAGING_FOLDER))
    if left := [file.path for file in staged if staged_by_the_dead(file.path.rpartition("/")[2], here=here)]:
        raise ViolationError(f"the last run's sweep left what dead processes staged: {', '.join(left)}")
    return found


def _equal(what: str, found: Counter[str] | dict[str, str], expected: Counter[str] | dict[str, str]) -> None:
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if wrong:
        shown = "; ".join(f"{name}: {found.get(name)}, expected {expected.get(name)}" for name in wrong[:5])
        raise ViolationError(f"{len(wrong)} {what}: {shown}")


def _planned(storage: Storage) -> Iterator[str]:
    for generation in list_generations(storage):
        for unit in read_units(storage, generation):
            yield from (item.id for item in unit.items)


def _stored_rows(
    storage: Storage,
) -> Iterator[tuple[str, str, np.ndarray[tuple[int], np.dtype[np.uint16]], str, tuple[int, int]]]:
    """Path, id, codes flat, hash and shape of every row, read by pyarrow alone."""
    for path in _files(storage, "codes"):
        table = pq.read_table(io.BytesIO(_steadily(partial(storage.read_bytes, path))))
        names = ("id", "codes", "codes_sha256", "num_codebooks", "num_frames")
        for name, codes, sha256, n_q, num_frames in zip(*(table[name].to_pylist() for name in names), strict=True):
            flat = np.array([code for codebook in codes for code in codebook], np.uint16)
            yield path, name, flat, sha256, (n_q, num_frames)


def _files(storage: Storage, folder: str) -> list[str]:
    return [file.path for file in _steadily(lambda: storage.list(folder))]


def _verified(output: str, *, log: Path) -> str:
    """The digest that `verify` ends with; a store that fails it too often is asked again."""
    for _ in range(TRIES):
        start = log.stat().st_size if log.exists() else 0
        code = call("verify", output, log=log)
        said = log.read_bytes()[start:].decode(errors="replace")
        if code == 0:
            found = re.findall(r"\b[0-9a-f]{64}\b", said.strip().splitlines()[-1])
            if len(found) != 1:
                raise ViolationError(f"`verify` ends without a digest:\n{said[-2000:]}")
            return str(found[0])
        if "problem" in said or "error: s3://" not in said:
            raise ViolationError(f"`verify` ends with {code}:\n{said[-3000:]}")
    raise ViolationError(f"the store failed `verify` {TRIES} times, see {log}")


def _steadily(read: Callable[[], T]) -> T:
    """Read from a store that fails on purpose."""
    for _ in range(TRIES - 1):
        try:
            return read()
        except TransientError:
            time.sleep(0.5)
    return read()
