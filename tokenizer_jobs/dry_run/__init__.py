"""The dry run: what a run would do, how long it would take and what it would cost; nothing is written."""

from tokenizer_jobs.dry_run.overview import plan
from tokenizer_jobs.dry_run.pricing import PriceList

__all__ = ["PriceList", "plan"]
