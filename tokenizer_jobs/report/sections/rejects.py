"""Rejects by reason, with examples."""

from tokenizer_jobs.report.markup import Markup, count, percent, section, table, tag
from tokenizer_jobs.report.rejected import ReasonShown
from tokenizer_jobs.report.statistics import Counts
from tokenizer_jobs.wording import count_text

__all__ = ["rejects_section"]


def rejects_section(reasons: tuple[ReasonShown, ...], counts: Counts) -> Markup:
    """A line for each reason, and examples to open."""
    if not reasons:
        words = "Every item that was tried has its rows." if counts.units_committed else "No item was tried yet."
        return section("rejects", "Rejects", tag("p", words, class_="empty"))
    rows = [
        (reason.reason, reason.stage or "", count(reason.items), percent(reason.items / max(1, counts.items)))
        for reason in reasons
    ]
    note = f"{count_text(counts.rejects, 'item')} without a row, {count(counts.filtered)} of them by filters."
    return section(
        "rejects",
        "Rejects",
        tag("p", note, class_="note"),
        table(("reason", "stage", "items", "of the items"), rows, numbers=(2, 3)),
        *(_examples(reason) for reason in reasons if reason.examples),
    )


def _examples(reason: ReasonShown) -> Markup:
    rows = [
        (tag("bdi", tag("code", example.id)), example.message, tag("bdi", tag("code", example.source_uri)))
        for example in reason.examples
    ]
    shown = f"{reason.reason}: {len(reason.examples)} of {count(reason.items)}"
    return tag("details", tag("summary", shown), table(("id", "message", "source"), rows))
