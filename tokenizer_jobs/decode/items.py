"""Decode the items of a unit, one after the other: each becomes a waveform with its facts, or a reject with its reason.

open ──▶ sniff ──▶ inspect ──▶ read blocks ──▶ check, mix, resample ──▶ measure
"""

import importlib.metadata
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import soundfile

from tokenizer_jobs.config import AudioRecipe, Filters
from tokenizer_jobs.decode.channels import choose_channels
from tokenizer_jobs.decode.container import inspect
from tokenizer_jobs.decode.flac import ends_with_whole_frame
from tokenizer_jobs.decode.inspection import Inspection
from tokenizer_jobs.decode.opened import InputBytes, open_input
from tokenizer_jobs.decode.readers import BLOCK_VALUES, Reader, ffmpeg_is_installed, open_reader
from tokenizer_jobs.decode.resample import make_resampler
from tokenizer_jobs.decode.sniff import AudioKind, Sniffed, sniff
from tokenizer_jobs.decode.waveform import WaveformBuilder, check_samples, measure_level
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage
from tokenizer_jobs.recipe import CodecFacts
from tokenizer_jobs.records import AudioFacts, Decoded, DecodedItem, Item, RejectedItem
from tokenizer_jobs.sources import Source

__all__ = ["AudioTarget", "decode_item", "decode_items", "decoder_versions"]

SALVAGE_VALUES = 1 << 12
"""Smaller blocks where truncated audio is kept: a decoder that fails gives nothing of the block it failed in."""
_SAMPLE_RATES = range(100, 1_000_001)
"""What a recording may claim; beyond it a header is damaged, and a resampler's filter would grow without bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioTarget:
    """What waveforms are made into, and which are refused."""

    sample_rate: int
    """Of the codec, in Hz."""
    channels: int
    """Of the codec: 1 or 2."""
    channel_policy: Literal["auto", "mono", "stereo", "first", "left", "right", "each"] = "auto"
    """`recipe.audio.channels`."""
    resampler: Literal["soxr_hq", "reference"] = "soxr_hq"
    """`recipe.audio.resampler`."""
    on_truncated: Literal["reject", "keep"] = "reject"
    """`recipe.audio.on_truncated`."""
    long_audio: Literal["exact", "restart"] = "exact"
    """`recipe.audio.long_audio`."""
    slice_samples: int | None = None
    """Of one row, at the codec's rate and a multiple of its grain; None: one row per item or channel."""
    streamed: bool = False
    """Whether recordings too long to be held may come in stretches."""
    min_sample_rate: int | None = None
    """Lowest rate of a source in Hz; None: any."""
    max_silent_fraction: float | None = None
    """Largest share of silence, as decoded; None: any."""
    max_clipped_fraction: float | None = None
    """Largest share of clipped samples, as decoded; None: any."""
    min_seconds: float | None = None
    """Shortest duration, as decoded; None: any."""
    max_seconds: float | None = None
    """Longest duration, as decoded; None: any."""

    @classmethod
    def for_codec(cls, facts: CodecFacts, *, audio: AudioRecipe, filters: Filters) -> Self:
        """What a codec takes, under a job's recipe and filters."""
        return cls(
            sample_rate=facts.sample_rate,
            channels=facts.channels,
            channel_policy=audio.channels,
            resampler=audio.resampler,
            on_truncated=audio.on_truncated,
            long_audio=audio.long_audio,
            slice_samples=_slice_samples(audio.slice_seconds, facts),
            streamed=facts.streamed,
            min_sample_rate=filters.min_sample_rate,
            max_silent_fraction=filters.max_silent_fraction,
            max_clipped_fraction=filters.max_clipped_fraction,
            min_seconds=filters.min_seconds,
            max_seconds=filters.max_seconds,
        )

    def __post_init__(self) -> None:
        if self.channels not in (1, 2):
            raise ConfigError(f"a codec of {self.channels} channels is not supported; expected 1 or 2")
        if self.channel_policy == "stereo" and self.channels == 1:
            raise ConfigError("recipe.audio.channels = stereo needs a stereo codec; choose mono, first, left or right")


