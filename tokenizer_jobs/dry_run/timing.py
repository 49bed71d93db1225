"""What can be timed beside a sample: a new process, Ray, and decoding on one core."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

from tokenizer_jobs.config import CodecRecipe, Runtime
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.records import DecodedItem, DecodedStretch, Item
from tokenizer_jobs.sources import Source

__all__ = ["decode_cpu_seconds", "process_seconds", "ray_seconds"]

DECODE_SECONDS, DECODE_ITEMS = 3.0, 200
"""Spent on decoding alone, at most."""
ASSUMED_RAY_SECONDS = 10.0
"""Until a cluster that runs already has placed an encoder."""


def process_seconds(recipe: CodecRecipe, *, device: str) -> float:
    """Seconds of a new process from its start until it has loaded the codec and encoded a first batch.

    Raises:
        ConfigError: such a process fails.
    """
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tokenizer_jobs.dry_run.warm_up", device],
        input=recipe.model_dump_json(),
        text=True,
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"a new process cannot load the codec ({last}); `tokenizer-jobs doctor` says what is missing")
    return time.monotonic() - begin


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
