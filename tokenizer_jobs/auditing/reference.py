"""What codes audio should have: decoded and encoded again, rightly, and in the wrong ways that scripts do it.

Legend of shapes: C channels, n samples, K codebooks, T frames.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from tokenizer_jobs.auditing.kinds import Kind
from tokenizer_jobs.auditing.reading import Array
from tokenizer_jobs.decode import AudioTarget, decode_item
from tokenizer_jobs.encoding import EncodecCodec
from tokenizer_jobs.errors import ItemError
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import EncodedItem, Item
from tokenizer_jobs.sources import Source

__all__ = ["Reencoder", "Reference", "Variant"]

COMPARED_SECONDS = 120.0
"""Of each item, from its beginning: a causal codec's codes depend on nothing after them."""
VARIANT_SECONDS = 30.0
"""Of what is encoded in a wrong way on purpose."""
KEPT = 128
"""References that are kept."""
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 96000)

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The codes of one item's audio."""

    codes: Array
    """[K, T] at the highest bandwidth; of a long item those of its beginning."""
    encoded: EncodedItem
    waveform: Waveform
    """[C, n] at the codec's rate."""
    num_samples: int
    """Of the item, at the codec's rate."""
    is_whole: bool
    source_rate: int
    source_channels: int
    rms_db: float

    @property
    def num_frames(self) -> int:
        """In `codes`."""
        return int(self.codes.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A wrong way to come from a file to codes."""

    kind: Kind
    detail: str
    encode: Callable[[], Array | None]
    """Its codes [K, T]; None where it is not possible for this item."""


class Reencoder:
    """Encodes items again. It keeps the last references.

    Args:
        source: Opens the items.
        codec: At its highest bandwidth.
    """

    def __init__(self, *, source: Source, codec: EncodecCodec) -> None:
        self.source = source
        self.codec = codec
        self.facts: CodecFacts = codec.describe()
        self._kept: OrderedDict[str, Reference | ItemError] = OrderedDict()

    def reference(self, item: Item) -> Reference:
        """The codes that an item should have.

        Raises:
            ItemError: its audio cannot be decoded.
        """
        found = self._kept.get(item.id)
        if found is None:
            try:
                found = self._reference(item)
            except ItemError as error:
                found = error
            self._kept[item.id] = found
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        if isinstance(found, ItemError):
            raise found
        return found

    def encode(self, waveform: Waveform) -> Array:
        """The codes [K, T] of a waveform [C, n] at the codec's rate."""
        return self._encoded(waveform).codes.astype(np.int64)

    def restarted(self, reference: Reference, *, period_samples: int) -> Array:
        """Codes of an item that is cut into chunks, each encoded on its own."""
        waveform = reference.waveform
        pieces = [waveform[:, start : start + period_samples] for start in range(0, waveform.shape[1], period_samples)]
        return np.concatenate([self.encode(piece) for piece in pieces], axis=1)

    def variants(self, item: Item, reference: Reference, *, num_frames: int) -> Iterator[Variant]:
        """Wrong ways that could give so many frames, the frequent ones first."""
        rate, hop = self.facts.sample_rate, self.facts.hop_length
        same_length = abs(num_frames - reference.num_frames) <= 2 + reference.num_frames // 50
        source_samples = reference.num_samples * reference.source_rate / rate

        def gives(num_samples: float) -> bool:
            return abs(num_frames - num_samples / hop) <= 2 + num_frames // 100

        def of(kind: Kind, detail: str, make: Callable[[], Waveform]) -> Variant:
            return Variant(kind=kind, detail=detail, encode=lambda: self._tried(make))

        stereo = reference.source_channels == 2 and item.channel is None
        if stereo and same_length:
            yield of(Kind.LEFT_CHANNEL, "", lambda: self._decoded(item, channel_policy="left"))
            yield of(Kind.RIGHT_CHANNEL, "", lambda: self._decoded(item, channel_policy="right"))
            yield of(Kind.SUMMED, "", lambda: 2 * reference.waveform)
            yield of(Kind.RESHAPED_CHANNELS, "", lambda: self._reshaped(item, reference, whole=True))
            yield of(Kind.RESHAPED_CHANNELS, "", lambda: self._reshaped(item, reference, whole=False))
        if stereo and gives(2 * reference.num_samples):
            yield of(Kind.INTERLEAVED, "", lambda: self._interleaved(item, reference, at_rate=None))
        if stereo and reference.source_rate != rate and gives(2 * source_samples):
            yield of(Kind.INTERLEAVED, "", lambda: self._interleaved(item, reference, at_rate=rate))
        if reference.source_rate != rate and gives(source_samples):
            detail = f"{reference.source_rate} Hz fed as {rate} Hz"
            yield of(Kind.NOT_RESAMPLED, detail, lambda: self._as_rate(item, reference, rate))
        for wrong in RATES:
            if wrong not in (reference.source_rate, rate) and gives(source_samples * rate / wrong):
                detail = f"{reference.source_rate} Hz taken for {wrong} Hz"
                yield of(Kind.WRONG_RATE, detail, lambda wrong=wrong: self._as_rate(item, reference, wrong))  # type: ignore[misc]
        if reference.source_rate != rate and same_length:
            yield of(Kind.REFERENCE_RESAMPLER, "", lambda: self._decoded(item, resampler="reference"))
        if same_length and not self.facts.windowed:
            peak = max(float(np.abs(reference.waveform).max()), 1e-9)
            yield of(Kind.PEAK_NORMALISED, "", lambda: reference.waveform / np.float32(peak))
            yield of(Kind.INT16_SCALE, "", lambda: reference.waveform * np.float32(32768))

    def _reference(self, item: Item) -> Reference:
        target = self._target()
        is_long = self.facts.streamed and item.start_seconds is None and item.estimated_seconds > COMPARED_SECONDS
        if is_long:
            item = replace(item, start_seconds=0.0, duration_seconds=COMPARED_SECONDS)
        decoded = decode_item(item, position=0, source=self.source, target=target)
        waveform = decoded.float_waveform()
        num_samples = round(item.estimated_seconds * self.facts.sample_rate) if is_long else waveform.shape[1]
        encoded = self._encoded(waveform)
        return Reference(
            codes=encoded.codes.astype(np.int64),
            encoded=encoded,
            waveform=waveform,
            num_samples=num_samples,
            is_whole=not is_long,
            source_rate=decoded.facts.source_sample_rate,
            source_channels=decoded.facts.source_channels,
            rms_db=decoded.facts.rms_db,
        )

    def _target(self) -> AudioTarget:
        return AudioTarget(
            sample_rate=self.facts.sample_rate,
            channels=self.facts.channels,
            channel_policy="mono" if self.facts.channels == 1 else "auto",
            on_truncated="keep",
        )

    def _encoded(self, waveform: Waveform) -> EncodedItem:
        (encoded,) = self.codec.encode([np.ascontiguousarray(waveform, dtype=np.float32)])
        return encoded

    def _tried(self, make: Callable[[], Waveform]) -> Array | None:
        try:
            waveform = make()
        except ItemError:
            return None
        if waveform.shape[1] == 0:
            return None
        most = round(VARIANT_SECONDS * self.facts.sample_rate)
        return self.encode(waveform[:, :most])

    def _decoded(self, item: Item, *, whole: bool = False, **changes: Any) -> Waveform:
        target = replace(self._target(), **changes)
        if not whole and item.start_seconds is None and item.estimated_seconds > VARIANT_SECONDS + 1:
            item = replace(item, start_seconds=0.0, duration_seconds=VARIANT_SECONDS)
        return decode_item(item, position=0, source=self.source, target=target).float_waveform()

    def _native(self, item: Item, reference: Reference, *, whole: bool = False) -> Waveform:
        """[c, n] at the source's rate, c 1 or 2."""
        channels = 2 if reference.source_channels == 2 and item.channel is None else 1
        policy = "auto" if channels == 2 else "mono"
        return self._decoded(
            item,
            whole=whole,
            sample_rate=reference.source_rate,
            channels=channels,
            channel_policy=policy,
        )

    def _reshaped(self, item: Item, reference: Reference, *, whole: bool) -> Waveform:
        mixed = self._native(item, reference, whole=True).T.reshape(2, -1)
        return self._resampled(mixed.mean(0) if whole else mixed[0], reference.source_rate)

    def _interleaved(self, item: Item, reference: Reference, *, at_rate: int | None) -> Waveform:
        return self._resampled(self._native(item, reference).T.reshape(-1), at_rate or reference.source_rate)

    def _as_rate(self, item: Item, reference: Reference, rate: int) -> Waveform:
        return self._resampled(self._native(item, reference).mean(0), rate)

    def _resampled(self, samples: npt.NDArray[np.floating], rate: int) -> Waveform:
        """One channel [n] of a rate as [C, n] at the codec's."""
        most = round(VARIANT_SECONDS * rate)
        cut = np.ascontiguousarray(samples[:most], dtype=np.float32)
        if rate != self.facts.sample_rate:
            cut = soxr.resample(cut, rate, self.facts.sample_rate, quality="HQ")
        return np.repeat(cut[None], self.facts.channels, axis=0)
