"""One round: a job is started, struck, and started again until it ends; then the laws are checked.

start ──▶ blows, each when its moment has come ──▶ a driver ends ──▶ done? ──▶ laws
  ▲                                                    │ killed, stopped, refused, gave up
  └────────────────────────────────────────────────────┘
"""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.chaos.blows import Moment, Planned, plan_blows
from benchmarks.chaos.nodes import Nodes, Worker
from benchmarks.chaos.service import Driver, Ending, write_job
from benchmarks.chaos.settings import Blow, Seen, Settings, ViolationError

__all__ = ["Round", "Watch"]

TICK_SECONDS = 0.15
MAX_STARTS = 15
"""Of drivers in one round."""
REPLACE_SECONDS = (0.5, 4.0)
"""After which another node joins for one that was killed."""
AGAIN_SECONDS = 0.5
"""Between the end of a driver and the start of the next."""
DRAIN_SECONDS = 45.0
"""That a driver may take to end after SIGTERM: the grace period of 30 s, and saying goodbye."""


@dataclass(slots=True)
class Watch:
    """What the round looks at and tells: the screen's side of it."""

    say: Callable[[str], None]
    """Takes a line on what happened."""
    units: Callable[[], tuple[int, int | None]]
    """Committed units, and planned ones as soon as that is known."""
    draw: Callable[["Round"], None]
    """Shows how things are, a few times a second."""


