"""What the model's methods return: records that are mappings and can be indexed by position too."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

__all__ = ["EncodecDecoderOutput", "EncodecEncoderOutput", "EncodecOutput"]


class _Output(Mapping[str, Any]):
    """A dataclass that is also a mapping of its fields, and takes positions as keys, as transformers' outputs do."""

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the fields in order."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        if not isinstance(key, str):
            return self.to_tuple()[key]
        if key not in list(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class EncodecEncoderOutput(_Output):
    """Codes of a batch. Letters: S windows, B batch, K codebooks, T frames of a window."""

    audio_codes: Tensor
    """int64 `[S, B, K, T]`."""
    audio_scales: list[Tensor | None]
    """S entries: loudness `[B, 1]` of each window, or None where the model does not normalise."""
    last_frame_pad_length: int
    """Frames of the last window that are only filling (zeros), so that all windows fit one tensor."""


@dataclass(frozen=True, eq=False)
class EncodecDecoderOutput(_Output):
    """Waveform of a batch. Letters: B batch, C audio channels, T samples."""

    audio_values: Tensor
    """float `[B, C, T]`."""


@dataclass(frozen=True, eq=False)
class EncodecOutput(_Output):
    """Codes, and the waveform decoded from them."""

    audio_codes: Tensor
    """int64 `[S, B, K, T]`, as in `EncodecEncoderOutput`."""
    audio_values: Tensor
    """float `[B, C, T]`, as in `EncodecDecoderOutput`."""
