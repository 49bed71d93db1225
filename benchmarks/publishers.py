"""Encoders that encode nothing: units become commits at once, by the real protocol, from several processes.

driver ──units──▶ processes × threads ──shard, commit──▶ the output
   ▲──────────────published──────┘

What a real encoder would have written is a kilobyte of noise here, with the counts and hashes of a plausible shard.
"""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Self

from tokenizer_jobs.commits import Attempt, Published, publish_unit
from tokenizer_jobs.records import ShardFile, WorkUnit
from tokenizer_jobs.shards import StagedFile, StagedRejects, StagedShard
from tokenizer_jobs.storage import Storage

__all__ = ["Publishers", "publish_units"]

SHARD_BYTES = 1024
UNITS_A_CALL = 32
"""Units handed to a process at once: what travels is measured with the driver, but not one call for each."""


class Publishers:
    """Processes that publish units.

    Args:
        output: URL of the output.
        recipe_id: Of the output.
        num_processes: That publish; 0: this process does.
        num_threads: Of each: requests that it has under way.
    """

    def __init__(self, *, output: str, recipe_id: str, num_processes: int, num_threads: int) -> None:
        self._output, self._recipe_id = output, recipe_id
        self._num_processes, self._num_threads = num_processes, num_threads

    def __enter__(self) -> Self:
        self._pool: Executor
        if self._num_processes:
            self._pool = ProcessPoolExecutor(self._num_processes, mp_context=multiprocessing.get_context("spawn"))
        else:
            self._pool = ThreadPoolExecutor(1)
        # Their imports and connections are not what is measured.
        starts = [self._pool.submit(_start, self._output) for _ in range(4 * self._num_processes)]
        self.cpu_at_start = sum(dict(start.result() for start in starts).values())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def publish(self, units: Iterable[WorkUnit]) -> Iterator[tuple[WorkUnit, Published]]:
        """Publish units, in any order, with as many under way as the threads allow."""
        waiting, running = iter(units), dict[Future[list[Published]], list[WorkUnit]]()
        most = 1 + self._num_processes * max(1, 2 * self._num_threads // UNITS_A_CALL)
        while True:
            while len(running) < most and (some := list(islice(waiting, UNITS_A_CALL))):
                call = self._pool.submit(publish_units, some, self._output, self._recipe_id, self._num_threads)
                running[call] = some
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for call in done:
                yield from zip(running.pop(call), call.result(), strict=True)


def _start(output: str) -> tuple[int, float]:
    Storage.at(output).put_if_absent(f"_staging/{os.getpid()}.start", b"")
    time.sleep(0.2)  # so that each process gets one
    return os.getpid(), time.process_time()


_threads: ThreadPoolExecutor | None = None


def publish_units(units: list[WorkUnit], output: str, recipe_id: str, num_threads: int) -> list[Published]:
    """Publish units from threads of this process."""
    global _threads
    if _threads is None:
        _threads = ThreadPoolExecutor(num_threads)
    storage = Storage.at(output)
    return list(_threads.map(lambda unit: _publish(unit, storage, recipe_id=recipe_id), units))


def _publish(unit: WorkUnit, storage: Storage, *, recipe_id: str) -> Published:
    content = hashlib.shake_128(unit.unit_id.encode()).digest(SHARD_BYTES)
    staged = storage.stage(".parquet")
    staged.write_bytes(content)
    seconds = sum(item.estimated_seconds for item in unit.items)
    shard = StagedShard(
        file=StagedFile(
            staged=staged,
            target=ShardFile(
                path=f"codes/{unit.part_name}.parquet",
                rows=len(unit.items),
                size_bytes=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            ),
        ),
        row_ids=tuple(item.id for item in unit.items),
        item_ids=tuple(item.id for item in unit.items),
        digest=hashlib.sha256(unit.unit_id.encode()).hexdigest(),
        num_frames=round(75 * seconds),
        audio_seconds=seconds,
    )
    stages = {"decode_wait": 1.25, "encode": 30.5, "write": 0.75}
    return publish_unit(
        storage,
        unit=unit,
        recipe_id=recipe_id,
        shard=shard,
        rejects=StagedRejects(file=None, item_ids=(), by_reason={}, num_filtered=0),
        attempt=Attempt(number=1, device="cuda:0", started_at=datetime.now(UTC), stage_seconds=stages),
    )
