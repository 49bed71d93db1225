"""What an output is, for people: statistics in one pass over its shards, a page that shows them, a card beside them."""

from tokenizer_jobs.report.card import publish_card
from tokenizer_jobs.report.making import ReportResult, make_report
from tokenizer_jobs.report.statistics import Statistics, measure

__all__ = ["ReportResult", "Statistics", "make_report", "measure", "publish_card"]
