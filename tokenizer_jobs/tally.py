"""Counts over the committed units of one generation, added to as units end."""

from collections.abc import Iterable
from typing import Any

from tokenizer_jobs.commits import Commit
from tokenizer_jobs.planning import PlanSummary

__all__ = ["Tally"]


class Tally:
    """How far one generation is.

    Args:
        plan: Of the generation.
        commits: Of its units that are done.
    """

    def __init__(self, plan: PlanSummary, commits: Iterable[Commit]) -> None:
        self.plan = plan
        self.unit_ids: set[str] = set()
        self.rows = self.rejects = self.filtered = 0
        self.seconds = 0.0
        for commit in commits:
            self.add(commit)

    def add(self, commit: Commit) -> None:
        """Count one more unit."""
        if commit.unit_id in self.unit_ids:
            return
        self.unit_ids.add(commit.unit_id)
        self.rows += commit.num_rows
        self.rejects += commit.num_rejects
        self.filtered += commit.num_filtered
        self.seconds += commit.audio_seconds

    def counts(self) -> dict[str, Any]:
        """How far it is, as fields of `Progress`."""
        return {
            "units": self.plan.num_units,
            "units_committed": len(self.unit_ids),
            "items": self.plan.num_items,
            "rows": self.rows,
            "rejects": self.rejects,
            "hours_done": self.seconds / 3600,
            "hours_total": self.plan.estimated_seconds / 3600,
        }

    @property
    def failures(self) -> int:
        """Rejects that no filter asked for."""
        return self.rejects - self.filtered
