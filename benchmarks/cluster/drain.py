"""SIGTERM with units in flight: how soon the run ends, what it leaves, and what the next run makes of it.

Twice: units that end within the grace period, and units that hang and are abandoned when it is over.
"""

import time
from dataclasses import dataclass, replace

from benchmarks.cluster.bars import Bar, Found
from benchmarks.cluster.driver import Setting
from benchmarks.cluster.inputs import made_up
from benchmarks.cluster.processes import Driver, work_folder
from tokenizer_jobs.commits import committed_unit_ids, read_commits
from tokenizer_jobs.planning import list_generations
from tokenizer_jobs.storage import STAGING_FOLDER, Storage

__all__ = ["Drained", "drain", "measure"]

MOST_SECONDS = 30.0
END_SECONDS = 5.0
"""After the grace period, for encoders and Ray to be ended."""
STOPPED = 75
HANGING_ITEMS = 1000
"""Of a unit that hangs: four calls of the codec, and after the third the first rows are in a staged file."""
HANGING_CALLS = 7
"""Of each encoder before it hangs: its first unit has ended by then, and the next one has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """A run that was asked to stop, and the next one."""

    seconds: float
    """From SIGTERM to the end of the process."""
    exit_code: int
    units: int
    """Committed when it ended."""
    orphans: int
    """Shards that no commit names, when it ended."""
    staged: int
    """Files under temporary names, when it ended."""
    staged_after: int
    """And after the next run, which did the rest."""
    redone: int
    """Units of the next run that had a commit already."""
    next_exit_code: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing was half done, lost or done again."""
        left = (self.exit_code, self.orphans, self.staged_after, self.redone, self.next_exit_code)
        return left == (STOPPED, 0, 0, 0, 0)


def drain(
    *,
    encoders: int,
    unit_seconds: float,
    num_units: int,
    grace_seconds: float = MOST_SECONDS,
    hangs: bool = False,
    ray_address: str | None = None,
) -> Drained:
    """Stop a run, look at what it left, and let another one, whose encoders take no time, do the rest.

    Args:
        encoders: At work.
        unit_seconds: That a device is busy with a unit.
        num_units: Of the job, about.
        grace_seconds: Of the run.
        hangs: Whether each encoder hangs in its second unit.
        ray_address: Of a cluster; None: a private one.
    """
    source, unit_minutes = made_up(num_units, **({"items": HANGING_ITEMS} if hangs else {}))
    with work_folder() as folder:
        setting = Setting(
            output=str(folder / "out"),
            source=source,
            unit_minutes=unit_minutes,
            encoders=encoders,
            unit_seconds=unit_seconds,
            stuck_after=HANGING_CALLS if hangs else None,
            grace_seconds=grace_seconds,
            ray_address=ray_address,
        )
        seconds, exit_code = _stop(setting)
        storage = Storage.at(setting.output)
        done, orphans, staged = _committed(storage), _orphans(storage), len(storage.list(STAGING_FOLDER))
        with Driver(replace(setting, unit_seconds=0.0, stuck_after=None)) as following:
            again = following.run_to_end()
            next_exit_code = following.wait()
        assert following.ended is not None
        return Drained(
            seconds=seconds,
            exit_code=exit_code,
            units=len(done),
            orphans=orphans,
            staged=staged,
            staged_after=len(storage.list(STAGING_FOLDER)),
            redone=len(again) + len(done) - following.ended.units,
            next_exit_code=next_exit_code,
        )


def _stop(setting: Setting) -> tuple[float, int]:
    """Ask a run to stop once each encoder has ended a unit; the seconds that it took to end, and its exit code."""
    at_work = set[str]()
    with Driver(setting) as driver:
        for unit in driver.units():
            at_work.add(unit.encoder)
            if len(at_work) == setting.encoders:
                break
        else:
            raise SystemExit(f"the run ended when {len(at_work)} of {setting.encoders} encoders had; take more units")
        time.sleep(1.0)  # into the units that follow
        asked = time.monotonic()
        driver.stop()
        exit_code = driver.wait()
        return time.monotonic() - asked, exit_code


def _committed(storage: Storage) -> frozenset[str]:
    generations = list_generations(storage)
    return frozenset(unit for generation in generations for unit in committed_unit_ids(storage, generation))


def _orphans(storage: Storage) -> int:
    named = {
        file.path
        for generation in list_generations(storage)
        for commit in read_commits(storage, generation)
        for file in commit.files
    }
    return sum(file.path not in named for file in storage.list("codes"))


def measure(*, encoders: int, unit_seconds: float) -> Found:
    """Both ways to stop."""
    graceful = drain(encoders=encoders, unit_seconds=unit_seconds, num_units=6 * encoders)
    print(graceful, flush=True)
    hanging = drain(encoders=encoders, unit_seconds=0.5, num_units=3 * encoders, hangs=True)
    print(hanging, flush=True)
    rows = [
        (
            name,
            f"**{one.seconds:.1f}**",
            f"{one.exit_code}",
            f"{one.units}",
            f"{one.orphans}",
            f"{one.staged}",
            f"{one.staged_after}",
            f"{one.redone}",
            f"{one.next_exit_code}",
        )
        for name, one in (
            (f"{unit_seconds:g} s each, two in hand", graceful),
            (f"hang; grace of {MOST_SECONDS:g} s", hanging),
        )
    ]
    return Found(
        title="Drain",
        about=(
            f"SIGTERM to a run of {encoders} encoders on a private Ray, each with units in hand; the next run does the "
            "rest. Seconds from the signal to the end of the process. Orphans: shards that no commit names; staged: "
            "files under temporary names, when the run had ended and after the next one. Redone: units with a commit "
            "that the next run did again."
        ),
        columns=("Units", "Seconds", "Exit", "Committed", "Orphans", "Staged", "after the next", "Redone", "Next exit"),
        rows=tuple(rows),
        bars=(
            _bar(graceful, f"units in flight are committed and the run ends within {MOST_SECONDS:g} s", MOST_SECONDS),
            _bar(
                hanging,
                f"hanging units are abandoned and the run ends within {END_SECONDS:g} s of the grace period",
                MOST_SECONDS + END_SECONDS,
            ),
        ),
    )


def _bar(drained: Drained, promise: str, most_seconds: float) -> Bar:
    state = "whole" if drained.is_whole else "NOT whole"
    return Bar(
        promise=f"{promise}, nothing half done",
        found=f"{drained.seconds:.1f} s, {state}",
        is_kept=drained.is_whole and drained.seconds <= most_seconds,
    )
