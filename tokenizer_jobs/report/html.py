"""The page: one file without network, script or font from anywhere else, whose own policy forbids all others."""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources

from tokenizer_jobs.report.card import PAGE_MARK
from tokenizer_jobs.report.facts import Provenance
from tokenizer_jobs.report.markup import Markup, joined, tag
from tokenizer_jobs.report.samples import Sample
from tokenizer_jobs.report.sections import (
    codes_section,
    overview_section,
    provenance_section,
    rejects_section,
    rows_section,
    samples_section,
    work_section,
)
from tokenizer_jobs.report.statistics import Statistics

__all__ = ["page"]

_CONTENTS = {
    "overview": "Overview",
    "work": "Work",
    "audio": "Audio",
    "codes": "Codes",
    "rejects": "Rejects",
    "samples": "Samples",
    "provenance": "Provenance",
}
_STATES = {"running": "running", "stopped": "not finished", "done": "done", "empty": "nothing planned"}


def page(
    statistics: Statistics, *, name: str, samples: Sequence[Sample] = (), notes: Sequence[str] = (), asked: int = 0
) -> str:
    """The whole page.

    Args:
        statistics: Measured: with provenance.
        name: Of the output, without credentials.
        samples: To listen to.
        notes: What kept samples from being made.
        asked: How many samples were asked for.
    """
    assert statistics.provenance is not None, "a page is of statistics that were measured"
    style, script = _resource("page.css"), _resource("page.js")
    state = statistics.counts.state
    unfinished = "" if state == "done" else f", {_STATES[state]}"
    title = f"{name.rstrip('/').rpartition('/')[2] or name} · audio codes{unfinished}"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="generator", content=PAGE_MARK),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", style),
    )
    main = tag(
        "main",
        overview_section(statistics),
        work_section(statistics.work),
        rows_section(statistics.content),
        codes_section(statistics.content, statistics.codec),
        rejects_section(statistics.rejects or (), statistics.counts),
        samples_section(samples, notes=notes, asked=asked),
        provenance_section(statistics.provenance, statistics.codec),
        id="content",
    )
    skip = tag("a", "Skip to the content", href="#content", class_="skip")
    body = tag(
        "body",
        skip,
        _header(statistics, name),
        _navigation(),
        main,
        _footer(statistics.provenance),
        tag("script", script),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _header(statistics: Statistics, name: str) -> Markup:
    state = statistics.counts.state
    button = tag("button", "Dark", id="theme", type="button", hidden="hidden")
    title = tag("h1", tag("bdi", name.rstrip("/").rpartition("/")[2] or name))
    line = tag("div", title, tag("span", _STATES[state], class_=f"state {state}"), button, class_="line")
    made = f"{statistics.codec.model} · made {statistics.made_at:%Y-%m-%d %H:%M:%S} UTC"
    snapshot = "" if statistics.snapshot is None else f" · snapshot {statistics.snapshot}"
    return tag("header", line, tag("p", tag("bdi", name), f" · {made}{snapshot}", class_="where"))


def _navigation() -> Markup:
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title in _CONTENTS.items()]
    return tag("nav", tag("ul", *links), aria_label="Contents")


def _footer(provenance: Provenance) -> Markup:
    version = provenance.generations[-1].package_version if provenance.generations else None
    by = "tokenizer-jobs report" if version is None else f"tokenizer-jobs report, codes by version {version}"
    return tag("footer", f"Made by {by}. This page needs no network, and nothing in it leaves this file.")


def _policy(style: Markup, script: Markup) -> str:
    """Nothing but this very style and script, and pictures and sound that are in the page itself."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'; img-src data:; "
        "media-src data:; base-uri 'none'; form-action 'none'"
    )


def _resource(name: str) -> Markup:
    """Our own text; neither holds what would end its element."""
    text = resources.files("tokenizer_jobs.report").joinpath(name).read_text(encoding="utf-8")
    assert "</" not in text, f"{name} would end its element"
    return joined([Markup("\n" + text)])
