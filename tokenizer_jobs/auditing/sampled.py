"""The examined sample in words: each kind with its count, and what it has in common."""

from collections import Counter
from collections.abc import Mapping, Sequence

from tokenizer_jobs.auditing.diagnosis import Examined, sorted_kinds
from tokenizer_jobs.auditing.findings import Finding, finding
from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.wording import counts_text

__all__ = ["sample_findings", "upper_bound"]

CONFIDENCE = 0.95

_TEXTS = {
    Kind.UNREADABLE_AUDIO: "have audio that cannot be decoded ({detail})",
    Kind.SWAPPED: "have the codes of another item, which has theirs ({detail})",
    Kind.LATE: "have other frames in front of their own ({detail})",
    Kind.LAST_FRAME_DIFFERS: "differ in their last, part-filled frame alone",
    Kind.LEFT_CHANNEL: "have the codes of the left channel, where both were to be mixed",
    Kind.RIGHT_CHANNEL: "have the codes of the right channel, where both were to be mixed",
    Kind.SUMMED: "have the codes of the sum of their channels, where their mean was to be taken",
    Kind.INTERLEAVED: "have the codes of left and right samples in turn, twice as many frames as their audio",
    Kind.RESHAPED_CHANNELS: "have the codes of stereo that was reshaped, not transposed",
    Kind.NOT_RESAMPLED: "have the codes of audio that was not resampled ({detail})",
    Kind.WRONG_RATE: "have the codes of audio at a wrong rate ({detail})",
    Kind.PEAK_NORMALISED: "have the codes of their audio scaled to full scale",
    Kind.INT16_SCALE: "have the codes of their audio 32,768 times as loud",
    Kind.OTHER_WEIGHTS: "have codes that agree with their audio no better than by chance ({first:.1%} of first "
    "codebooks)",
    Kind.LOUDNESS: "have the codes of their audio at another loudness ({low:+.1f} to {high:+.1f} dB)",
    Kind.OTHER_AUDIO: "agree with their audio in {first:.0%} of first codebooks and {codes:.0%} of all codes: more "
    "than by chance, and less than another resampler or precision would leave",
    Kind.TRANSPOSED: "have time and codebooks exchanged: their codes agree when they are read as {detail}",
    Kind.RESHAPED: "agree with their audio only when their numbers are put in another order ({detail}): they were "
    "reshaped, not transposed",
    Kind.NARROW_TYPE: "agree with their audio in the lower 8 bits alone: the higher bits are gone",
    Kind.DELAYED: "agree with their audio when codebook k is shifted back by k",
    Kind.REFERENCE_RESAMPLER: "agree in full when their audio is resampled by a windowed sinc as EnCodec does",
    Kind.CLOSE: "agree with their audio in {first:.1%} of first codebooks and {codes:.1%} of all codes, not in full",
}


def sample_findings(
    examined: Sequence[Examined],
    *,
    by_length: Mapping[Kind, int],
    num_matched: int,
    frame_rate: float,
    hop_length: int,
) -> list[Finding]:
    """One finding for each kind.

    Args:
        examined: The sample, in the order of the dump.
        by_length: Items of the whole dump whose number of frames fits a kind and not their own audio.
        num_matched: Items with codes and audio.
        frame_rate, hop_length: Of the codec.
    """
    found = list[Finding]()
    for kind, items in sorted_kinds(examined):
        whole = f"; of all {num_matched:,} the lengths of {by_length[kind]:,} fit that" if by_length.get(kind) else ""
        what = _text(kind, items, examined, frame_rate, hop_length)
        text = f"{len(items):,} of {len(examined):,} sampled items {what}{whole}"
        examples = [item.id for item in items]
        found.append(finding(kind, text, count=len(items), of=len(examined), examples=examples, in_sample=True))
    return found


def upper_bound(num_clean: int) -> float:
    """The share of items that can at most have what none of so many drawn ones has, at 95 %: close to 3 / n."""
    return 1.0 if num_clean == 0 else 1 - (1 - CONFIDENCE) ** (1 / num_clean)


def _text(
    kind: Kind, items: Sequence[Examined], examined: Sequence[Examined], frame_rate: float, hop_length: int
) -> str:
    if kind is Kind.SHIFTED:
        return _shifts(items, examined)
    if kind is Kind.SEAMS:
        periods = Counter(item.number for item in items)
        listed = ", ".join(_period(p, c, len(items), hop_length, frame_rate) for p, c in periods.most_common(3))
        return f"have seams: their codec was begun afresh every {listed}"
    likeness = [each for item in items if (each := item.own if kind not in _UNDER else item.likeness) is not None]
    if kind in (Kind.TRIMMED, Kind.DISPLACED):
        return _starts(kind, items, hop_length * frame_rate)
    details = Counter(item.detail for item in items)
    decibels = [item.decibels for item in items]
    return _TEXTS[kind].format(
        detail=", ".join(detail for detail, _ in details.most_common(2)),
        low=min(decibels),
        high=max(decibels),
        first=sum(each.first for each in likeness) / max(1, len(likeness)),
        codes=sum(each.codes for each in likeness) / max(1, len(likeness)),
    )


def _starts(kind: Kind, items: Sequence[Examined], rate: float) -> str:
    """`rate`: samples per second, which seconds are counted by."""
    starts = sorted(item.number / rate for item in items)
    spread = f"{starts[0]:+.3f} s to {starts[-1]:+.3f} s" if len(starts) > 1 else f"{starts[0]:+.3f} s"
    if kind is Kind.TRIMMED:
        return f"have the codes of a part of their audio, which begins later ({spread})"
    return f"begin a little before or behind their audio ({spread})"


def _period(samples: int, count: int, total: int, hop_length: int, frame_rate: float) -> str:
    frames = -(-samples // hop_length)
    share = "" if count == total else f" ({count:,} of them)"
    return f"{frames:,} frames = {samples / hop_length / frame_rate:.2f} s{share}"


_UNDER = frozenset({Kind.REFERENCE_RESAMPLER})


def _shifts(items: Sequence[Examined], examined: Sequence[Examined]) -> str:
    counts = counts_text({f"{_offset(n)}:": c for n, c in Counter(item.number for item in items).items()})
    shifted = {item.id for item in items}
    first = next(place for place, item in enumerate(examined) if item.id in shifted)
    rest = [item.id in shifted for item in examined[first:]]
    begin = f"; all sampled ones from {examined[first].id!r} on, and none before" if first and all(rest) else ""
    return f"are shifted: they have the codes of an item further on or back in the list ({counts}){begin}"


def _offset(number: int) -> str:
    return f"{number:+d} place" if abs(number) == 1 else f"{number:+d} places"
