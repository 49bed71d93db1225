"""What can be timed beside a sample: the command's start, a new worker, Ray, and decoding on one core."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizer_jobs.config import CodecRecipe, JobConfig, Runtime
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import DecodedItem, DecodedStretch, Item
from tokenizer_jobs.sources import Source

__all__ = ["Spent", "command_spent", "cpu_clock", "decode_cpu_seconds", "process_seconds", "ray_seconds"]

DECODE_SECONDS, DECODE_ITEMS = 3.0, 200
"""Spent on decoding alone, at most."""
ASSUMED_RAY_SECONDS = 10.0
"""Until a cluster that runs already has placed an encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What something took."""

    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of all its processes; other work on the machine changes them little."""


def cpu_clock() -> float:
    """CPU seconds of this process so far, and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def command_spent(config: JobConfig, *, folder: Path) -> Spent:
    """What the command `run` takes for a job of next to nothing; the faster of two, since other work only delays.

    Args:
        config: The job.
        folder: For its file; empty, and so is its output.

    Raises:
        ConfigError: the command fails.
    """
    path = folder / "start.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, "-m", "tokenizer_jobs", "run", str(path), "--output"]
    tries = [_process_spent([*command, str(folder / f"start-{number}")]) for number in (1, 2)]
    return min(tries, key=lambda spent: spent.seconds)


def _process_spent(command: Sequence[str], *, given: str = "") -> Spent:
    begin, cpu = time.monotonic(), cpu_clock()
    done = subprocess.run(
        command,
        input=given,
        text=True,
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"a new process cannot load the codec ({last}); `tokenizer-jobs doctor` says what is missing")
    return Spent(seconds=time.monotonic() - begin, cpu_seconds=cpu_clock() - cpu)


def process_seconds(recipe: CodecRecipe, *, device: str) -> float:
    """Seconds of a new worker from its start until it has loaded the codec and encoded a first batch.

    Raises:
        ConfigError: such a process fails.
    """
    command = [sys.executable, "-m", "tokenizer_jobs.dry_run.warm_up", device]
    return _process_spent(command, given=recipe.model_dump_json()).seconds


def ray_seconds(runtime: Runtime) -> float:
    """Seconds until Ray is there: a private one is started, and ended, to see; a given cluster is left in peace."""
    from tokenizer_jobs.cluster.session import connected, resolve_address  # Ray takes half a second to import

    if resolve_address(runtime.ray_address, environment=os.environ) is not None:
        return ASSUMED_RAY_SECONDS
    begin = time.monotonic()
    with connected(runtime):
        return time.monotonic() - begin


def decode_cpu_seconds(items: Sequence[Item], *, source: Source, target: AudioTarget) -> float:
    """Seconds of one core for a second of decoded audio, over some of the items; 0 where none can be decoded."""
    step = -(-len(items) // DECODE_ITEMS) or 1
    begin, spent, num_samples = time.thread_time(), 0.0, 0
    for number, item in enumerate(items[::step]):
        for decoded in decode_items([(number, item)], source=source, target=target):
            if isinstance(decoded, DecodedItem | DecodedStretch):
                num_samples += decoded.waveform.shape[1]
        spent = time.thread_time() - begin
        if spent > DECODE_SECONDS:
            break
    return spent * target.sample_rate / num_samples if num_samples else 0.0
