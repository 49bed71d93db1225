"""Plan and driver of a huge job: seconds, memory and commits a second, with everything real but audio and encoders.

    python -m benchmarks.scale [--items 10000000] [--units 50000] [--latency-ms 50]

A listing of made-up names (`benchmarks.listings`) is planned into an output on an S3 server of this machine
(`benchmarks.loopback_s3`) that answers each request so much later; the driver hands units to processes that publish
them at once (`benchmarks.publishers`), half of them in one run and the rest in a second one, which resumes; a third
run finds nothing new. Each run is a process of its own. Three sizes, with as many items in a unit, show the growth.
Needs `pip install s3fs`. With `--output FOLDER` the output is there, and no server is started. The table is added to
`RESULTS.md`, unless `--output` or `--no-results` is given.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Self

SHARES = (0.02, 0.2, 1.0)
"""Sizes that are measured, of the one that is asked for."""
MEAN_SECONDS = 12.5
"""Of the made-up recordings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One run of the job."""

    output: str
    num_items: int
    num_units: int
    stop_after: float
    """Share of the units after which the run is asked to stop; 1: it is not."""
    processes: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What one run took."""

    plan_seconds: float
    """From the start to the first unit: listing, comparing, cutting and storing where there was no plan; else
    finding out what is done."""
    plan_cpu_seconds: float
    units_seconds: float
    """From the first unit to the last commit."""
    end_seconds: float
    """From the end of the publishers to the end: index, snapshot, sweep, sums."""
    units: int
    """Committed by this run."""
    all_units: int
    driver_cpu_seconds: float
    """While units were committed."""
    publisher_cpu_seconds: float
    base_megabytes: float
    """With everything imported and the codec described, before the run."""
    plan_megabytes: float
    """Peak until the first unit, all told."""
    peak_megabytes: float
    """Peak from then on, all told."""


def measure(setting: Setting) -> Found:
    """Run the job once in this process."""
    import benchmarks.listings  # noqa: F401  # makes `names://` known
    from tokenizer_jobs.config import CodecRecipe, JobConfig
    from tokenizer_jobs.encoding import describe_codec
    from tokenizer_jobs.job import run

    describe_codec(CodecRecipe(model="demo"))
    unit_minutes = setting.num_items / setting.num_units * MEAN_SECONDS / 60
    config = JobConfig.model_validate(
        {
            "output": setting.output,
            "recipe": {"codec": {"model": "demo"}},
            "selection": {
                "source": {"kind": "files", "paths": [f"names://corpus/{setting.num_items}"]},
                "shards": {"unit_minutes": unit_minutes},
            },
        }
    )
    base = _resident_megabytes_from_now()
    watch = _Watch(setting)
    started, cpu = time.monotonic(), time.process_time()
    result = run(config, executor=watch.made_for)
    ended = time.monotonic()
    assert not result.problems, result.problems
    if not watch.units:  # nothing was left to do
        watch.first = watch.last = watch.closed = ended
        watch.cpu_at_plan = time.process_time()
        watch.plan_megabytes = _megabytes("VmHWM")
    return Found(
        plan_seconds=watch.first - started - watch.start_seconds,
        plan_cpu_seconds=watch.cpu_at_plan - cpu,
        units_seconds=watch.last - watch.first,
        end_seconds=ended - watch.closed,
        units=watch.units,
        all_units=result.units,
        driver_cpu_seconds=watch.driver_cpu,
        publisher_cpu_seconds=watch.publisher_cpu,
        base_megabytes=base,
        plan_megabytes=watch.plan_megabytes,
        peak_megabytes=_megabytes("VmHWM"),
    )


