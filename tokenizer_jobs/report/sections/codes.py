"""How codes are used: each codebook's entries, and what follows what in the first."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from tokenizer_jobs.report.codes import CodebookUse, Transitions
from tokenizer_jobs.report.drawing import Tick
from tokenizer_jobs.report.facts import CodecShown
from tokenizer_jobs.report.maps import heat_map, ranks
from tokenizer_jobs.report.markup import Markup, count, figure, joined, percent, section, table, tag
from tokenizer_jobs.report.plots import Bar, bars
from tokenizer_jobs.report.sections.rows import sampling_note
from tokenizer_jobs.report.statistics import Content
from tokenizer_jobs.wording import count_text

__all__ = ["codes_section"]

RANK_BARS = 50
STRONGEST_BITS = 4.0
"""Of a cell of the heat map: sixteen times as many, or as few, as by chance."""
SHOWN_CELLS = 12
"""Of the heat map, as a table."""
FEWEST_PAIRS = 10
"""Of a cell in that table."""


def codes_section(content: Content | None, codec: CodecShown) -> Markup:
    """Entropy and use by codebook, and the transitions of codebook 0."""
    if content is None or not content.codebooks:
        return section("codes", "Codes", tag("p", "There are no codes yet to be counted.", class_="empty"))
    entries = len(content.codebooks[0].counts)
    return section(
        "codes",
        "Codes",
        tag("p", f"{_rates(content, codec)} {sampling_note(content)}", class_="note"),
        _entropies(content.codebooks, entries=entries),
        tag("h3", "Entries by rank"),
        tag(
            "p",
            f"Each codebook's {count(entries)} entries, the most frequent first; heights are logarithmic.",
            class_="note",
        ),
        tag("div", *(_ranked(use, entries=entries) for use in content.codebooks), class_="grid-small"),
        _transitions(content.transitions),
    )


def _rates(content: Content, codec: CodecShown) -> str:
    if codec.frame_rate is None:
        return "How many frames there are in a second is not known, and so neither is any rate."
    words = [f"An ideal order-0 coder would need {content.ideal_kbps:.2f} kbps"]
    if codec.bandwidth_kbps is not None:
        words.append(f"the codes have {codec.bandwidth_kbps:g} kbps by their number and the size of the codebooks")
    if content.stored_kbps is not None:
        words.append(f"the shards take {content.stored_kbps:.2f} kbps, all columns included")
    return "; ".join(words) + "."


def _entropies(uses: tuple[CodebookUse, ...], *, entries: int) -> Markup:
    most = math.log2(entries) if entries > 1 else 1.0
    marks = [
        Bar(
            start=use.index,
            end=use.index + 0.82,
            value=use.entropy_bits,
            title=f"codebook {use.index}: {use.entropy_bits:.2f} bits, perplexity {use.perplexity:,.0f}, "
            f"{count_text(use.dead, 'dead entry') if use.dead == 1 else f'{use.dead:,} dead entries'}",
        )
        for use in uses
    ]
    plot = bars(
        marks,
        label="Entropy of a code in bits, by codebook",
        x_ticks=[Tick(use.index + 0.41, str(use.index)) for use in uses],
        x_label="codebook",
        y_text=lambda value: f"{value:g} bits",
        limit=Tick(most, f"{count(entries)} entries, used evenly: {most:g} bits"),
    )
    rows = [
        (
            use.index,
            f"{use.entropy_bits:.3f}",
            f"{use.perplexity:,.1f}",
            count(use.dead),
            f"{use.ideal_kbps:.3f}" if use.ideal_kbps or not use.entropy_bits else "unknown",
            percent(max(use.counts) / use.codes) if use.codes else "0 %",
            count(use.codes),
        )
        for use in uses
    ]
    heads = ("codebook", "entropy in bits", "perplexity", "dead entries", "ideal kbps", "most frequent entry", "codes")
    note = "Of a code taken by itself. The perplexity is how many entries, used evenly, would be as hard to guess."
    return joined([figure(plot, title="Entropy", note=note), table(heads, rows, numbers=range(7))])


def _ranked(use: CodebookUse, *, entries: int) -> Markup:
    ordered = np.sort(np.array(use.counts))[::-1]
    groups = np.array_split(ordered, min(RANK_BARS, len(ordered)))
    heights = [float(group.mean()) for group in groups]
    top = heights[0] or 1.0
    label = f"Codebook {use.index}: frequency of its entries by rank"
    told = f"codebook {use.index}: the most frequent entry {percent(ordered[0] / max(1, use.codes))} of the codes"
    return tag(
        "div",
        ranks([height / top for height in heights], label=label, title=told),
        tag("strong", f"Codebook {use.index}"),
        tag("span", f"{count(entries - use.dead)} used, {count(use.dead)} dead", class_="muted"),
    )


def _transitions(transitions: Transitions | None) -> Markup:
    title = "What follows what, in codebook 0"
    if transitions is None:
        words = "No pairs were counted: rows have a frame each, or the codebook is too large for a table of pairs."
        return joined([tag("h3", title), tag("p", words, class_="empty")])
    pairs = np.array(transitions.table, dtype=np.float64)
    # Squares of one size: entries of equal number on both sides, so that chance is in the sums of rows and columns.
    chance = np.outer(pairs.sum(axis=1), pairs.sum(axis=0)) / pairs.sum()
    times = np.divide(pairs, chance, out=np.ones_like(pairs), where=chance > 0)
    # One pair more on either side: a cell that a pair or two would have filled stays pale.
    cells = np.clip(np.log2((pairs + 1) / (chance + 1)) / STRONGEST_BITS, -1.0, 1.0)
    edges = transitions.rank_edges
    names = [f"{start + 1}" if end == start + 1 else f"{start + 1} to {end}" for start, end in pairwise(edges)]
    titles = [
        [
            f"rank {one}, then rank {other}: {pairs[i, j]:,.0f} pairs, {times[i, j]:,.2f} × chance"
            for j, other in enumerate(names)
        ]
        for i, one in enumerate(names)
    ]
    plot = heat_map(
        cells.tolist(),
        label="How much more often than by chance a code follows another, by their ranks",
        titles=titles,
        ticks=_rank_ticks(edges),
        x_label="the code after it, by rank",
        y_label="a code, by rank",
        legend=(f"{2**STRONGEST_BITS:g} × rarer", "as by chance", f"{2**STRONGEST_BITS:g} × more often"),
    )
    is_thin = transitions.pairs < 10 * edges[-1] ** 2
    few = "; there are fewer than ten pairs a cell of the full table, so that this is too low" if is_thin else ""
    note = (
        f"{count_text(transitions.pairs, 'pair')} of neighbours, by groups of ranks; rank 1 is the most frequent "
        f"entry. In {percent(transitions.repeat_share)} of the pairs it is the same code again. Knowing the code "
        f"before it, a code has {transitions.conditional_entropy_bits:.2f} bits{few}."
    )
    strongest = tag(
        "figure",
        tag("figcaption", tag("h3", "More often than by chance"), tag("p", _CELLS_NOTE, class_="note")),
        _strongest(pairs, times, names),
    )
    return tag("div", figure(plot, title=title, note=note), strongest, class_="pair")


_CELLS_NOTE = f"The cells farthest above chance, of those with {FEWEST_PAIRS} pairs or more."


def _rank_ticks(edges: Sequence[int]) -> list[tuple[int, str]]:
    last = len(edges) - 1
    places = sorted({0, round(last / 4), round(last / 2), round(3 * last / 4), last})
    return [(place, count(edges[place] or 1)) for place in places]


def _strongest(
    pairs: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    times: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    names: list[str],
) -> Markup:
    """The table beside the heat map: where it is strongest."""
    known = np.where(pairs >= FEWEST_PAIRS, times, 0.0)
    order = np.argsort(-known, axis=None, kind="stable")[:SHOWN_CELLS]
    rows = [
        (names[i], names[j], count(pairs[i, j]), f"{times[i, j]:,.1f} ×")
        for i, j in zip(*np.unravel_index(order, pairs.shape), strict=True)
        if known[i, j] > 1.0
    ]
    if not rows:
        return tag("p", "There is no such cell.", class_="empty")
    return table(("rank", "then rank", "pairs", "chance"), rows, numbers=(0, 1, 2, 3))
