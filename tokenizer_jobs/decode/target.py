"""What waveforms are made into, and which are refused: a job's recipe and filters, as decoding needs them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from tokenizer_jobs.errors import ConfigError

if TYPE_CHECKING:  # a decode worker gets its target ready made; these would be a tenth of its start
    from tokenizer_jobs.config import AudioRecipe, Filters
    from tokenizer_jobs.recipe import CodecFacts

__all__ = ["AudioTarget"]


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
    def for_codec(cls, facts: "CodecFacts", *, audio: "AudioRecipe", filters: "Filters") -> Self:
        """What a codec takes, under a job's recipe and filters.

        Raises:
            ConfigError: the recipe asks for what the codec cannot do.
        """
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
        if self.slice_samples is not None and self.long_audio == "exact" and not self.streamed:
            raise ConfigError(
                "recipe.audio.slice_seconds with long_audio = exact needs a codec whose state can be carried from "
                "slice to slice, and this one looks ahead; set recipe.audio.long_audio = restart, or slice_seconds = "
                "null"
            )


def _slice_samples(seconds: float | None, facts: "CodecFacts") -> int | None:
    if seconds is None:
        return None
    return max(1, round(seconds * facts.sample_rate / facts.grain_samples)) * facts.grain_samples
