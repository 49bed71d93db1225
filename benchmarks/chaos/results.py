"""What a show found, for the terminal and as a section of `RESULTS.md`."""

from collections.abc import Mapping
from datetime import date

from benchmarks.chaos.settings import Seen, Settings
from benchmarks.machine import add_section, describe_machine

__all__ = ["add_to_results", "summary"]


def summary(settings: Settings, seen: Seen, digests: tuple[str, str], *, wall_seconds: float) -> str:
    """The last words of a show.

    Args:
        settings: Of it.
        seen: What happened.
        digests: Of the calm run and of the last round.
        wall_seconds: That it took.
    """
    calm, chaos = digests
    drains = f"; drained within {max(seen.drain_seconds):.1f} s of SIGTERM" if seen.drain_seconds else ""
    return (
        f"\n{seen.rounds} rounds, every item exactly once: {seen.items:,} items checked, seed {settings.seed}, "
        f"{wall_seconds / 60:.1f} minutes\n"
        f"  blows    {_listed({str(blow): count for blow, count in seen.blows.items()})}\n"
        f"  nodes    {seen.nodes_replaced} replaced\n"
        f"  drivers  {seen.starts} started: {_listed(seen.endings)}{drains}\n"
        f"  store    {seen.requests:,} requests, {sum(seen.faults.values()):,} faults: {_listed(seen.faults)}\n"
        f"  calm     {calm}\n"
        f"  chaos    {chaos}"
    )


def add_to_results(settings: Settings, seen: Seen, digests: tuple[str, str], *, wall_seconds: float) -> None:
    """Append a section; its arguments are those of `summary`."""
    machine = describe_machine(packages=("ray", "torch", "pyarrow", "s3fs"))
    command = f"python -m benchmarks.chaos --rounds {settings.rounds} --seed {settings.seed}"
    command += f" --store {settings.store}" if settings.store != "s3" else ""
    blows = "".join(f"| {blow} | {count} |\n" for blow, count in seen.blows.most_common())
    interruptions = sum(count for name, count in seen.endings.items() if name != "done")
    drains = (
        f" From SIGTERM to exit 75 of a run that was at work: at most {max(seen.drain_seconds):.1f} s."
        if seen.drain_seconds
        else ""
    )
    text = (
        f"\n## Chaos, {date.today()}\n\n`{command}`; {machine}. Three raylets on this machine, the user's command as a "
        f"process, codec `demo`, {settings.num_items} recordings a round. {_store_words(settings, seen)}\n\n"
        f"**{seen.rounds} rounds, {seen.items:,} items, each exactly once; digests equal to that of a calm run in one "
        f"process** (`{digests[0][:16]}…`, `{digests[1][:16]}…`). {wall_seconds / 60:.1f} minutes; {seen.starts} "
        f"drivers started, {interruptions} runs interrupted and resumed ({_listed(seen.endings)}); "
        f"{seen.nodes_replaced} nodes replaced.{drains}\n\n"
        f"| Blow | Times |\n| --- | --- |\n{blows}"
    )
    add_section(text)


def _store_words(settings: Settings, seen: Seen) -> str:
    if settings.store == "local":
        return "The output is a local folder."
    return (
        f"The output is on a loopback S3: {settings.errors:.0%} errors, {settings.cuts:.0%} cut connections, "
        f"{settings.late:.0%} answers late by {settings.late_ms:g} ms; {seen.requests:,} requests met "
        f"{sum(seen.faults.values()):,} faults ({_listed(seen.faults)})."
    )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda one: -one[1])) or "none"
