"""What the faults of a sample do to numbers of frames, so that they are found in all of a dump by its lengths."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from tokenizer_jobs.auditing.diagnosis import LITTLE_SECONDS, Examined
from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.auditing.lengths import AudioLength, FrameCount
from tokenizer_jobs.auditing.spans import Alternative
from tokenizer_jobs.recipe import CodecFacts

__all__ = ["alternatives"]


def alternatives(
    examined: Sequence[Examined],
    *,
    lengths: Mapping[int, AudioLength],
    facts: CodecFacts,
    frames: FrameCount,
    num_codebooks: int,
) -> dict[Kind, list[Alternative]]:
    """The ways from an item's audio to its number of frames that explanations of the sample give.

    Args:
        examined: The sample.
        lengths: By place of audio.
        facts: Of the codec.
        frames: As it counts them.
        num_codebooks: Of most items.
    """
    ways = defaultdict[Kind, list[Alternative]](list)
    rate = facts.sample_rate
    seen = {(each.kind, each.number, each.detail if each.kind is Kind.WRONG_RATE else "") for each in examined}
    for kind, number, detail in sorted((each for each in seen if each[0] is not None), key=str):
        if kind in (Kind.SHIFTED, Kind.SWAPPED):
            ways[kind].append(_shifted(lengths, frames, rate, number))
        elif kind is Kind.DELAYED:
            longer = num_codebooks - 1 + number
            ways[kind] += [_longer(frames, rate, longer), _longer(frames, rate, longer + 1)]
        elif kind in (Kind.NOT_RESAMPLED, Kind.WRONG_RATE):
            wrong = rate if kind is Kind.NOT_RESAMPLED else int(detail.rpartition(" taken for ")[2].split()[0])
            ways[kind].append(_as_rate(frames, rate, wrong, times=1))
        elif kind is Kind.INTERLEAVED:
            ways[kind] += [_as_rate(frames, rate, None, times=2), _as_rate(frames, rate, rate, times=2)]
        elif kind is Kind.SEAMS:
            ways[kind].append(_in_chunks(frames, rate, number))
        elif kind is Kind.TRIMMED and not ways[kind]:
            ways[kind].append(_at_most(frames, rate))
        elif kind is Kind.DISPLACED and not ways[kind] and _is_of_most(kind, examined):
            ways[kind].append(_around(frames, rate, round(2 * LITTLE_SECONDS * facts.frame_rate)))
    return ways


def _is_of_most(kind: Kind, examined: Sequence[Examined]) -> bool:
    """A note must not hide many faults: it speaks for items out of the sample where most of the sample has it."""
    return 2 * sum(each.kind is kind for each in examined) >= len(examined)


def _shifted(lengths: Mapping[int, AudioLength], frames: FrameCount, rate: int, offset: int) -> Alternative:
    def bounds(place: int, _: AudioLength) -> tuple[int, int] | None:
        other = lengths.get(place + offset)
        return None if other is None else other.least_and_most(rate, frames)

    return bounds


def _longer(frames: FrameCount, rate: int, more: int) -> Alternative:
    def bounds(_: int, length: AudioLength) -> tuple[int, int]:
        least, most = length.least_and_most(rate, frames)
        return least + more, most + more

    return bounds


def _at_most(frames: FrameCount, rate: int) -> Alternative:
    def bounds(_: int, length: AudioLength) -> tuple[int, int]:
        return 1, length.least_and_most(rate, frames)[1]

    return bounds


def _around(frames: FrameCount, rate: int, about: int) -> Alternative:
    def bounds(_: int, length: AudioLength) -> tuple[int, int]:
        least, most = length.least_and_most(rate, frames)
        return least - about, most + about

    return bounds


def _in_chunks(frames: FrameCount, rate: int, period_samples: int) -> Alternative:
    def bounds(_: int, length: AudioLength) -> tuple[int, int]:
        whole, rest = divmod(length.samples_at(rate), period_samples)
        count = whole * frames(period_samples) + (frames(rest) if rest else 0)
        return count, count

    return bounds


def _as_rate(frames: FrameCount, rate: int, taken_for: int | None, *, times: int) -> Alternative:
    def bounds(_: int, length: AudioLength) -> tuple[int, int]:
        samples = round(times * length.num_samples * rate / (taken_for or length.sample_rate))
        return frames(max(1, samples - 2)), frames(samples + 2)

    return bounds
