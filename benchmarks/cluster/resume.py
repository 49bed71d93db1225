"""A run over an output that is nearly done: how soon it encodes, and which inputs it opens.

    50,400 files ─▶ plan ─▶ 50,000 commits at once, by the real protocol ─▶ stop          (made in this process)
                                                                            run ─▶ first new unit ─▶ the other 400

The kernel counts every file that any process opens: driver, encoders and decode workers.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

import fsspec

from benchmarks.cluster.bars import Bar, Found
from benchmarks.cluster.driver import Setting, job_file
from benchmarks.cluster.inputs import opened_files, recordings
from benchmarks.cluster.processes import Driver, store, work_folder
from benchmarks.publishers import Publishers
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.job import run
from tokenizer_jobs.pipeline import UnitDone

__all__ = ["Resumed", "measure", "resume"]

MOST_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """A run over an output that was nearly done."""

    committed: int
    """Units before it."""
    units: int
    """That it did."""
    first_seconds: float
    """From the start of its process until its first unit was being encoded."""
    all_seconds: float
    """Until its last unit was committed."""
    opened_before: int
    """Committed inputs that any process had opened when the first unit ended."""
    opened: int
    """And by the end of the run, which lists the source again."""
    new_opened: int
    """New inputs that were opened."""


class _Publishing:
    """An executor that commits the first so many units without encoding, and stops the run."""

    def __init__(self, job: Any, *, most: int, processes: int) -> None:
        self._job, self._most = job, most
        self._publishers = Publishers(
            output=job.output, recipe_id=job.recipe_id, num_processes=processes, num_threads=48
        )
        self.committed = set[str]()
        """Names of their inputs."""

    def __enter__(self) -> Self:
        self._publishers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._publishers.__exit__(None, None, None)

    def describe(self) -> str:
        return "publishing without encoding"

    def run(self, units: Iterable[Any], *, stop: Any) -> Iterator[Any]:
        for unit, published in self._publishers.publish(islice(units, self._most)):
            self.committed.update(Path(item.source_uri).name for item in unit.items)
            yield UnitDone(unit=unit, published=published)
        stop.request()


def resume(
    *,
    num_committed: int,
    num_new: int,
    encoders: int,
    output: str | None = None,
    environment: Mapping[str, str] | None = None,
    processes: int = 2,
    ray_address: str | None = None,
) -> Resumed:
    """Make an output with so many commits, and run the job to its end.

    Args:
        num_committed: Units that are done before.
        num_new: Units that are left.
        encoders: At work.
        output: An empty one; None: a local folder.
        environment: That reaches it.
        processes: That publish what is done before; 0: this one.
        ray_address: Of a cluster; None: a private one.
    """
    with work_folder() as folder:
        source, unit_minutes = recordings(folder / "inputs", num_files=num_committed + num_new)
        setting = Setting(
            output=output or str(folder / "out"),
            source=source,
            unit_minutes=unit_minutes,
            encoders=encoders,
            unit_seconds=0.0,
            decodes=True,
            ray_address=ray_address,
        )
        with _reaching(environment or {}):
            committed = _commit_most(setting, most=num_committed, processes=processes)
        folders = [path for path in (folder / "inputs").iterdir() if path.is_dir()]
        with opened_files(folders) as names, Driver(setting, environment=environment) as driver:
            units = driver.units()
            first = next(units)
            opened_before = len(committed.intersection(names))
            later = list(units)
        assert driver.ended is not None
        assert driver.ended.units_committed == num_committed + num_new
        return Resumed(
            committed=len(committed),
            units=1 + len(later),
            first_seconds=min(unit.encode_begun_at for unit in (first, *later)) - driver.started_at,
            all_seconds=[first, *later][-1].at - driver.started_at,
            opened_before=opened_before,
            opened=len(committed.intersection(names)),
            new_opened=len(set(names).difference(committed)),
        )


@contextmanager
def _reaching(environment: Mapping[str, str]) -> Iterator[None]:
    """Let this process and those that it starts reach a store."""
    before, client = dict(os.environ), dict(fsspec.config.conf)
    os.environ |= environment
    fsspec.config.set_conf_env(fsspec.config.conf)  # it read the environment when it was imported
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before
        fsspec.config.conf.clear()
        fsspec.config.conf.update(client)


def _commit_most(setting: Setting, *, most: int, processes: int) -> set[str]:
    """Plan the job and commit the first units of it; names of the inputs that are done."""
    made = list[_Publishing]()

    def make(job: Any) -> _Publishing:
        made.append(_Publishing(job, most=most, processes=processes))
        return made[0]

    result = run(JobConfig.parse(job_file(setting), origin="benchmark"), executor=make)
    assert result.units_committed == most, f"{result.units_committed} units committed, {most} asked for"
    return made[0].committed


def measure(*, num_committed: int, num_new: int, encoders: int) -> Found:
    """On a local disk, and on the loopback S3."""
    local = resume(num_committed=num_committed, num_new=num_new, encoders=encoders)
    print(local, flush=True)
    with store(latency_ms=5.0) as environment:
        remote = resume(
            num_committed=num_committed,
            num_new=num_new,
            encoders=encoders,
            output="s3://bucket/out",
            environment=environment,
        )
    print(remote, flush=True)
    runs = (("local disk", local), ("loopback S3, 5 ms a request", remote))
    rows = [
        (
            name,
            f"{one.committed:,}",
            f"{one.units}",
            f"**{one.first_seconds:.1f}**",
            f"{one.all_seconds:.1f}",
            f"**{one.opened_before}**",
            f"**{one.opened}**",
            f"{one.new_opened}",
        )
        for name, one in runs
    ]
    return Found(
        title="Resume",
        about=(
            f"An output with {num_committed:,} committed units of {num_committed + num_new:,} planned, one file of 1 "
            f"kB each; {encoders} encoders that take no time, real decode tasks, a private Ray. Seconds from the start "
            "of the process, imports and Ray's start among them, until the first new unit was encoded, and until the "
            "last was committed. Opened: committed inputs that any process opened (the kernel counts), until the "
            "first new unit, and until the end of the run, which lists the source for what is new."
        ),
        columns=("Output", "Committed", "New", "First s", "Last s", "Opened before", "Opened in all", "New opened"),
        rows=tuple(rows),
        bars=(
            Bar(
                promise=f"a new unit is encoded within {MOST_SECONDS:g} s",
                found=f"{max(one.first_seconds for _, one in runs):.1f} s at most",
                is_kept=all(one.first_seconds <= MOST_SECONDS for _, one in runs),
            ),
            Bar(
                promise="no committed input is opened until then",
                found=f"{max(one.opened_before for _, one in runs)} at most",
                is_kept=not any(one.opened_before for _, one in runs),
            ),
            Bar(
                promise="no committed input is opened by the end of the run, which lists the source for what is new",
                found=f"{max(one.opened for _, one in runs)} at most",
                is_kept=not any(one.opened for _, one in runs),
            ),
        ),
    )
