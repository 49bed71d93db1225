"""Whether a job takes Ray: one rule for runs and for predictions of them."""

import os

from tokenizer_jobs.config import JobConfig, Runtime
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.machine import available_cpus, has_nvidia_device
from tokenizer_jobs.sources import lives_in_memory

__all__ = ["uses_ray"]

RAY_PAYS_SECONDS = 600.0
"""Audio left from which `executor: auto` starts Ray, which takes 3 to 5 s more to start than encoding in this process
does."""

FEW_CPUS = 4
"""Encoders in one process wait for each other's Python: each holds its lock for up to 9 % of the time (tiny files),
so that four of them hardly meet, and a dozen would."""

RAY_PAYS_ON_FEW_CPUS_SECONDS = 7200.0
"""The same on a few CPUs without a GPU. Encoders in one process have one copy of the weights in the last cache: an hour
of clips or songs takes 4 to 8 % less time than on Ray (2 CPUs, `benchmarks.job` with `--executor inline`). What takes
longer is left to Ray all the same, which replaces an encoder that dies."""


def uses_ray(config: JobConfig, *, seconds_left: float) -> bool:
    """Whether a job with so much audio left takes Ray.

    Raises:
        ConfigError: it asks for Ray, whose workers cannot see its source.
    """
    runtime = config.runtime
    if lives_in_memory(config.selection.source):
        if runtime.executor == "ray":
            raise ConfigError(
                "runtime.executor = ray, but selection.source is in the memory of this process (memory://), where no "
                "worker can read it; use inline, or put the audio where workers reach it"
            )
        return False
    if runtime.executor != "auto":
        return runtime.executor == "ray"
    named = runtime.ray_address != "auto" or "RAY_ADDRESS" in os.environ or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return named or (available_cpus() > 1 and seconds_left > _pays_from(runtime))


def _pays_from(runtime: Runtime) -> float:
    on_gpus = runtime.device == "cuda" or (runtime.device == "auto" and has_nvidia_device())
    return RAY_PAYS_SECONDS if on_gpus or available_cpus() > FEW_CPUS else RAY_PAYS_ON_FEW_CPUS_SECONDS