@dataclass(slots=True, kw_only=True)
class Round:
    """One round.

    Args:
        number: From 1; with the seed it decides what happens.
        folder: For the job file and the logs.
        output: URL.
        inputs: What is tokenized.
    """

    number: int
    settings: Settings
    nodes: Nodes
    seen: Seen
    folder: Path
    output: str
    inputs: Path
    watch: Watch
    workers: list[Worker] = field(default_factory=list)
    """Ray workers that had something in hand just now."""
    drivers: list[Driver] = field(default_factory=list)
    """That run."""
    waiting: list[Planned] = field(default_factory=list)
    """Blows to come."""
    _chance: random.Random = field(init=False)
    _later: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """What is to be done when its time has come: thawing, replacing."""
    _last: float = 0.0
    """When something happened that pauses are counted from."""
    _ended_at: float | None = None
    """When the last unit was committed, as far as could be seen."""
    _starts: int = 0
    _companions: dict[int, bool] = field(default_factory=dict)
    """Of each driver by pid, whether another one ran at some time of its life."""

    def __post_init__(self) -> None:
        self._chance = random.Random(f"{self.settings.seed} {self.number}")
        self.waiting = plan_blows(self._chance)[: self.settings.num_blows]

    def run(self) -> None:
        """Let it happen until the job has ended well and nobody works on it any more.

        Raises:
            ViolationError: a driver ended as none may, or the job does not end.
        """
        self.folder.mkdir(parents=True)
        runtime = {"executor": "ray", "ray_address": self.nodes.address}
        write_job(
            self.folder / "job.yaml",
            output=self.output,
            inputs=self.inputs,
            unit_minutes=self.settings.unit_minutes,
            runtime=runtime,
        )
        deadline, is_done, may_start = time.monotonic() + self.settings.round_seconds, False, 0.0
        try:
            while True:
                now = time.monotonic()
                for ending in self._reap():
                    # One that is refused touches nothing; after any other end there may be something left to do.
                    is_done = ending is Ending.DONE or (is_done and ending is Ending.REFUSED)
                    may_start = now + AGAIN_SECONDS
                self._do_due(now)
                if is_done and not self.drivers:
                    break
                if not self.drivers and now >= may_start:
                    self._start()
                self.workers = list(self.nodes.workers())
                self._note_the_end(now)
                self._strike(now)
                self.watch.draw(self)
                if now > deadline:
                    raise ViolationError(
                        f"round {self.number} has not ended after {self.settings.round_seconds:g} s "
                        f"and {self._starts} starts of the driver"
                    )
                time.sleep(TICK_SECONDS)
            for _, action in self._later:  # the next round begins with whole nodes
                action()
        finally:
            for driver in self.drivers:
                driver.end()

    def _start(self) -> None:
        if self._starts >= MAX_STARTS:
            raise ViolationError(f"round {self.number}: the job has not ended after {MAX_STARTS} starts")
        self._starts += 1
        self.seen.starts += 1
        driver = Driver(self.folder / "job.yaml", log=self.folder / f"driver-{self._starts}.log")
        self.drivers.append(driver)
        self._companions[driver.pid] = len(self.drivers) > 1
        for other in self.drivers[:-1]:
            self._companions[other.pid] = True
        self._last = time.monotonic()
        self.watch.say(f"driver {driver.pid} started" + (" beside another one" if len(self.drivers) > 1 else ""))

    def _reap(self) -> list[Ending]:
        endings = []
        for driver in [*self.drivers]:
            if driver.poll() is None:
                if driver.blow == signal.SIGTERM and time.monotonic() - driver.struck_at > DRAIN_SECONDS:
                    raise ViolationError(f"driver {driver.pid} still runs {DRAIN_SECONDS:g} s after SIGTERM")
                continue
            self.drivers.remove(driver)
            ending = driver.ending()
            if (
                ending is Ending.REFUSED
                and not self._companions[driver.pid]
                and "taking over" not in str(driver.said())
            ):
                raise ViolationError(f"a dead run's lease kept driver {driver.pid} out: {driver.said()[-1]}")
            if ending is Ending.STOPPED and driver.was_at_work:
                self.seen.drain_seconds.append(time.monotonic() - driver.struck_at)
            self.seen.endings[ending.value] += 1
            endings.append(ending)
            why = f": {driver.said()[-1]}" if ending in (Ending.GAVE_UP, Ending.REFUSED) else ""
            self.watch.say(f"driver {driver.pid} ended: {ending.value}{why}")
        return endings

    def _do_due(self, now: float) -> None:
        for entry in [*self._later]:
            if entry[0] <= now:
                self._later.remove(entry)
                entry[1]()

    def _note_the_end(self, now: float) -> None:
        committed, planned = self.watch.units()
        if self._ended_at is None and planned is not None and committed >= planned:
            self._ended_at = now

    def _strike(self, now: float) -> None:
        """Do what comes next if its moment has come."""
        if not self.waiting or not self.drivers or any(driver.blow is not None for driver in self.drivers):
            return
        late = [one for one in self.waiting if one.moment is Moment.END and self._ended_at is not None]
        one = (late or self.waiting)[0]
        if not self._has_come(one, now) or not self._hit(one):
            return
        self.waiting.remove(one)
        self.seen.blows[one.blow] += 1
        self._last = time.monotonic()

    def _has_come(self, one: Planned, now: float) -> bool:
        driver = self.drivers[0]
        if driver.frozen:
            return False
        match one.moment:
            case Moment.START:
                return now - driver.started >= one.pause_seconds
            case Moment.WORK:
                return bool(self._encoders()) and driver.is_listening and now - self._last >= one.pause_seconds
            case Moment.END:
                return self._ended_at is not None and now - self._ended_at >= one.pause_seconds

    def _hit(self, one: Planned) -> bool:
        """Strike; False where there is nobody to strike now."""
        driver = self.drivers[0]
        match one.blow:
            case Blow.ENCODER | Blow.DECODER | Blow.FROZEN_ENCODER:
                victims = self._decoders() if one.blow is Blow.DECODER else self._encoders()
                if not victims:
                    return False
                self._hit_worker(one, victims[int(one.luck * len(victims))])
            case Blow.RAYLET:
                place = int(one.luck * self.nodes.num_workers)
                self._kill_node(place)
            case Blow.DRIVER:
                driver.strike(signal.SIGKILL)
                self.watch.say(f"SIGKILL: driver {driver.pid}, {one.moment.value} of its run")
            case Blow.STOP:
                if not driver.is_listening:
                    return False
                driver.strike(signal.SIGTERM, at_work=one.moment is Moment.WORK)
                self.watch.say(f"SIGTERM: driver {driver.pid}, {one.moment.value} of its run")
            case Blow.SECOND_DRIVER:
                self._start()
            case Blow.FROZEN_DRIVER:
                driver.freeze()
                self.watch.say(f"SIGSTOP: driver {driver.pid} for {one.frozen_seconds:.1f} s")
                self._later.append((time.monotonic() + one.frozen_seconds, driver.thaw))
        return True

    def _hit_worker(self, one: Planned, victim: Worker) -> None:
        what = f"{victim.title} ({victim.pid}) on {victim.node}"
        if one.blow is not Blow.FROZEN_ENCODER:
            self.watch.say(f"SIGKILL: {what}")
            with suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
            return
        self.watch.say(f"SIGSTOP: {what} for {one.frozen_seconds:.1f} s")
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGSTOP)
        self._later.append((time.monotonic() + one.frozen_seconds, lambda: _thaw(victim.pid)))

    def _kill_node(self, place: int) -> None:
        name, pid = self.nodes.kill_worker_node(place)
        self.watch.say(f"SIGKILL: raylet {pid} of {name}")

        def replace() -> None:
            self.seen.nodes_replaced += 1
            self.watch.say(f"{self.nodes.add_worker_node()} joins")

        self._later.append((time.monotonic() + self._chance.uniform(*REPLACE_SECONDS), replace))

    def _encoders(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.encodes]

    def _decoders(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.decodes]


def _thaw(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
