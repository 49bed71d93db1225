"""One run of a job, as a process of its own: the service's `run` with encoders that sleep, telling what happens.

    python -m benchmarks.cluster.driver '{"output": "out/benchmark", "source": {...}, ...}'

Prints one JSON object a line: a unit that ended, and at the end how the run ended; its exit code is that of the
command line.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

__all__ = ["Ended", "Setting", "UnitEnded", "job_file", "resident_megabytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One run."""

    output: str
    source: dict[str, Any]
    """As in a job file."""
    unit_minutes: float
    encoders: int
    unit_seconds: float
    """That an encoder's device is busy with a unit."""
    decodes: bool = False
    """Whether decode tasks read the inputs."""
    stuck_after: int | None = None
    """Calls of each encoder's codec after which one does not come back; None: all do."""
    grace_seconds: float = 30.0
    ray_address: str | None = None
    """`host:port` of a cluster that has slots for the encoders; None: a private one, started for the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitEnded:
    """A unit has a commit, and the driver knows."""

    at: float
    """Seconds since 1970."""
    encoder: str
    pid: int
    """Of the encoder."""
    attempt: int
    """Of the commit, from 1."""
    encode_begun_at: float
    """Seconds since 1970; when the encoder turned to it, at the latest."""
    driver_megabytes: float | None
    """Its resident size, every so many units."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The run has ended."""

    stopped: bool
    units: int
    units_committed: int
    snapshot: int | None
    problems: list[str] = field(default_factory=list)


_told = 1
MEMORY_EVERY = 100
"""Units between looks at the resident size."""


def job_file(setting: Setting) -> dict[str, Any]:
    """What a user would write."""
    return {
        "output": setting.output,
        "recipe": {"codec": {"model": "demo"}},
        "selection": {"source": setting.source, "shards": {"unit_minutes": setting.unit_minutes}},
        "runtime": {
            "executor": "ray",
            "ray_address": setting.ray_address or "auto",
            "encoders": setting.encoders,
            "device": "cpu",
            "decode_tasks": 1,
            "grace_seconds": setting.grace_seconds,
            # Sixteen processes that import torch at once, on the cores that are there.
            "placement_timeout_seconds": 600.0,
        },
    }


def drive(setting: Setting) -> int:
    """Run the job in this process and say what happens; its exit code."""
    import benchmarks.listings  # noqa: F401  # makes `names://` known
    from benchmarks.cluster.encoders import encoder_class
    from tokenizer_jobs.cluster import RayExecutor
    from tokenizer_jobs.cluster.retry import UNITS_PER_ENCODER
    from tokenizer_jobs.cluster.session import private_ray
    from tokenizer_jobs.config import JobConfig
    from tokenizer_jobs.job import run

    config = JobConfig.parse(job_file(setting), origin="benchmark")

    def make(job: Any) -> _Telling:
        kind = encoder_class(
            unit_seconds=setting.unit_seconds, decodes=setting.decodes, stuck_after=setting.stuck_after
        )
        return _Telling(RayExecutor(job, codec_recipe=config.recipe.codec, runtime=config.runtime, encoder_class=kind))

    with ExitStack() as stack:
        if setting.ray_address is None:
            # As many CPUs as the decode tasks of all units in flight may reserve, whatever this machine has.
            cpus = -(-setting.encoders * UNITS_PER_ENCODER * config.runtime.decode_cpus // 1)
            stack.enter_context(private_ray(num_cpus=max(2, int(cpus)), encoder_slots=setting.encoders))
        result = run(config, executor=make)
    ended = Ended(
        stopped=result.stopped,
        units=result.units,
        units_committed=result.units_committed,
        snapshot=result.snapshot,
        problems=result.problems,
    )
    _tell(ended)
    return result.exit_code


class _Telling:
    """The Ray executor, with a line for each unit that ends."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._num_units = 0

    def __enter__(self) -> Self:
        self._executor.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._executor.__exit__(*error)

    def describe(self) -> str:
        return str(self._executor.describe())

    def run(self, units: Iterable[Any], *, stop: Any) -> Iterator[Any]:
        from tokenizer_jobs.pipeline import UnitDone

        for outcome in self._executor.run(units, stop=stop):
            if isinstance(outcome, UnitDone):
                self._tell_of(outcome.published.commit)
            yield outcome

    def _tell_of(self, commit: Any) -> None:
        self._num_units += 1
        encoder, _, pid = commit.device.partition("/")
        now, busy = time.time(), commit.stage_seconds["encode"]
        _tell(
            UnitEnded(
                at=now,
                encoder=encoder,
                pid=int(pid),
                attempt=commit.attempt,
                encode_begun_at=commit.finished_at.timestamp() - busy,
                driver_megabytes=None if self._num_units % MEMORY_EVERY else resident_megabytes(os.getpid()),
            )
        )


def _tell(event: UnitEnded | Ended) -> None:
    os.write(_told, (json.dumps({"kind": type(event).__name__, **asdict(event)}) + "\n").encode())


def resident_megabytes(pid: int) -> float:
    """Resident size of a process.

    Raises:
        OSError: it is gone.
    """
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if found is None:
        raise ProcessLookupError(f"process {pid} is dead")
    return int(found[1]) / 1024


if __name__ == "__main__":
    # Ray prints what it has to say of dead workers, in the middle of our lines: from here on to standard error.
    _told = os.dup(1)
    os.dup2(2, 1)
    sys.exit(drive(Setting(**json.loads(sys.argv[1]))))
