"""Which samples of a recording an item stands for, and what becomes of it where they are not all there.

The rules for a cut. A recording that is whole: a cut that begins at or beyond its end is `outside`; one that ends more
than 0.1 s or 1 % of its length (the larger) beyond the end is truncated; one that ends less far beyond takes what is
there. A recording that lost its end: a cut is whole where it ends before what is left does, and truncated otherwise,
however little is missing. A recording that is damaged inside: a cut is whole where it ends before the damage, and
corrupt otherwise; of FLAC it is whole too where it begins after the damage and libFLAC finds it, since frames say which
samples they hold. What lossy coders leave before a lost end or a damage is not trusted for 8,192 samples, since their
frames overlap.

What cannot be seen: frames that are missing from the middle of an mp3 with nothing to show for it but the count in its
header, and audio that FFmpeg leaves out without an error.
"""

import math
from dataclasses import dataclass

from tokenizer_jobs.errors import ItemError, RejectReason, Stage
from tokenizer_jobs.records import Item

__all__ = ["OVERLAP_FRAMES", "Span", "is_cut", "span_of"]

SLACK_SECONDS, SLACK_FRACTION = 0.1, 0.01
"""How much shorter than a manifest says audio may be; its numbers are rounded, or another decoder's."""
OVERLAP_FRAMES = 8192
"""The longest block of Vorbis; more than two frames of mp3 and the longest packet of Opus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The samples of a recording that an item stands for, per channel at the recording's rate."""

    first: int
    stop: int | None
    """None: to the end, wherever that is."""
    promised_stop: int | None
    """Where the item ends as the manifest says; None: it does not say."""
    least_stop: int | None
    """Where the item must reach at least; None: anywhere."""


def is_cut(item: Item) -> bool:
    """Whether an item is a part of its recording."""
    return item.start_seconds is not None


def span_of(item: Item, *, sample_rate: int) -> Span:
    """Where an item lies in its recording.

    Args:
        item: The item.
        sample_rate: Of the recording, in Hz.

    Raises:
        ItemError: a place or a length that no recording has.
    """
    start, duration = item.start_seconds or 0.0, item.duration_seconds
    if not math.isfinite(start) or start < 0:
        raise ItemError(
            f"the cut begins at {start:g} s, expected 0 or more", stage=Stage.DECODE, reason=RejectReason.OUTSIDE
        )
    first = round(start * sample_rate)
    if duration is None:
        return Span(first=first, stop=None, promised_stop=None, least_stop=None)
    if not math.isfinite(duration) or round(duration * sample_rate) < 1:
        raise ItemError(
            f"a duration of {duration:g} s at {sample_rate} Hz holds no sample",
            stage=Stage.DECODE,
            reason=RejectReason.EMPTY,
        )
    length = round(duration * sample_rate)
    slack = max(SLACK_SECONDS * sample_rate, SLACK_FRACTION * length)
    return Span(
        first=first,
        stop=first + length if is_cut(item) else None,
        promised_stop=first + length,
        least_stop=math.ceil(first + length - slack),
    )
