"""The machine that a benchmark ran on, in a line, and the file that results are added to."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

__all__ = ["PROJECT", "RECORDINGS", "RESULTS", "add_section", "busy_core_seconds", "describe_machine"]

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks" / "RESULTS.md"
RECORDINGS = PROJECT.parent / "shared" / "audio"
"""Real recordings, where they lie beside the project."""


def add_section(text: str, *, results: Path = RESULTS) -> None:
    """Add a section to the results."""
    with results.open("a", encoding="utf-8") as file:
        file.write(text)


def describe_machine(*, packages: Sequence[str]) -> str:
    """Return cores, load and the versions of Python and `packages`."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()}-core {cpu}, load {load}; Python {platform.python_version()}, {versions}"


def busy_core_seconds() -> float:
    """Return the seconds that all cores together were busy since the machine started; 0 where it does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    # user, nice, system, idle, iowait, irq, softirq, steal: what the host took for others counts as busy.
    ticks = [int(field) for field in stat.read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")
