"""What the screens of several commands have in common: a table of facts, totals, rejects, inputs that were left."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tokenizer_jobs.wording import audio_text, bytes_text, count_text, counts_text

if TYPE_CHECKING:
    from tokenizer_jobs.results import OutputSummary

__all__ = ["Fact", "left_alone", "on_one_line", "rejects_text", "shortened", "such_as", "table", "totals"]

SHOWN = 5
"""Examples in a list of ids; the JSON form has all of them."""

Fact = tuple[str, str]
"""A name, and what is said of it."""


def table(facts: Iterable[Fact]) -> list[str]:
    """The facts as lines, their names in a column."""
    return [f"  {name:<10} {value}" for name, value in facts]


def totals(summary: "OutputSummary") -> list[Fact]:
    """The counts of an output."""
    dropped = f", {summary.dropped:,} dropped" if summary.dropped else ""
    return [
        ("rows", f"{summary.rows:,} of {count_text(summary.items, 'item')}{dropped}"),
        ("audio", audio_text(summary.hours)),
        ("size", bytes_text(summary.bytes)),
    ]


def rejects_text(count: int, by_reason: Mapping[str, int]) -> str:
    """How many rejects, and of what reasons."""
    return f"{count:,} ({counts_text(by_reason)})" if count else "0"


def left_alone(changed: int, changed_ids: Sequence[str], *, vanished: int, vanished_ids: Sequence[str]) -> list[Fact]:
    """What a run leaves as it is, of what is not as it was."""
    as_before = (
        f"{count_text(changed, 'input')} under a known id{such_as(changed_ids)}; their rows stay as they are, "
        "--replace tokenizes them anew"
    )
    kept = (
        f"{count_text(vanished, 'input')} that the source holds no more{such_as(vanished_ids)}; their rows stay "
        "until `drop`"
    )
    return [(n, text) for n, count, text in (("changed", changed, as_before), ("vanished", vanished, kept)) if count]


def such_as(ids: Sequence[str]) -> str:
    """The first ids as examples; empty where there are none."""
    return f", such as {', '.join(map(repr, ids[:2]))}" if ids else ""


def on_one_line(text: str) -> str:
    """An id as one line, whatever its file is called."""
    return text if text.isprintable() else repr(text)


def shortened(names: Sequence[str]) -> str:
    """The first names of a list."""
    return ", ".join(map(on_one_line, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
