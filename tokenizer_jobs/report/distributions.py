"""Distributions of the rows' columns, in bins that are fixed beforehand, so that memory does not grow with the rows."""

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from tokenizer_jobs.commit_records import StoredRecord

__all__ = ["ROW_MEASURES", "Category", "CategoryCounter", "Histogram", "HistogramCounter"]

MOST_NAMES = 1000
"""Different values of a column that are told apart."""
OTHER = "(other)"

_FRACTIONS = (0.0, 1e-9, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)

ROW_MEASURES: dict[str, tuple[float, ...]] = {
    "duration_seconds": tuple((10.0 ** np.arange(-2, 6.01, 1 / 16)).tolist()),
    "rms_db": tuple(np.arange(-100.0, 10.1, 2.0).tolist()),
    "peak": tuple(np.round(np.arange(0.0, 1.21, 0.05), 2).tolist()),
    "silent_fraction": tuple(np.round(np.arange(0.0, 1.01, 0.05), 2).tolist()),
    "clipped_fraction": _FRACTIONS,
}
"""Columns that are measured, with the edges of their bins."""


class Histogram(StoredRecord):
    """How the values of a column are spread."""

    values: int
    """Finite ones."""
    absent: int
    """Null, or not finite: rms_db of digital silence is minus infinity."""
    minimum: float | None
    maximum: float | None
    mean: float | None
    quantiles: dict[str, float]
    """p05, p50 and p95, by interpolation within bins; empty without values."""
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    """One for each two edges that follow one another; a bin holds its lower edge, the last one its upper edge too.
    What lies outside of all edges is in the bin next to it."""


class Category(StoredRecord):
    """One value of a column that names kinds."""

    rows: int
    hours: float


class HistogramCounter:
    """Counts values of one column.

    Args:
        edges: Of the bins, ascending.
    """

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = np.array(edges)
        self._counts = np.zeros(len(edges) - 1, dtype=np.int64)
        self._absent = 0
        self._sum = 0.0
        self._least, self._most = math.inf, -math.inf

    def add(self, column: pa.Array) -> None:
        """Count a column of numbers."""
        values = column.drop_null().to_numpy(zero_copy_only=False).astype(np.float64)
        values = values[np.isfinite(values)]
        self._absent += len(column) - len(values)
        if not len(values):
            return
        bins = np.clip(np.searchsorted(self._edges, values, side="right") - 1, 0, len(self._counts) - 1)
        self._counts += np.bincount(bins, minlength=len(self._counts))
        self._sum += math.fsum(values)
        self._least = min(self._least, float(values.min()))
        self._most = max(self._most, float(values.max()))

    def histogram(self) -> Histogram:
        """What was counted."""
        total = int(self._counts.sum())
        return Histogram(
            values=total,
            absent=self._absent,
            minimum=self._least if total else None,
            maximum=self._most if total else None,
            mean=self._sum / total if total else None,
            quantiles={f"p{share:02d}": self._quantile(share / 100) for share in (5, 50, 95)} if total else {},
            edges=tuple(self._edges.tolist()),
            counts=tuple(self._counts.tolist()),
        )

    def _quantile(self, share: float) -> float:
        sums = np.concatenate([[0], np.cumsum(self._counts)])
        place = share * sums[-1]
        value = float(np.interp(place, sums, self._edges))
        return min(max(value, self._least), self._most)


class CategoryCounter:
    """Counts rows and hours by the values of one column."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def add(self, column: pa.Array, *, seconds: pa.Array) -> None:
        """Count a column, together with the duration of each row."""
        grouped = pa.table({"name": column, "seconds": seconds}).group_by("name", use_threads=False)
        sums = grouped.aggregate([("seconds", "count"), ("seconds", "sum")]).to_pydict()
        for name, rows, total in zip(sums["name"], sums["seconds_count"], sums["seconds_sum"], strict=True):
            key = self._key(name)
            self._rows[key] += rows
            self._seconds[key] += total or 0.0

    def categories(self) -> dict[str, Category]:
        """What was counted, the most frequent first."""
        ordered = sorted(self._rows, key=lambda name: (-self._rows[name], name))
        return {name: Category(rows=self._rows[name], hours=self._seconds[name] / 3600) for name in ordered}

    def _key(self, name: Any) -> str:
        key = "unknown" if name is None else str(name)
        return key if key in self._rows or len(self._rows) < MOST_NAMES else OTHER
