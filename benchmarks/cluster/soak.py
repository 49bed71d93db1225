"""Half an hour and more of work with failures: what driver and encoders hold must not grow.

Encoders whose devices take half a second a unit, real decode tasks, an output on a loopback S3 whose requests fail at
random, and every so often an encoder is killed; one of them is left alone, so that there is one that lives through all
of it. Every ten seconds each process is looked at.
"""

import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.cluster.bars import Bar, Found, slope_per_hour
from benchmarks.cluster.driver import Setting, UnitEnded
from benchmarks.cluster.inputs import recordings
from benchmarks.cluster.processes import Driver, Held, held_by, is_encoder, store, work_folder

__all__ = ["Life", "Soaked", "measure", "soak"]

WARM_UP_SHARE = 0.2
"""Of the time, which slopes leave out."""
MOST_GROWTH = 0.1
"""Of memory, from the end of the warm-up, along the fitted line."""
MOST_MORE = 10
"""Files or threads."""
LEAST_SAMPLES = 6
"""Of a process that is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One process over the time that it was there, as seconds since the start of the soak and what it held."""

    name: str
    samples: tuple[tuple[float, Held], ...]

    @property
    def hours(self) -> float:
        """From the first look to the last."""
        return (self.samples[-1][0] - self.samples[0][0]) / 3600

    @property
    def slope(self) -> float:
        """Megabytes an hour."""
        return slope_per_hour([(at, held.megabytes) for at, held in self.samples])

    @property
    def peak_megabytes(self) -> float:
        """At any look."""
        return max(held.megabytes for _, held in self.samples)

    @property
    def growth(self) -> float:
        """Along the fitted line, of its mean."""
        mean = sum(held.megabytes for _, held in self.samples) / len(self.samples)
        return self.slope * self.hours / mean

    def more(self, name: str) -> int:
        """Files or threads in the last quarter beyond the most of the first one."""
        values = [getattr(held, name) for _, held in self.samples]
        quarter = max(1, len(values) // 4)
        return int(min(values[-quarter:])) - int(max(values[:quarter]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Soaked:
    """A soak."""

    seconds: float
    units: int
    redone: int
    """Units with more than one attempt."""
    kills: int
    exit_code: int
    drain_seconds: float
    driver: Life
    encoders: tuple[Life, ...]
    """Those that were looked at often enough."""


def soak(
    *,
    seconds: float,
    encoders: int,
    unit_seconds: float,
    kill_every: float,
    sample_every: float,
    output: str | None,
    faults: dict[str, float],
    ray_address: str | None = None,
    seed: int = 0,
) -> Soaked:
    """Let a run work for so long, kill encoders now and then, look at everybody, and stop it.

    Args:
        seconds: Of work, from the first unit.
        encoders: At work.
        unit_seconds: That a device is busy with a unit.
        kill_every: Seconds between kills, on average.
        sample_every: Seconds between looks.
        output: `s3://...` on a loopback server; None: a local folder.
        faults: Of that server.
        ray_address: Of a cluster; None: a private one.
        seed: Of the kills.
    """
    generator = random.Random(seed)
    with work_folder() as folder, store(**(faults if output else {})) as environment:
        num_units = round(1.2 * (seconds + 30) * encoders / unit_seconds)
        source, unit_minutes = recordings(folder / "inputs", num_files=num_units)
        setting = Setting(
            output=output or str(folder / "out"),
            source=source,
            unit_minutes=unit_minutes,
            encoders=encoders,
            unit_seconds=unit_seconds,
            decodes=True,
            ray_address=ray_address,
        )
        with Driver(setting, environment=environment) as driver:
            watch = _Watch(driver, generator=generator, kill_every=kill_every, sample_every=sample_every)
            watch.go_on(seconds)
            if driver.ended is not None:
                raise SystemExit(f"there were too few units: the job was done after {watch.seconds:.0f} s")
            asked = time.monotonic()
            driver.stop()
            rest = driver.run_to_end()
            exit_code = driver.wait()
            drained = time.monotonic() - asked
        return Soaked(
            seconds=watch.seconds,
            units=watch.units + len(rest),
            redone=watch.redone + sum(unit.attempt > 1 for unit in rest),
            kills=watch.kills,
            exit_code=exit_code,
            drain_seconds=drained,
            driver=_settled(watch.samples[driver.pid], name="driver", since=WARM_UP_SHARE * watch.seconds),
            encoders=tuple(
                _settled(samples, name=watch.names[pid], since=samples[0][0] + 2 * sample_every)
                for pid, samples in watch.samples.items()
                if pid != driver.pid and len(samples) >= LEAST_SAMPLES
            ),
        )


class _Watch:
    """Listens to a run, kills and looks, each when it is due."""

    def __init__(self, driver: Driver, *, generator: random.Random, kill_every: float, sample_every: float) -> None:
        self._driver = driver
        self._generator = generator
        self._kill_every = kill_every
        self._sample_every = sample_every
        self._alive: dict[str, int] = {}
        """Processes of encoders by their names' stems: one that comes after another has its place."""
        self.names: dict[int, str] = {}
        self.samples: dict[int, list[tuple[float, Held]]] = {driver.pid: []}
        self.units = self.redone = self.kills = 0
        self.seconds = 0.0

    def go_on(self, seconds: float) -> None:
        """Until so long after the first unit, or until there are none left."""
        self._take_first()
        started = time.monotonic()
        next_look, next_kill = 0.0, self._pause()
        while self.seconds < seconds:
            until = min(next_look, next_kill, seconds)
            self._listen(max(0.05, until - self.seconds))
            self.seconds = time.monotonic() - started
            if self.seconds >= next_look:
                self._look()
                next_look += self._sample_every
            if self.seconds >= next_kill:
                self._kill()
                next_kill = self.seconds + self._pause()
            if self._driver.ended is not None:
                return

    def _take_first(self) -> None:
        for unit in self._driver.units():
            self._note(unit)
            return
        raise SystemExit("the run ended without a unit")

    def _listen(self, seconds: float) -> None:
        for unit in self._driver.units(seconds=seconds):
            self._note(unit)

    def _note(self, unit: UnitEnded) -> None:
        self.units += 1
        self.redone += unit.attempt > 1
        self._alive[unit.encoder.partition(".")[0]] = unit.pid
        self.names[unit.pid] = unit.encoder

    def _look(self) -> None:
        for pid in (self._driver.pid, *self._alive.values()):
            if (held := held_by(pid)) is not None:
                self.samples.setdefault(pid, []).append((self.seconds, held))

    def _kill(self) -> None:
        """SIGKILL one of the encoders, never the first: it is to live for as long as the driver."""
        there = [pid for stem, pid in sorted(self._alive.items())[1:] if is_encoder(pid)]
        if there:
            os.kill(self._generator.choice(there), signal.SIGKILL)
            self.kills += 1

    def _pause(self) -> float:
        return self._kill_every * self._generator.uniform(0.5, 1.5)


def _settled(samples: Sequence[tuple[float, Held]], *, name: str, since: float) -> Life:
    """A life without its warm-up."""
    later = [sample for sample in samples if sample[0] >= since]
    return Life(name=name, samples=tuple(later if len(later) > 1 else samples))


def measure(*, minutes: float, encoders: int, unit_seconds: float) -> Found:
    """Soak, and hold slopes and peaks against the bars."""
    found = soak(
        seconds=60 * minutes,
        encoders=encoders,
        unit_seconds=unit_seconds,
        kill_every=45.0,
        sample_every=10.0,
        output="s3://bucket/out",
        faults={"errors": 0.05, "cuts": 0.01, "late": 0.05, "late_ms": 300.0, "seed": 1},
    )
    longest = max(found.encoders, key=lambda life: life.hours)
    others = [life for life in found.encoders if life is not longest]
    rows = [_row(found.driver), _row(longest)]
    if others:
        peak = max(others, key=lambda life: life.peak_megabytes)
        rows.append((f"{len(others)} others, the largest of them", *_row(peak)[1:]))
    about = (
        f"{found.seconds / 60:.0f} minutes, {encoders} encoders whose devices take {unit_seconds:g} s a unit, real "
        "decode tasks, an output on the loopback S3 with 5 % errors, 1 % cut connections and 5 % late by 300 ms; "
        f"{found.kills} encoders killed at random, the first one spared. {found.units:,} units, {found.redone} of them "
        f"with more than one attempt; SIGTERM at the end: exit {found.exit_code} after {found.drain_seconds:.1f} s. "
        "Looked at every 10 s; slopes by least squares without the warm-up (a fifth of the driver's time, 20 s of an "
        "encoder's). More files, threads: in the last quarter beyond the most of the first."
    )
    return Found(
        title="Soak",
        about=about,
        columns=("Process", "Hours", "Peak MB", "MB an hour", "Growth", "Files", "more", "Threads", "more"),
        rows=tuple(rows),
        bars=tuple(_flat(life) for life in (found.driver, longest)),
    )


def _row(life: Life) -> tuple[str, ...]:
    last = life.samples[-1][1]
    return (
        life.name,
        f"{life.hours:.2f}",
        f"{life.peak_megabytes:.0f}",
        f"**{life.slope:+.1f}**",
        f"{life.growth:+.1%}",
        f"{last.files}",
        f"{life.more('files')}",
        f"{last.threads}",
        f"{life.more('threads')}",
    )


def _flat(life: Life) -> Bar:
    more = max(life.more("files"), life.more("threads"))
    return Bar(
        promise=f"{life.name}: memory grows by less than {MOST_GROWTH:.0%}, files and threads by at most {MOST_MORE}",
        found=f"{life.slope:+.1f} MB an hour, {life.growth:+.1%} in {life.hours:.2f} hours; {more} more",
        is_kept=life.growth < MOST_GROWTH and more <= MOST_MORE,
    )
