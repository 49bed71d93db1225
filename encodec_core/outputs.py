"""What the model's methods return: records that are mappings and can be indexed by position too."""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

__all__ = ["EncodecDecoderOutput", "EncodecEncoderOutput", "EncodecOutput"]


class _Output(dict[str, Any]):
    """A dict whose keys are attributes too, in the order of the fields, and which takes positions as transformers' do.

    Values are kept once, in the dict, so that nothing can set one view and leave the other behind. A field that is
    None, or was not given, is None as an attribute and absent from the dict, as in transformers.
    """

    def to_tuple(self) -> tuple[Any, ...]:
        """Return the values in order."""
        return tuple(self.values())

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            if name in _names_of(self):
                return None
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self)}") from error

    def __setattr__(self, name: str, value: Any) -> None:
        names = _names_of(self)
        if name not in names:
            self[name] = value
            return
        self.pop(name, None)
        kept = {**self} if value is None else {**self, name: value}
        self.clear()
        self.update((field_name, kept[field_name]) for field_name in names if field_name in kept)


def _names_of(output: _Output) -> list[str]:
    return [entry.name for entry in fields(output)]  # type: ignore[arg-type]


def _absent() -> Any:
    """Default of a field: a plain None would be an attribute of the class, and hide what the dict holds."""
    return None


@dataclass(eq=False)
class EncodecEncoderOutput(_Output):
    """Codes of a batch. Letters: S windows, B batch, K codebooks, T frames of a window."""

    audio_codes: Tensor = field(default_factory=_absent)
    """int64 `[S, B, K, T]`."""
    audio_scales: list[Tensor | None] = field(default_factory=_absent)
    """S entries: loudness `[B, 1]` of each window, or None where the model does not normalise."""
    last_frame_pad_length: int = field(default_factory=_absent)
    """Frames of the last window that are only filling (zeros), so that all windows fit one tensor."""


@dataclass(eq=False)
class EncodecDecoderOutput(_Output):
    """Waveform of a batch. Letters: B batch, C audio channels, T samples."""

    audio_values: Tensor = field(default_factory=_absent)
    """float `[B, C, T]`."""


@dataclass(eq=False)
class EncodecOutput(_Output):
    """Codes, and the waveform decoded from them."""

    audio_codes: Tensor = field(default_factory=_absent)
    """int64 `[S, B, K, T]`, as in `EncodecEncoderOutput`."""
    audio_values: Tensor = field(default_factory=_absent)
    """float `[B, C, T]`, as in `EncodecDecoderOutput`."""
