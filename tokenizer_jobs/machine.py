"""What this machine lets a process use."""

import os
from pathlib import Path

__all__ = ["available_cpus"]


def available_cpus() -> int:
    """CPUs that this process may use: its affinity and its container's quota, at least 1."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cpus
    return cpus if quota == "max" else max(1, min(cpus, int(quota) // int(period)))