class _Watch:
    """An executor around publishers, with a look at the clock and at memory where planning ends."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.first = self.last = self.closed = self.start_seconds = self.cpu_at_plan = 0.0
        self.driver_cpu = self.publisher_cpu = self.plan_megabytes = 0.0
        self.units = 0

    def made_for(self, job: Any) -> Self:
        self.job = job
        return self

    def __enter__(self) -> Self:
        from benchmarks.publishers import Publishers

        self.plan_megabytes, self.cpu_at_plan = _megabytes("VmHWM"), time.process_time()
        before = time.monotonic()
        self.publishers = Publishers(
            output=self.job.output,
            recipe_id=self.job.recipe_id,
            num_processes=self.setting.processes,
            num_threads=self.setting.threads,
        )
        self.publishers.__enter__()
        _resident_megabytes_from_now()
        self.start_seconds = time.monotonic() - before
        return self

    def __exit__(self, *_: object) -> None:
        self.publishers.__exit__(None, None, None)
        times = os.times()  # of processes that have ended
        self.closed = time.monotonic()
        self.publisher_cpu = times.children_user + times.children_system - self.publishers.cpu_at_start

    def describe(self) -> str:
        return "publishing without encoding"

    def run(self, units: Iterable[Any], *, stop: Any) -> Iterator[Any]:
        from tokenizer_jobs.pipeline import UnitDone

        self.first, cpu = time.monotonic(), time.process_time()
        most = round(self.setting.stop_after * self.setting.num_units)

        def until_stopped() -> Iterator[Any]:
            for number, unit in enumerate(units):
                if number == most and self.setting.stop_after < 1:
                    stop.request()
                    return
                yield unit

        for unit, published in self.publishers.publish(until_stopped()):
            self.units += 1
            yield UnitDone(unit=unit, published=published)
        self.last, self.driver_cpu = time.monotonic(), time.process_time() - cpu


def _resident_megabytes_from_now() -> float:
    """Return the resident size and start the peak from there."""
    Path("/proc/self/clear_refs").write_text("5")
    return _megabytes("VmRSS")


def _megabytes(name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found, f"this benchmark needs {name} of Linux"
    return int(found[1]) / 1024


@contextmanager
def _store(latency_ms: float, output: str | None) -> Iterator[tuple[str, dict[str, str]]]:
    """URL of a fresh output and the environment that reaches it; a server of our own where no folder is given."""
    if output is not None:
        yield output, {}
        return
    words = [sys.executable, "-m", "benchmarks.loopback_s3", "--latency-ms", str(latency_ms)]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"
        yield (
            "s3://bucket/out",
            {
                "FSSPEC_S3_ENDPOINT_URL": address,
                "AWS_ACCESS_KEY_ID": "anyone",
                "AWS_SECRET_ACCESS_KEY": "anything",
                "AWS_DEFAULT_REGION": "us-east-1",
            },
        )
    finally:
        server.terminate()
        print("  requests", server.communicate()[0].strip(), flush=True)


def _in_process(setting: Setting, environment: dict[str, str]) -> Found:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--child", json.dumps(asdict(setting))],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Found(**json.loads(result.stdout.splitlines()[-1]))


def measure_size(
    num_items: int, num_units: int, *, latency_ms: float, output: str | None, processes: int, threads: int
) -> list[Found]:
    """Plan and do half, resume and do the rest, and run once more."""
    with _store(latency_ms, output) as (url, environment):
        return [
            _in_process(
                Setting(
                    output=url,
                    num_items=num_items,
                    num_units=num_units,
                    stop_after=stop_after,
                    processes=processes,
                    threads=threads,
                ),
                environment,
            )
            for stop_after in (0.5, 1.0, 1.0)
        ]


def line(num_items: int, runs: list[Found]) -> str:
    """One row of the table."""
    first, second, again = runs
    units, seconds = first.units + second.units, first.units_seconds + second.units_seconds
    driver_cpu = first.driver_cpu_seconds + second.driver_cpu_seconds
    publisher_cpu = first.publisher_cpu_seconds + second.publisher_cpu_seconds
    cells = (
        f"{num_items:,} / {first.all_units:,}",
        f"**{first.plan_seconds:.1f}**",
        f"{first.plan_cpu_seconds:.1f}",
        f"{first.plan_megabytes:.0f}",
        f"**{units / seconds:.0f}**",
        f"{1000 * driver_cpu / units:.2f}",
        f"{1000 * publisher_cpu / units:.2f}",
        f"{max(first.peak_megabytes, second.peak_megabytes):.0f}",
        f"{second.plan_seconds:.1f}",
        f"{second.end_seconds:.1f}",
        f"{again.plan_seconds:.1f}",
        f"{again.plan_cpu_seconds:.1f}",
        f"{again.peak_megabytes:.0f}",
        f"{first.base_megabytes:.0f}",
    )
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    "Items / units",
    "Plan s",
    "CPU s",
    "MB",
    "Commits/s",
    "Driver CPU ms a commit",
    "Publishers'",
    "Driver MB",
    "Resume s",
    "End s",
    "Nothing new s",
    "CPU s",
    "MB",
    "Base MB",
)
HEAD = f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--units", type=int, default=50_000)
    parser.add_argument("--latency-ms", type=float, default=50.0, help="of each request to the store")
    parser.add_argument("--processes", type=int, default=2, help="that publish; 0: threads of the driver do")
    parser.add_argument("--threads", type=int, default=48, help="of each: requests under way")
    parser.add_argument("--output", help="a folder in place of the loopback store; its content is made by this")
    parser.add_argument("--no-results", action="store_true", help="print only")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(asdict(measure(Setting(**json.loads(arguments.child))))))
        return
    lines = []
    for share in SHARES:
        num_items = round(arguments.items * share)
        with tempfile.TemporaryDirectory(dir=arguments.output) as folder:
            runs = measure_size(
                num_items,
                max(1, round(arguments.units * share)),
                latency_ms=arguments.latency_ms,
                output=folder if arguments.output else None,
                processes=arguments.processes,
                threads=arguments.threads,
            )
        lines.append(line(num_items, runs))
        print(lines[-1], flush=True)
    if not arguments.output and not arguments.no_results:
        _add_to_results(arguments, lines)


def _add_to_results(arguments: argparse.Namespace, lines: list[str]) -> None:
    from benchmarks.machine import add_section, describe_machine

    machine = describe_machine(packages=("pyarrow", "fsspec", "s3fs"))
    command = f"python -m benchmarks.scale --items {arguments.items} --units {arguments.units}"
    text = (
        f"\n## Scale, {date.today()}\n\n`{command} --latency-ms {arguments.latency_ms:g}`; {machine}. Made-up "
        f"names; the store, {arguments.processes} publishing processes of {arguments.threads} threads and the driver "
        "share the cores. Plan: from the start of the run to the first unit. Commits: a shard of 1 KB and its record, "
        "each an exclusive PUT. CPU is of the process alone, MB its peak resident size with its base (imports and "
        "codec). Resume: from the start to the first unit, with half of the units done. End: of the resumed run, from "
        "its last commit: a listing of what is new, index, snapshot, sweep and sums. Nothing new: a run that lists, "
        "compares and ends.\n\n" + HEAD
    )
    add_section(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
