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
    by_filters = f", {count(counts.filtered)} of them by filters" if counts.filtered else ""
    note = f"{count_text(counts.rejects, 'item')} of {count(counts.items)} without a row{by_filters}."
    return section(
        "rejects",
        "Rejects",
        tag("p", note, class_="note"),
        table(("reason", "stage", "items", "of all items"), rows, numbers=(2, 3)),
        tag("h3", "Examples"),
        *(_examples(reason, is_open=reason is reasons[0]) for reason in reasons if reason.examples),
    )


def _examples(reason: ReasonShown, *, is_open: bool) -> Markup:
    rows = [
        (
            tag("bdi", tag("code", example.id)),
            tag("span", example.message, class_="message"),
            tag("bdi", tag("code", example.source_uri)),
        )
        for example in reason.examples
    ]
    whole = len(reason.examples) == reason.items
    some = count(reason.items) if whole else f"{len(reason.examples)} of {count(reason.items)}"
    shown = table(("id", "message", "source"), rows)
    return tag("details", tag("summary", f"{reason.reason}: {some}"), shown, open="open" if is_open else None)
