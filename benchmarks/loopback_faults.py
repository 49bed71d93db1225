"""What the loopback store does wrong on purpose: seeded, counted by kind, and changed while it runs.

A fault is drawn for each request by itself: an error instead of an answer, a connection cut before or after the work
was done, an answer that comes late. `rules` plan one instead: the next requests of a kind whose key holds a word.
"""

import random
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["CALM", "FaultRates", "Faults", "Planned"]

KINDS = (
    *("slow_down", "internal_error", "internal_error_after", "cut_before", "cut_after", "cut_within"),
    *("late_before", "late_after", "conflict", "forbidden"),
)
"""`slow_down` (503) and `internal_error` (500) leave the work undone, `internal_error_after` does it and says 500.
A connection ends before the work (`cut_before`), after it without a word (`cut_after`), or with half of the answer
(`cut_within`). `late_before` does the work late and answers then, `late_after` works in time and answers late.
`conflict` (409) is what S3 says while it cannot decide which of two conditional writes was first, `forbidden` (403) of
what the asker may not see; only planned ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRates:
    """Shares of requests, and the two habits of some stores."""

    errors: float = 0.0
    """Answered by 503 SlowDown (half of them), 500 before the work or 500 after it (a quarter each)."""
    cuts: float = 0.0
    """Connection cut: half of them before the work, the others after it or within the answer."""
    late: float = 0.0
    """Answered `late_ms` later: half of them with the work done in time."""
    late_ms: float = 300.0
    stale_seconds: float = 0.0
    """How long a listing does not know what was written or removed; 0 as S3 has been since 2020."""
    unconditional: bool = False
    """Ignore `If-None-Match` and overwrite without a word, as some stores that speak S3 do."""

    def __post_init__(self) -> None:
        shares = (self.errors, self.cuts, self.late)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"errors, cuts, late = {shares}; expected shares of requests that sum to 1 at most")


CALM = FaultRates()


@dataclass(slots=True, kw_only=True)
class Planned:
    """A fault for the next `times` requests of a method whose key holds a word, after the first `let` of them."""

    fault: str
    method: str
    key: str = ""
    times: int = 1
    let: int = 0

    def __post_init__(self) -> None:
        if self.fault not in KINDS:
            raise ValueError(f"fault {self.fault!r} is not known; choose one of {', '.join(KINDS)}")


@dataclass(slots=True, kw_only=True)
class Faults:
    """Draws the fault of each request, and counts what was drawn."""

    rates: FaultRates = CALM
    seed: int = 0
    rules: list[Planned] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    """Faults by kind; `stale_listing` and `overwritten` are counted by the store."""
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self, method: str, name: str) -> str | None:
        """The fault of one request (one of `KINDS`), or None; counted."""
        fault = self._planned(method, name) or self._drawn()
        if fault is not None:
            self.count(fault)
        return fault

    def count(self, kind: str) -> None:
        """Count what went wrong once more."""
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def change(self, wanted: dict[str, Any]) -> None:
        """Take other rates, `seed` and `rules` from now on; rates that are not named become those of a calm store.

        Raises:
            TypeError, ValueError, KeyError: an unknown name or an impossible value; nothing is changed then.
        """
        named = {rate.name for rate in fields(FaultRates)}
        unknown = set(wanted) - named - {"seed", "rules"}
        if unknown:
            raise ValueError(f"{sorted(unknown)} are not known; expected some of {sorted(named)}, seed, rules")
        rules = [Planned(**rule) for rule in wanted.get("rules", [])]
        self.rates = FaultRates(**{name: value for name, value in wanted.items() if name in named})
        self.rules = rules
        if "seed" in wanted:
            self.seed, self._random = wanted["seed"], random.Random(wanted["seed"])

    def facts(self) -> dict[str, Any]:
        """Rates, seed and counts, to be shown as JSON."""
        return {"rates": asdict(self.rates), "seed": self.seed, "faults": self.counts}

    def _planned(self, method: str, name: str) -> str | None:
        for rule in self.rules:
            if rule.times <= 0 or rule.method != method or rule.key not in name:
                continue
            if rule.let > 0:
                rule.let -= 1
                continue
            rule.times -= 1
            return rule.fault
        return None

    def _drawn(self) -> str | None:
        rates = self.rates
        # Two numbers for every request, whatever the rates: the n-th request meets the same luck under other rates.
        place, form = self._random.random(), self._random.random()
        if place < rates.errors:
            return "slow_down" if form < 0.5 else "internal_error" if form < 0.75 else "internal_error_after"
        if place < rates.errors + rates.cuts:
            return "cut_before" if form < 0.5 else "cut_after" if form < 0.75 else "cut_within"
        if place < rates.errors + rates.cuts + rates.late:
            return "late_before" if form < 0.5 else "late_after"
        return None