def _slice_samples(seconds: float | None, facts: CodecFacts) -> int | None:
    if seconds is None:
        return None
    return max(1, round(seconds * facts.sample_rate / facts.grain_samples)) * facts.grain_samples


def decode_items(
    items: Sequence[tuple[int, Item]],
    *,
    source: Source,
    target: AudioTarget,
    before: Callable[[int, Item], None] | None = None,
) -> Iterator[Decoded]:
    """Decode items in the order given; one that cannot be decoded is a reject in its place.

    Args:
        items: Pairs of position in the unit and item.
        source: Opens the items.
        target: What they are made into.
        before: Called before each item is touched: leaves a breadcrumb. None leaves none.

    Raises:
        TransientError: the storage failed; nothing is said about the item.
    """
    for position, item in items:
        if before is not None:
            before(position, item)
        try:
            decoded: Decoded = decode_item(item, position=position, source=source, target=target)
        except ItemError as error:
            decoded = RejectedItem(position=position, stage=error.stage, reason=error.reason, message=error.message)
        yield decoded


def decode_item(item: Item, *, position: int, source: Source, target: AudioTarget) -> DecodedItem:
    """Decode one item to a waveform [C, n] at the codec's rate.

    Raises:
        ItemError: why it becomes a reject.
        TransientError: the storage failed; trying again may work.
    """
    with open_input(item, source=source) as data:
        sniffed = sniff(data, extension=_extension(item))
        inspection = inspect(data, sniffed)
        _refuse_damage(inspection, target)
        try:
            with open_reader(data, sniffed, inspection) as reader:
                return _read(reader, data, sniffed, inspection, position=position, target=target)
        except ItemError as error:
            if inspection.truncation is None or error.reason not in (RejectReason.CORRUPT, RejectReason.EMPTY):
                raise
            raise _truncated(f"{inspection.truncation}; {error.message}") from error


def decoder_versions() -> dict[str, str]:
    """Versions of everything between bytes and waveform; `av` is "absent" without the extra."""
    return {
        "soundfile": soundfile.__version__,
        "libsndfile": soundfile.__libsndfile_version__,
        "soxr": importlib.metadata.version("soxr"),
        "av": importlib.metadata.version("av") if ffmpeg_is_installed() else "absent",
    }


