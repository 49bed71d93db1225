"""What the bytes of a container say before any of them is decoded."""

from dataclasses import dataclass

__all__ = ["Inspection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Findings about one input; all None when nothing speaks against it."""

    truncation: str | None = None
    """Why bytes must be missing."""
    damage: str | None = None
    """Why the bytes that are there cannot be whole."""
    sound_frames: int | None = None
    """Samples per channel before the damage or the lost end, at the decoder's rate or `promised_rate`; of damage at a
    place that is not known, 0. None: all that the decoder gives lies before it."""
    promised_frames: int | None = None
    """Samples per channel that the container stands for; None: what the decoder says."""
    promised_rate: int | None = None
    """Rate in Hz that `promised_frames` and `sound_frames` count in; None: the decoder's."""
    tolerance_frames: int = 0
    """How many fewer are still whole."""
    head: bytes = b""
    """What decoders are shown in place of the bytes before `skip`."""
    counted_head: bytes = b""
    """As `head`, for a decoder that guesses a length short of `promised_frames`: it states the length."""
    counted_delay: int = 0
    """Samples that `counted_head` puts before the audio."""
    skip: int = 0
    """First byte of the input that decoders are shown as it is."""
