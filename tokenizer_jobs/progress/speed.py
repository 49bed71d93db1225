"""How fast a run is, and how long it will take."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizer_jobs.results import Progress

__all__ = ["Pace"]


class Pace:
    """Speed since the units of a plan began: what an earlier run committed is no speed of this one."""

    def __init__(self) -> None:
        self._first: Progress | None = None
        self._latest: Progress | None = None

    def observe(self, progress: "Progress") -> None:
        """Take in where the run is."""
        latest = self._latest
        is_other_plan = (
            latest is None or progress.units != latest.units or progress.units_committed < latest.units_committed
        )
        if self._first is None or is_other_plan or progress.units_committed == self._first.units_committed:
            self._first = progress  # what comes before the first unit, loading, is no work either
        self._latest = progress

    @property
    def speed(self) -> float | None:
        """Hours of audio per hour; None before anything was done."""
        if self._first is None or self._latest is None:
            return None
        hours = self._latest.hours_done - self._first.hours_done
        seconds = self._latest.elapsed_seconds - self._first.elapsed_seconds
        return hours * 3600 / seconds if hours > 0 and seconds > 0 else None

    @property
    def eta_seconds(self) -> float | None:
        """Time until all planned audio is done; None while the speed is not known."""
        speed = self.speed
        if speed is None or self._latest is None:
            return None
        return max(0.0, self._latest.hours_total - self._latest.hours_done) * 3600 / speed
