"""The dry run: what a run would do, how long it would take and what it would cost; nothing is written."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer_jobs.dry_run.overview import plan
    from tokenizer_jobs.dry_run.pricing import PriceList

__all__ = ["PriceList", "plan"]

# Imported on first use: a calibration's decode workers import `sampling` from here, and torch would take them seconds.
_HOMES = {"PriceList": "tokenizer_jobs.dry_run.pricing", "plan": "tokenizer_jobs.dry_run.overview"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
