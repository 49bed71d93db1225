"""The service is killed in every way there is, and every item ends exactly once.

    python -m benchmarks.chaos [--rounds 50] [--seed N] [--minutes M] [--store s3|local] [--plain] [--record]

Three Ray nodes of real raylets on this machine, an output on a loopback S3 whose requests fail at random, and the
user's command `tokenizer_jobs run job.yaml` as a process. Encoders, decode workers, raylets and the driver are killed
or frozen at random times, SIGTERM stops the run, second drivers meet the first; the job is started again until it
ends. After every round: the planned items are the inputs, each has rows or a reject once, `verify` is clean, and the
digest is that of a calm run in one process. A broken law stops the show, and the output and all logs stay.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from benchmarks.chaos.laws import Content, check, read_content
from benchmarks.chaos.nodes import Nodes, environment
from benchmarks.chaos.recordings import write_recordings
from benchmarks.chaos.results import add_to_results, summary
from benchmarks.chaos.rounds import Round, Watch
from benchmarks.chaos.screen import Screen, open_screen, span
from benchmarks.chaos.service import call, write_job
from benchmarks.chaos.settings import Seen, Settings, ViolationError
from benchmarks.chaos.store import Store
from benchmarks.chaos.watcher import Watcher

__all__ = ["main", "show"]


def main(words: list[str] | None = None) -> int:
    """Show it, print both digests, and say where everything is if a law was broken."""
    options = _parser().parse_args(words)
    settings = Settings(
        rounds=options.rounds,
        seed=random.SystemRandom().randrange(10_000) if options.seed is None else options.seed,
        minutes=options.minutes,
        store=options.store,
        num_items=options.items,
        unit_minutes=options.unit_minutes,
        errors=options.errors,
        cuts=options.cuts,
        late=options.late,
        late_ms=options.late_ms,
        num_blows=options.blows,
        round_seconds=options.round_seconds,
    )
    # Ray puts sockets below it, whose paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    seen, started, keeps = Seen(), time.monotonic(), False
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that what was started is ended
    try:
        digests = show(settings, seen, folder=folder, plain=options.plain)
    except ViolationError as violation:
        keeps = True
        print(f"\nBROKEN after {seen.rounds} whole rounds, seed {settings.seed}: {violation}\n\nall of it: {folder}")
        return 1
    finally:
        if not keeps:
            shutil.rmtree(folder, ignore_errors=True)
    print(summary(settings, seen, digests, wall_seconds=time.monotonic() - started))
    if options.record:
        add_to_results(settings, seen, digests, wall_seconds=time.monotonic() - started)
    return 0


def show(settings: Settings, seen: Seen, *, folder: Path, plain: bool) -> tuple[str, str]:
    """Let all rounds happen.

    Args:
        settings: What they are made of.
        seen: Gets the counts.
        folder: For everything; it stays.
        plain: No live view.

    Returns:
        The digest of a calm run, and that of the last round.

    Raises:
        ViolationError: a law was broken; the output of that round was copied to `folder`.
    """
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(environment(folder))
        store = stack.enter_context(Store(settings, folder=folder))
        watcher = stack.enter_context(Watcher(store))
        screen = stack.enter_context(open_screen(settings, seen, watcher, plain=plain, about=store.describe()))
        screen.say(f"seed {settings.seed}; {settings.num_items} recordings; {store.describe()}")
        calm = _calm_run(settings, folder)
        screen.say(f"a calm run in one process: {len(calm.rows)} rows, {len(calm.rejects)} rejects, {calm.digest}")
        nodes = stack.enter_context(Nodes(folder))
        screen.say(f"a Ray cluster at {nodes.address}: {', '.join(nodes.raylets)}")
        found = calm
        for number in range(1, settings.rounds + 1):
            if settings.minutes is not None and time.monotonic() - started > 60 * settings.minutes:
                screen.say(f"{span(time.monotonic() - started)} are over; no other round begins")
                break
            found = _round(number, settings, seen, nodes=nodes, store=store, watcher=watcher, screen=screen, calm=calm)
            seen.requests, seen.faults = store.counts()
    return calm.digest, found.digest


def _calm_run(settings: Settings, folder: Path) -> Content:
    write_recordings(folder / "inputs", num_items=settings.num_items, seed=settings.seed)
    output, log = str(folder / "calm"), folder / "calm.log"
    write_job(
        folder / "calm.yaml",
        output=output,
        inputs=folder / "inputs",
        unit_minutes=settings.unit_minutes,
        runtime={"executor": "inline"},
    )
    if call("run", str(folder / "calm.yaml"), log=log) != 0:
        raise SystemExit(f"the calm run failed, so there is nothing to compare with:\n{log.read_text()[-3000:]}")
    return read_content(output, log=log)


def _round(
    number: int,
    settings: Settings,
    seen: Seen,
    *,
    nodes: Nodes,
    store: Store,
    watcher: Watcher,
    screen: Screen,
    calm: Content,
) -> Content:
    """One round and its laws."""
    name, started, before = f"round-{number:03d}", time.monotonic(), Counter(seen.blows)
    folder = nodes.folder / name
    watcher.look_at(output := store.output(f"{name}-output"))
    inputs = nodes.folder / "inputs"
    one = Round(
        number=number,
        settings=settings,
        nodes=nodes,
        seen=seen,
        folder=folder,
        output=output,
        inputs=inputs,
        watch=Watch(say=screen.say, units=watcher.units, draw=screen.draw),
    )
    try:
        one.run()
        found = check(output, inputs=inputs, calm=calm, log=folder / "verify.log")
    except ViolationError:
        store.keep(f"{name}-output", folder=folder / "output")
        raise
    seen.rounds += 1
    seen.items += len(found.rows) + len(found.rejects)
    blows = ", ".join(f"{blow} {count}" for blow, count in (seen.blows - before).items())
    screen.say(
        f"round {number} whole after {span(time.monotonic() - started)} ({blows}): {len(found.rows)} rows + "
        f"{len(found.rejects)} rejects, digest {found.digest[:16]}…"
    )
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, help="of inputs, blows and faults; none: another one every time, and told")
    parser.add_argument("--minutes", type=float, help="no round begins after so long")
    parser.add_argument("--store", choices=("s3", "local"), default="s3")
    parser.add_argument("--items", type=int, default=240, help="recordings, rejects included")
    parser.add_argument("--unit-minutes", type=float, default=0.07)
    parser.add_argument("--blows", type=int, help="in one round, at most")
    parser.add_argument("--errors", type=float, default=0.05, help="share of requests answered by 500 or 503")
    parser.add_argument("--cuts", type=float, default=0.01, help="share of requests whose connection is cut")
    parser.add_argument("--late", type=float, default=0.05, help="share of requests answered late")
    parser.add_argument("--late-ms", type=float, default=300.0)
    parser.add_argument("--round-seconds", type=float, default=900.0, help="after which a round counts as hanging")
    parser.add_argument("--plain", action="store_true", help="lines instead of a live view")
    parser.add_argument("--record", action="store_true", help="add a section to benchmarks/RESULTS.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())
