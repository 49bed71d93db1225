"""How long audio is by its headers, and how many frames that makes, whatever the rounding of resamplers."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from encodec_core.spans import each_window_span
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources import Source, probe

__all__ = ["AudioLength", "FrameCount", "frame_counter", "read_lengths"]

THREADS = 8
RESAMPLER_SAMPLES = 32
"""By which lengths differ after resampling that is not flushed to the end: half of a filter."""
ESTIMATED = ("MP3", "MPEG", "OPUS", "AAC", "MP4", "M4A")
"""Parts of the names of formats whose headers count what decoders leave out at the beginning or the end."""
FrameCount = Callable[[int], int]
"""Samples at the codec's rate to frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioLength:
    """What a header says."""

    num_samples: int
    """At the source's rate, per channel."""
    sample_rate: int
    channels: int
    is_exact: bool
    """Or an estimate, as of mp3."""

    def samples_at(self, rate: int) -> int:
        """Samples after resampling, rounded to the nearest."""
        return round(self.num_samples * rate / self.sample_rate)

    def least_and_most(self, rate: int, frames: FrameCount) -> tuple[int, int]:
        """Frames that are no fault: resamplers round lengths up, down or to the nearest."""
        exact = self.samples_at(rate)
        slack = 0 if self.sample_rate == rate else RESAMPLER_SAMPLES
        if not self.is_exact:
            slack = max(4 * rate // 75, exact // 50)
        return frames(max(1, exact - slack)), frames(exact + slack)


def frame_counter(facts: CodecFacts) -> FrameCount:
    """How a codec counts frames: each window, or the whole, in hops, the last one part-filled."""
    hop = facts.hop_length
    if not facts.windowed:
        return lambda num_samples: -(-num_samples // hop)
    length = round(float(facts.config["chunk_length_s"]) * facts.sample_rate)

    def count(num_samples: int) -> int:
        spans = each_window_span(num_samples, length=length, stride=facts.grain_samples)
        return sum(-(-(span.stop - span.start) // hop) for span in spans)

    return count


def read_lengths(items: Sequence[Item], source: Source) -> Iterator[AudioLength | None]:
    """The length of each item; None where no header tells."""
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(0, len(items), 1024):
            yield from threads.map(lambda item: _length(item, source), items[start : start + 1024])


def _length(item: Item, source: Source) -> AudioLength | None:
    header = probe(source, item)
    if header is None or header.sample_rate <= 0:
        return None
    seconds = header.seconds
    if item.start_seconds is not None:
        seconds = max(0.0, seconds - item.start_seconds)
        if item.duration_seconds is not None:
            seconds = min(seconds, item.duration_seconds)
    num_samples = round(seconds * header.sample_rate)
    is_exact = not any(name in header.format.upper() for name in ESTIMATED)
    if num_samples < 1:
        return None
    return AudioLength(
        num_samples=num_samples,
        sample_rate=header.sample_rate,
        channels=1 if item.channel is not None else header.channels,
        is_exact=is_exact,
    )
