"""What all of a dump tells without encoding anything: doubles, gaps, ranges, numbers of codebooks."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from tokenizer_jobs.auditing.census import Census, Row
from tokenizer_jobs.auditing.findings import Finding, finding
from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.auditing.matching import Matching
from tokenizer_jobs.auditing.reference import Reencoder
from tokenizer_jobs.errors import ItemError
from tokenizer_jobs.records import Item
from tokenizer_jobs.wording import count_text, counts_text

__all__ = ["doubles", "gaps", "ranges"]

LOOKED_AT = 64
"""Items with the codes of another whose audio is compared: each has to be encoded."""
SILENT_DB = -60.0
LEAST_CODES = 2000
"""In all, to tell from their range that they were stored in 8 bits."""


def doubles(census: Census, matching: Matching, *, audio: Sequence[Item], reencoder: Reencoder) -> Iterator[Finding]:
    """Items that are there twice, codes that are there twice, and codes that are twice in one item."""
    total = census.num_items
    repeated = [row.id for row in census.rows if row.is_repeated]
    if repeated:
        text = f"{count_text(len(repeated), 'item')} of {total:,} hold the same codes twice in a row"
        yield finding(Kind.REPEATED, text, count=len(repeated), of=total, examples=repeated)
    by_item, by_codes = defaultdict[str, list[Row]](list), defaultdict[bytes, list[Row]](list)
    for row in census.rows:
        by_item[matching.item_key(row.id)].append(row)
        if row.num_distinct_frames > 2:
            by_codes[row.digest].append(row)
    twice = [rows for rows in by_item.values() if len(rows) > 1]
    if twice:
        equal = sum(len({row.digest for row in rows}) == 1 for rows in twice)
        text = (
            f"{count_text(len(twice), 'item')} of {len(by_item):,} are in the dump more than once "
            f"({equal:,} with the same codes each time)"
        )
        yield finding(Kind.DOUBLED_ID, text, count=len(twice), of=len(by_item), examples=[r[0].id for r in twice])
    groups = [rows for rows in by_codes.values() if len({row.audio if row.audio >= 0 else row.id for row in rows}) > 1]
    yield from _equal_codes(groups, total=total, audio=audio, reencoder=reencoder)


def gaps(census: Census, matching: Matching, *, audio: Sequence[Item], rejected: Collection[str]) -> Iterator[Finding]:
    """Audio without codes, codes without audio, and what cannot be read."""
    if census.unreadable:
        names = [name for name, _ in census.unreadable]
        text = f"{count_text(len(names), 'item')} of {census.num_items:,} cannot be read: {census.unreadable[0][1]}"
        yield finding(Kind.UNREADABLE, text, count=len(names), of=census.num_items, examples=names)
    if census.odd_shapes:
        text = f"{count_text(len(census.odd_shapes), 'item')} of {census.num_items:,} have no frames, or another shape"
        count = len(census.odd_shapes)
        yield finding(Kind.UNREADABLE, text, count=count, of=census.num_items, examples=census.odd_shapes)
    has_codes = np.zeros(len(audio), bool)
    for row in census.rows:
        if row.audio >= 0:
            has_codes[row.audio] = True
    for name, _ in census.unreadable:
        if (place := matching.place(name)) >= 0:
            has_codes[place] = True
    missing = [audio[int(place)].id for place in np.flatnonzero(~has_codes)]
    missing = [name for name in missing if name not in rejected]
    if missing:
        sharing = {audio[place].id for places in matching.shared.values() for place in places}
        shared = sum(name in sharing for name in missing)
        collide = (
            f"; {shared:,} of them share their name, but for folder or ending, with another, so that one overwrote "
            "the other"
            if shared
            else ""
        )
        text = f"{count_text(len(missing), 'recording')} of {len(audio):,} have no codes{collide}"
        yield finding(Kind.MISSING_CODES, text, count=len(missing), of=len(audio), examples=missing)
    orphans = [row.id for row in census.rows if row.audio < 0]
    if orphans:
        text = f"{count_text(len(orphans), 'item')} of {census.num_items:,} have codes and no audio"
        yield finding(Kind.MISSING_AUDIO, text, count=len(orphans), of=census.num_items, examples=orphans)


def ranges(
    census: Census,
    *,
    num_codebooks: int,
    expected_codebooks: int | None,
    most_codebooks: int,
    codebook_size: int,
    has_offsets: bool,
    sampled: Mapping[Kind, int],
) -> Iterator[Finding]:
    """Numbers of codebooks and codes that cannot be."""
    rows = [row for row in census.rows if row.num_codebooks]
    turned = [row for row in rows if row.num_codebooks != num_codebooks and row.num_frames == num_codebooks]
    if turned:
        text = (
            f"{count_text(len(turned), 'item')} of {len(rows):,} have time and codebooks exchanged, unlike the others"
        )
        yield finding(Kind.MIXED_LAYOUT, text, count=len(turned), of=len(rows), examples=[row.id for row in turned[:8]])
    straight = [row for row in rows if row.num_codebooks == num_codebooks or row.num_frames != num_codebooks]
    other = [row for row in straight if row.num_codebooks != num_codebooks]
    if other:
        counts = counts_text({f"with {n} codebooks": c for n, c in census.codebooks().items() if n <= 64})
        text = f"items of the dump have different numbers of codebooks: {counts}"
        examples = [row.id for row in other[:8]]
        yield finding(Kind.MIXED_CODEBOOKS, text, count=len(other), of=len(rows), examples=examples)
    if expected_codebooks not in (None, num_codebooks) or num_codebooks > most_codebooks:
        said = f"{expected_codebooks} were said" if expected_codebooks else f"the codec has at most {most_codebooks}"
        text = (
            f"items have {num_codebooks} codebooks, {said}; the first {min(num_codebooks, most_codebooks)} are compared"
        )
        yield finding(Kind.CODEBOOKS, text, count=len(rows), of=len(rows))
    if has_offsets:
        text = f"codebook k has the ids from k x {codebook_size} on"
        yield finding(Kind.OFFSETS, text, count=len(rows), of=len(rows))
    elif (narrow := _narrow(straight, codebook_size)) and not sampled.get(Kind.NARROW_TYPE):
        yield finding(Kind.NARROW_TYPE, narrow, count=len(rows), of=len(rows))
    elif not any(sampled.get(kind) for kind in (Kind.NARROW_TYPE, Kind.DELAYED)):
        wild = [row for row in straight if row.lowest < 0 or row.highest >= codebook_size]
        if wild:
            low, high = min(row.lowest for row in wild), max(row.highest for row in wild)
            text = (
                f"{count_text(len(wild), 'item')} of {len(rows):,} hold codes from {low} to {high}, expected 0 to "
                f"{codebook_size - 1}"
            )
            yield finding(Kind.OUT_OF_RANGE, text, count=len(wild), of=len(rows), examples=[r.id for r in wild[:8]])


def _narrow(rows: Sequence[Row], codebook_size: int) -> str:
    """Whether all codes fit into 8 bits, though a codebook has many more; empty: they do not."""
    total = sum(row.num_codebooks * row.num_frames for row in rows)
    low, high = min((row.lowest for row in rows), default=0), max((row.highest for row in rows), default=0)
    if codebook_size < 512 or total < LEAST_CODES or high > 255 or low < -128:
        return ""
    return f"all {total:,} codes are {low} to {high}, as in 8 bits, where codebooks have {codebook_size} entries"


def _equal_codes(
    groups: Sequence[Sequence[Row]], *, total: int, audio: Sequence[Item], reencoder: Reencoder
) -> Iterator[Finding]:
    same, pairs = list[str](), list[str]()
    doubled = [(first, row) for first, *others in groups for row in others]
    unseen = 0
    for number, (first, row) in enumerate(doubled):
        is_same = _has_same_audio(first, row, audio=audio, reencoder=reencoder) if number < LOOKED_AT else None
        if is_same:
            same.append(row.id)
        elif is_same is None:
            unseen += 1
        else:
            pairs.append(f"{row.id} = {first.id}")
    more = f"; {unseen:,} more have the codes of another, and their audio was not compared" if unseen else ""
    if pairs:
        text = (
            f"{count_text(len(pairs), 'item')} of {total:,} have the codes of another item, whose audio differs{more}"
        )
        yield finding(Kind.DOUBLED_CODES, text, count=len(pairs), of=total, examples=pairs)
        more = ""
    if same:
        text = f"{count_text(len(same), 'item')} of {total:,} have the codes of another, and the same audio{more}"
        yield finding(Kind.SAME_AUDIO, text, count=len(same), of=total, examples=same)
    elif more:
        text = f"{count_text(unseen, 'item')} of {total:,} have the codes of another, and their audio was not compared"
        examples = [row.id for _, row in doubled]
        yield finding(Kind.EQUAL_CODES, text, count=unseen, of=total, examples=examples)


def _has_same_audio(one: Row, other: Row, *, audio: Sequence[Item], reencoder: Reencoder) -> bool | None:
    """None: the audio of one is not there, or cannot be decoded."""
    if one.audio < 0 or other.audio < 0:
        return None
    if one.audio == other.audio:
        return True
    try:
        here, there = (reencoder.reference(audio[row.audio]) for row in (one, other))
    except ItemError:
        return None
    if max(here.rms_db, there.rms_db) < SILENT_DB:
        return True
    return np.array_equal(here.waveform, there.waveform) or (
        here.codes.shape == there.codes.shape and bool((here.codes[:, :-1] == there.codes[:, :-1]).mean() > 0.99)
    )
