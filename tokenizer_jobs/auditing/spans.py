"""Numbers of frames of all items, against the length of their audio: cut, padded, or of another rate."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tokenizer_jobs.auditing.census import Row
from tokenizer_jobs.auditing.findings import Finding, finding
from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.auditing.lengths import AudioLength, FrameCount
from tokenizer_jobs.wording import count_text

__all__ = ["Alternative", "Spans", "measure_spans", "span_findings"]

NEAR = 64
"""Rows before and after one that may have been in a batch with it."""
LEAST_ROWS = 3

Alternative = Callable[[int, AudioLength], tuple[int, int] | None]
"""From the place of audio and its length to the least and most frames that an explanation gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Rows by what their number of frames is; places among those that were given."""

    fitting: Sequence[int]
    short: Sequence[int]
    rounded_down: Sequence[int]
    """Short by the part-filled last frame alone."""
    long: Sequence[int]
    unknown: int
    """No header tells."""
    explained: Mapping[Kind, int]
    """Of another length than their audio, and of that which an explanation gives."""
    expected: Mapping[int, int]
    """Frames that the audio of each row has."""


def measure_spans(
    rows: Sequence[Row],
    lengths: Mapping[int, AudioLength],
    *,
    rate: int,
    hop_length: int,
    frames: FrameCount,
    alternatives: Mapping[Kind, Sequence[Alternative]],
) -> Spans:
    """Compare the frames of rows with audio with the lengths of the audio.

    Args:
        rows: That have audio.
        lengths: By place of audio, as far as known.
        rate, hop_length: Of the codec.
        frames: As the codec counts them.
        alternatives: What was found in the sample and changes the number of frames.
    """
    fitting, short, rounded, long = list[int](), list[int](), list[int](), list[int]()
    explained = Counter[Kind]()
    expected = dict[int, int]()
    unknown = 0
    for place, row in enumerate(rows):
        length = lengths.get(row.audio)
        if length is None:
            unknown += 1
            continue
        least, most = length.least_and_most(rate, frames)
        expected[place] = frames(max(1, length.samples_at(rate)))
        if least <= row.num_frames <= most:
            fitting.append(place)
        elif (why := _explained(row, length, alternatives)) is not None:
            explained[why] += 1
        elif row.num_frames > most:
            long.append(place)
        elif row.num_frames == length.samples_at(rate) // hop_length and length.is_exact:
            rounded.append(place)
        else:
            short.append(place)
    return Spans(
        fitting=fitting,
        short=short,
        rounded_down=rounded,
        long=long,
        unknown=unknown,
        explained=explained,
        expected=expected,
    )


def span_findings(
    rows: Sequence[Row], spans: Spans, *, frame_rate: float, agreeing: Mapping[str, bool]
) -> list[Finding]:
    """What is wrong with numbers of frames.

    Args:
        rows: As they were measured.
        spans: Of them.
        frame_rate: Of the codec.
        agreeing: Whether sampled items agree with their audio as far as they go, by id.
    """
    known = len(rows) - spans.unknown
    found = list[Finding]()
    ratio = _common_ratio(rows, spans)
    if ratio is not None:
        off = [*spans.short, *spans.long]
        text = f"{count_text(len(off), 'item')} of {known:,} have {ratio:.3f} × the frames of their audio"
        return [finding(Kind.WRONG_RATE, text, count=len(off), of=known, examples=_ids(rows, off))]
    if spans.short:
        text = (
            f"{count_text(len(spans.short), 'item')} of {known:,} have fewer frames than their audio: "
            f"{_how(rows, spans, spans.short, frame_rate=frame_rate)}"
            f"{_agreement(rows, spans.short, agreeing)}"
        )
        found.append(finding(Kind.CUT_SHORT, text, count=len(spans.short), of=known, examples=_ids(rows, spans.short)))
    if spans.long:
        text = (
            f"{count_text(len(spans.long), 'item')} of {known:,} have more frames than their audio: "
            f"{_how(rows, spans, spans.long, frame_rate=frame_rate)}{_agreement(rows, spans.long, agreeing)}"
        )
        found.append(finding(Kind.TOO_LONG, text, count=len(spans.long), of=known, examples=_ids(rows, spans.long)))
    if spans.rounded_down:
        text = f"{count_text(len(spans.rounded_down), 'item')} of {known:,} lack their part-filled last frame"
        examples = _ids(rows, spans.rounded_down)
        found.append(finding(Kind.LAST_FRAME_DROPPED, text, count=len(spans.rounded_down), of=known, examples=examples))
    return found


def _explained(row: Row, length: AudioLength, alternatives: Mapping[Kind, Sequence[Alternative]]) -> Kind | None:
    for kind, ways in alternatives.items():
        for way in ways:
            bounds = way(row.audio, length)
            if bounds is not None and bounds[0] <= row.num_frames <= bounds[1]:
                return kind
    return None


def _common_ratio(rows: Sequence[Row], spans: Spans) -> float | None:
    """By how much all that do not fit are too long or too short, where it is one ratio; None: it is not."""
    off = [place for place in (*spans.short, *spans.long) if spans.expected[place] >= 40]
    if len(off) < LEAST_ROWS or len({rows[place].num_frames for place in off}) < LEAST_ROWS:
        return None
    ratios = sorted(rows[place].num_frames / spans.expected[place] for place in off)
    middle = ratios[len(ratios) // 2]
    close = sum(abs(ratio - middle) < 0.03 * middle for ratio in ratios)
    return middle if close >= 0.9 * len(off) and abs(middle - 1) > 0.04 else None


def _how(rows: Sequence[Row], spans: Spans, places: Sequence[int], *, frame_rate: float) -> str:
    """What the lengths have in common."""
    counts = Counter(rows[place].num_frames for place in places)
    length, count = counts.most_common(1)[0]
    if count >= 0.8 * len(places) and (count > 1 or len(places) == 1):
        which = "" if count == len(places) else f"{count:,} of them "
        return f"{which}{length:,} frames, which is {length / frame_rate:.2f} s"
    near = sum(_is_near(rows, spans, place) for place in places)
    if near >= 0.8 * len(places):
        side = "shortest" if rows[places[0]].num_frames < spans.expected[places[0]] else "longest"
        return f"{near:,} of them exactly as many as the audio of an item near them, such as the {side} of a batch"
    spread = sorted(rows[place].num_frames - spans.expected[place] for place in places)
    return f"by {spread[len(spread) // 2] / frame_rate:+.2f} s in the middle, {len(counts):,} different lengths"


def _is_near(rows: Sequence[Row], spans: Spans, place: int) -> bool:
    around = range(max(0, place - NEAR), min(len(rows), place + NEAR + 1))
    return any(spans.expected.get(other) == rows[place].num_frames for other in around if other != place)


def _agreement(rows: Sequence[Row], places: Sequence[int], agreeing: Mapping[str, bool]) -> str:
    looked = [agreeing[rows[place].id] for place in places if rows[place].id in agreeing]
    if not looked:
        return ""
    return f"; of {len(looked):,} in the sample {sum(looked):,} agree with their audio over the frames that both have"


def _ids(rows: Sequence[Row], places: Sequence[int]) -> list[str]:
    return [rows[place].id for place in places[:8]]
