"""The measured promises of the cluster, one command each.

    python -m benchmarks.cluster scaling|recovery|resume|drain|soak [--record]

Everything is the service's own (driver, encoder actors, decode tasks, shards, commits, a private Ray) around a codec
that sleeps for as long as a device would be busy. Ends with the bars that were kept or missed, and exits with 1 when
one was missed; `--record` adds a section to `benchmarks/RESULTS.md`.
"""

import argparse
import shlex
import signal
import sys
import time

from benchmarks.cluster import drain, recovery, resume, scaling, soak
from benchmarks.cluster.bars import Found, add_to_results, text_of

__all__ = ["main"]


def main(words: list[str] | None = None) -> int:
    """Measure, print, and record if asked to; 1 when a bar was missed."""
    words = sys.argv[1:] if words is None else words
    options = _parser().parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    started = time.monotonic()
    found = _measure(options)
    wall_seconds = time.monotonic() - started
    print(f"\n{found.title}: {found.about}\n\n{text_of(found)}\n\n{wall_seconds:.0f} s in all")
    if options.record:
        command = shlex.join(["python", "-m", "benchmarks.cluster", *(word for word in words if word != "--record")])
        add_to_results(found, command=command, wall_seconds=wall_seconds)
    return 0 if all(bar.is_kept for bar in found.bars) else 1


def _measure(options: argparse.Namespace) -> Found:
    match options.measurement:
        case "scaling":
            return scaling.measure(
                unit_seconds=options.unit_seconds, encoders=options.encoders, num_units=options.units
            )
        case "recovery":
            return recovery.measure(encoders=8, unit_seconds=options.unit_seconds, kills=options.kills)
        case "resume":
            return resume.measure(num_committed=options.committed, num_new=options.new, encoders=4)
        case "drain":
            return drain.measure(encoders=8, unit_seconds=options.unit_seconds)
        case _:
            return soak.measure(minutes=options.minutes, encoders=4, unit_seconds=options.unit_seconds)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="measurement", required=True)

    def command(name: str, about: str, *, unit_seconds: float | None) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=about, description=about)
        added.add_argument("--record", action="store_true", help="add a section to benchmarks/RESULTS.md")
        if unit_seconds is not None:
            added.add_argument(
                "--unit-seconds", type=float, default=unit_seconds, help="that a device is busy with a unit"
            )
        return added

    one = command("scaling", "units a second with 1 to 16 encoders; the driver's memory", unit_seconds=2.0)
    one.add_argument("--encoders", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    one.add_argument("--units", type=int, default=20_000, help="of the run that memory is looked at")
    one = command("recovery", "the rate after SIGKILL of one of 8 encoders", unit_seconds=1.0)
    one.add_argument("--kills", type=int, default=3, help="one after the other")
    one = command("resume", "time to the first new unit, and which inputs are opened", unit_seconds=None)
    one.add_argument("--committed", type=int, default=50_000, help="units that are done")
    one.add_argument("--new", type=int, default=400, help="units that are left")
    command("drain", "SIGTERM with units in flight", unit_seconds=5.0)
    one = command("soak", "work with failures: memory, files and threads", unit_seconds=0.5)
    one.add_argument("--minutes", type=float, default=30.0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
