"""How codes are used: each codebook's entries, and what follows what in the first."""

import math
from itertools import pairwise

import numpy as np

from tokenizer_jobs.report.codes import CodebookUse, Transitions
from tokenizer_jobs.report.facts import CodecShown
from tokenizer_jobs.report.markup import Markup, count, figure, joined, percent, section, short, table, tag
from tokenizer_jobs.report.plots import Bar, Tick, bars, heat_map, ranks
from tokenizer_jobs.report.sections.rows import sampling_note
from tokenizer_jobs.report.statistics import Content
from tokenizer_jobs.wording import count_text

__all__ = ["codes_section"]

RANK_BARS = 50
STRONGEST_BITS = 4.0
"""Of a cell of the heat map: sixteen times as many, or as few, as by chance."""


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
        tag("p", "Each codebook's entries, the most frequent first; heights are logarithmic.", class_="note"),
        tag("div", *(_ranked(use) for use in content.codebooks), class_="grid-small"),
        _transitions(content.transitions),
    )


def _rates(content: Content, codec: CodecShown) -> str:
    words = [f"An ideal order-0 coder would need {content.ideal_kbps:.2f} kbps"]
    if codec.bandwidth_kbps is not None:
        words.append(f"the codes have {codec.bandwidth_kbps:g} kbps by their number")
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
    step = max(1, -(-len(uses) // 16))
    plot = bars(
        marks,
        label="Entropy of a code in bits, by codebook",
        x_ticks=[Tick(use.index + 0.41, str(use.index)) for use in uses[::step]],
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
            f"{use.ideal_kbps:.3f}",
            percent(max(use.counts) / use.codes) if use.codes else "0 %",
            short(use.codes),
        )
        for use in uses
    ]
    heads = ("codebook", "entropy in bits", "perplexity", "dead entries", "ideal kbps", "most frequent entry", "codes")
    return joined([figure(plot, title="Entropy"), table(heads, rows, numbers=range(7))])


def _ranked(use: CodebookUse) -> Markup:
    ordered = np.sort(np.array(use.counts))[::-1]
    groups = np.array_split(ordered, min(RANK_BARS, len(ordered)))
    heights = [float(group.mean()) for group in groups]
    top = heights[0] or 1.0
    label = f"Codebook {use.index}: frequency of its entries by rank"
    told = f"codebook {use.index}: the most frequent entry {percent(ordered[0] / max(1, use.codes))} of the codes"
    dead = f", {count(use.dead)} dead" if use.dead else ""
    return tag(
        "div",
        ranks([height / top for height in heights], label=label, title=told),
        f"{use.index}",
        tag("span", f" · perplexity {use.perplexity:,.0f}{dead}", class_="muted"),
    )


def _transitions(transitions: Transitions | None) -> Markup:
    head = tag("h3", "What follows what, in codebook 0")
    if transitions is None:
        words = "No pairs were counted: rows have a frame each, or the codebook is too large for a table of pairs."
        return joined([head, tag("p", words, class_="empty")])
    pairs = np.array(transitions.table, dtype=np.float64)
    # Squares of one size: entries of equal number on both sides, so that chance is in the sums of rows and columns.
    chance = np.outer(pairs.sum(axis=1), pairs.sum(axis=0)) / pairs.sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where((pairs > 0) & (chance > 0), np.log2(pairs / chance), np.where(chance >= 1, -np.inf, 0.0))
    cells = np.clip(bits / STRONGEST_BITS, -1.0, 1.0)
    edges = transitions.rank_edges
    names = [
        f"rank {start + 1}" if end == start + 1 else f"ranks {start + 1} to {end}" for start, end in pairwise(edges)
    ]
    titles = [
        [f"{one}, then {other}: {pairs[i, j]:,.0f} pairs, {_times(bits[i, j])}" for j, other in enumerate(names)]
        for i, one in enumerate(names)
    ]
    plot = heat_map(
        cells.tolist(),
        label="How much more often than by chance a code follows another, by their ranks",
        titles=titles,
        x_label="the code after it, by rank",
        y_label="a code, by rank",
    )
    note = f"{short(transitions.pairs)} pairs; blue: more often than by chance, orange: less often"
    words = (
        f"Knowing the code before it, a code of codebook 0 has {transitions.conditional_entropy_bits:.2f} bits; in "
        f"{percent(transitions.repeat_share)} of the pairs it is the same code again."
    )
    few = tag("p", "There are fewer than ten pairs a cell of the full table: the bits are too low.", class_="note")
    is_thin = transitions.pairs < 10 * edges[-1] ** 2
    return joined(
        [
            head,
            tag("p", words),
            few if is_thin else None,
            figure(plot, title="Transitions", note=note, rows=_strongest(pairs, bits, names)),
        ]
    )


def _strongest(
    pairs: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    bits: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
    names: list[str],
) -> Markup:
    """The table beside the heat map: where it is brightest."""
    order = np.argsort(-np.where(np.isfinite(bits), bits, -np.inf), axis=None, kind="stable")[:20]
    rows = [
        (names[i], names[j], count(pairs[i, j]), _times(bits[i, j]))
        for i, j in zip(*np.unravel_index(order, bits.shape), strict=True)
    ]
    return table(("code", "then", "pairs", "against chance"), rows, numbers=(2,))


def _times(bits: float) -> str:
    return "never" if math.isinf(bits) else f"{2**bits:.2f} × chance"
