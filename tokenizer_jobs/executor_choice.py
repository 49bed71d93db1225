"""Whether a job takes Ray: one rule for runs and for predictions of them."""

import os

from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.machine import available_cpus
from tokenizer_jobs.sources import lives_in_memory

__all__ = ["uses_ray"]

RAY_PAYS_SECONDS = 600.0
"""Audio left from which `executor: auto` starts Ray on a machine with several CPUs. With Ray the first unit begins 3 to
5 s later (2 cores of an AMD EPYC)."""


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
    return named or (available_cpus() > 1 and seconds_left > RAY_PAYS_SECONDS)