def _read(
    reader: Reader,
    data: InputBytes,
    sniffed: Sniffed,
    inspection: Inspection,
    *,
    position: int,
    target: AudioTarget,
) -> DecodedItem:
    if reader.sample_rate not in _SAMPLE_RATES or reader.channels < 1:
        raise _corrupt(f"{reader.sample_rate} Hz and {reader.channels} channels, expected 100 to 1,000,000 Hz")
    mix = choose_channels(source_channels=reader.channels, codec_channels=target.channels, policy=target.channel_policy)
    channels = target.channels // mix.copies
    # 16 bits lose nothing where no sample is computed; they halve what travels between processes.
    stays_int16 = reader.is_pcm16 and reader.sample_rate == target.sample_rate and not mix.mean
    dtype: type[np.generic] = np.int16 if stays_int16 else np.float32
    resampler = make_resampler(
        target.resampler, source_rate=reader.sample_rate, target_rate=target.sample_rate, channels=channels
    )
    builder = WaveformBuilder(mix, resampler, channels=channels, dtype=dtype)
    collected = _collect(reader, builder, data, sniffed, dtype=dtype, target=target)
    truncated = _is_short(collected, reader, inspection, target)
    _refuse_length(collected.num_frames / reader.sample_rate, target)
    waveform = builder.finish()
    if waveform.shape[1] == 0:
        if truncated:
            raise _truncated("nothing is left of the audio")
        raise ItemError("no samples inside", stage=Stage.DECODE, reason=RejectReason.EMPTY)
    return DecodedItem(
        position=position,
        waveform=waveform,  # type: ignore[arg-type]  # float32 or int16, as chosen above
        facts=_facts(waveform, reader, channel=mix.channel, truncated=truncated, target=target),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Collected:
    num_frames: int
    cut_short: str | None
    """The decoder's complaint about a missing end, where truncated audio is kept."""


def _collect(
    reader: Reader,
    builder: WaveformBuilder,
    data: InputBytes,
    sniffed: Sniffed,
    *,
    dtype: type[np.generic],
    target: AudioTarget,
) -> _Collected:
    num_frames = 0
    try:
        for block in reader.blocks(
            dtype, block_values=SALVAGE_VALUES if target.on_truncated == "keep" else BLOCK_VALUES
        ):
            check_samples(block)
            builder.append(block)
            num_frames += len(block)
            if target.max_seconds is not None and num_frames > target.max_seconds * reader.sample_rate:
                break
    except ItemError as error:
        is_cut = sniffed.kind is AudioKind.FLAC and error.reason is RejectReason.CORRUPT
        if not is_cut or ends_with_whole_frame(data, sniffed.start):
            raise
        if target.on_truncated == "reject":
            raise _truncated(f"the last FLAC frame is cut; {error.message}") from error
        return _Collected(num_frames=num_frames, cut_short=error.message)
    return _Collected(num_frames=num_frames, cut_short=None)


def _refuse_damage(inspection: Inspection, target: AudioTarget) -> None:
    if inspection.truncation is not None and target.on_truncated == "reject":
        raise _truncated(inspection.truncation)
    if inspection.damage is not None:
        raise _corrupt(inspection.damage)


def _is_short(collected: _Collected, reader: Reader, inspection: Inspection, target: AudioTarget) -> bool:
    """Whether audio is missing; a reject where that is not kept."""
    promised = inspection.promised_frames if inspection.promised_frames is not None else reader.num_frames or 0
    if inspection.promised_rate is not None:
        promised = promised * reader.sample_rate // inspection.promised_rate
    promised -= inspection.tolerance_frames
    if target.max_seconds is not None and collected.num_frames > target.max_seconds * reader.sample_rate:
        return False  # not read to the end
    short = collected.num_frames < promised
    if short and target.on_truncated == "reject":
        raise _truncated(f"{collected.num_frames} samples decoded, expected {promised}")
    return short or collected.cut_short is not None or inspection.truncation is not None


def _refuse_length(seconds: float, target: AudioTarget) -> None:
    if target.min_seconds is not None and seconds < target.min_seconds:
        raise ItemError(
            f"{seconds:.3f} s, shorter than selection.filters.min_seconds = {target.min_seconds:g}",
            stage=Stage.FILTER,
            reason=RejectReason.TOO_SHORT,
        )
    if target.max_seconds is not None and seconds > target.max_seconds:
        raise ItemError(
            f"longer than selection.filters.max_seconds = {target.max_seconds:g}",
            stage=Stage.FILTER,
            reason=RejectReason.TOO_LONG,
        )


def _facts(
    waveform: npt.NDArray[np.generic], reader: Reader, *, channel: int, truncated: bool, target: AudioTarget
) -> AudioFacts:
    level = measure_level(waveform, sample_rate=target.sample_rate)
    return AudioFacts(
        num_samples=waveform.shape[1],
        sample_rate=target.sample_rate,
        source_sample_rate=reader.sample_rate,
        source_channels=reader.channels,
        source_format=reader.source_format,
        channel=channel,
        rms_db=level.rms_db,
        peak=level.peak,
        clipped_fraction=level.clipped_fraction,
        silent_fraction=level.silent_fraction,
        truncated=truncated,
    )


def _extension(item: Item) -> str:
    name = item.source_member or item.source_uri
    return posixpath.splitext(name)[1].removeprefix(".").lower()


def _truncated(message: str) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=RejectReason.TRUNCATED)


def _corrupt(message: str) -> ItemError:
    return ItemError(message, stage=Stage.DECODE, reason=RejectReason.CORRUPT)
