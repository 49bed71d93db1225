"""EncodecFeatureExtractor: recordings of different lengths to one padded batch, a drop-in for transformers' class."""

import json
import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encodec_core.hub import EXTRACTOR_FILE, HubOptions, Location, read_json_object

__all__ = ["AudioFeatures", "EncodecFeatureExtractor"]

logger = logging.getLogger(__name__)

Samples = NDArray[np.float32]
Padding = Literal["longest", "max_length", "do_not_pad"]


class AudioFeatures(dict[str, Any]):
    """`input_values` and `padding_mask`, by key or as attributes; `model(**features)` works."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(f"there is no {name!r} here; there are {', '.join(self)}") from error

    def to(
        self,
        device: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
        *,
        non_blocking: bool = False,
    ) -> Self:
        """Move all tensors to `device`, cast floating point ones to `dtype`, in place, and return these features.

        Args:
            device: of torch; None: where they are. A dtype here is `dtype`, as in `features.to(torch.float16)`.
            dtype: of floating point tensors; None: as they are.
            non_blocking: as of `torch.Tensor.to`.

        What is no tensor (`return_tensors` was not "pt") stays as it is.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        for name, value in self.items():
            if isinstance(value, Tensor):
                cast_to = dtype if value.is_floating_point() else None
                self[name] = value.to(device=device, dtype=cast_to, non_blocking=non_blocking)
        return self


class EncodecFeatureExtractor:
    """Pads recordings to one batch; constructor keys, defaults and results are those of transformers 5.23.

    Args:
        feature_size: audio channels, 1 or 2.
        sampling_rate: samples per second that recordings must have.
        padding_value: what padding is filled with.
        chunk_length_s, overlap: windows of the codec, as in its config. Where both are set, a batch is padded up, or
            cut down, to whole windows; note that a codec encodes a window that is only padding like any other.
        padding_side: "right" or "left".
        return_attention_mask: kept for `preprocessor_config.json`; the mask is returned wherever there is padding.
        unread: other keys of a `preprocessor_config.json`, written back as they came.
    """

    model_input_names = ("input_values", "padding_mask")

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 24_000,
        padding_value: float = 0.0,
        chunk_length_s: float | None = None,
        overlap: float | None = None,
        *,
        padding_side: str = "right",
        return_attention_mask: bool = True,
        **unread: Any,
    ) -> None:
        if padding_side not in ("right", "left"):
            raise ValueError(f"padding_side = {padding_side!r} is unknown; choose right or left")
        self.feature_size = feature_size
        self.sampling_rate = sampling_rate
        self.padding_value = padding_value
        self.chunk_length_s = chunk_length_s
        self.overlap = overlap
        self.padding_side = padding_side
        self.return_attention_mask = return_attention_mask
        self._unread = {key: value for key, value in unread.items() if not key.endswith("_type")}

    @property
    def chunk_length(self) -> int | None:
        """Samples of a window; None where a recording is encoded whole."""
        return None if self.chunk_length_s is None else int(self.chunk_length_s * self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a window to the start of the next."""
        if self.chunk_length is None or self.overlap is None:
            return None
        return max(1, int((1.0 - self.overlap) * self.chunk_length))

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> AudioFeatures:
        """Make a batch of one recording or of several.

        Args:
            raw_audio: one recording, `[T]` for mono or `[2, T]` for stereo (for one recording, an array), or a list of
                such. Lists of numbers are taken for arrays. Becomes float32; integers are not scaled.
            padding: None, True or "longest": to the longest; "max_length": to `max_length`; False or "do_not_pad". With
                windows, any padding goes up to whole windows of the longest unless `max_length` says otherwise.
            truncation: cut to `max_length`; with windows, and without `max_length`, down to whole windows of the
                shortest.
            max_length: in samples.
            return_tensors: "pt", "np", or None for a list of arrays.
            sampling_rate: rate of `raw_audio`; checked where it is given, warned about where not.

        Returns:
            `input_values` float32 `[B, C, T]` and, where there is padding, `padding_mask` int32 `[B, T]`, 1 where there
            is audio.

        Raises:
            ValueError: the rate or the number of channels is not the codec's, both padding and truncation are asked
                for, a length is missing, or recordings of different lengths cannot make one tensor.
        """
        self._check_rate(sampling_rate)
        if padding and truncation:
            raise ValueError("padding and truncation are both set; set one of them")
        recordings = [self._checked(recording) for recording in _recordings(raw_audio)]
        strategy, max_length = self._lengths(recordings, padding=padding, truncation=truncation, max_length=max_length)
        if truncation:
            recordings = [recording[:max_length] for recording in recordings]
        masks = [np.ones(len(recording), dtype=np.int32) for recording in recordings]
        if strategy == "longest":
            max_length = max(len(recording) for recording in recordings)
        if strategy != "do_not_pad" and max_length is not None:
            recordings = [self._pad(recording, max_length, value=self.padding_value) for recording in recordings]
            masks = [self._pad(mask, max_length, value=0) for mask in masks]
        waveforms = [recording[None] if self.feature_size == 1 else recording.T for recording in recordings]
        features = AudioFeatures() if padding is False else AudioFeatures(padding_mask=_batch(masks, return_tensors))
        features["input_values"] = waveforms if return_tensors is None else _batch(waveforms, return_tensors)
        return features

    def _check_rate(self, sampling_rate: int | None) -> None:
        if sampling_rate is None:
            logger.warning(
                "sampling_rate is not given: audio at another rate than %d Hz would be encoded wrongly without a word",
                self.sampling_rate,
            )
        elif sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate = {sampling_rate} Hz, but this codec takes {self.sampling_rate} Hz; resample first"
            )

    def _checked(self, recording: Samples) -> Samples:
        """Check one recording, time first: `[T]`, or `[T, 2]` for stereo."""
        wanted = "[samples]" if self.feature_size == 1 else f"[{self.feature_size}, samples]"
        fits = (
            recording.ndim == 1
            if self.feature_size == 1
            else recording.ndim == 2 and recording.shape[1] == self.feature_size
        )
        if not fits:
            raise ValueError(f"a recording has the shape {list(recording.T.shape)}; this codec takes {wanted}")
        return recording

    def _lengths(
        self,
        recordings: Sequence[Samples],
        *,
        padding: bool | str | None,
        truncation: bool | None,
        max_length: int | None,
    ) -> tuple[Padding, int | None]:
        """Decide how to pad, and the length to pad or cut to (None: the longest recording's, or none)."""
        strategy = _padding_strategy(padding)
        if max_length is None and self.chunk_stride is not None:
            lengths = [len(recording) for recording in recordings]
            if truncation:
                max_length = self._whole_windows(min(lengths) // self.chunk_stride)
            elif padding is not False:
                strategy, max_length = "max_length", self._whole_windows(-(-max(lengths) // self.chunk_stride))
        if max_length is None and (truncation or strategy == "max_length"):
            raise ValueError("max_length is None; give it in samples to cut or pad to a length")
        return strategy, max_length

    def _whole_windows(self, num_windows: int) -> int:
        """Return the samples that so many windows span."""
        stride, length = self.chunk_stride or 0, self.chunk_length or 0
        return (num_windows - 1) * stride + length

    def _pad(self, values: NDArray[Any], length: int, *, value: float) -> NDArray[Any]:
        """Pad the first dimension to `length`; what is longer stays."""
        missing = max(0, length - len(values))
        before_after = (0, missing) if self.padding_side == "right" else (missing, 0)
        return np.pad(values, [before_after] + [(0, 0)] * (values.ndim - 1), constant_values=value)

    def to_dict(self) -> dict[str, Any]:
        """Return all keys of `preprocessor_config.json`."""
        keys = {key: value for key, value in vars(self).items() if key != "_unread"}
        return self._unread | keys | {"feature_extractor_type": type(self).__name__}

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        **options: Unpack[HubOptions],
    ) -> "EncodecFeatureExtractor":
        """Read `preprocessor_config.json` from a local folder, the hub, or the codec inside this package ("demo").

        Raises:
            FileNotFoundError: there is no such folder, repository, file or cached copy.
            ValueError: the file is no JSON object.
            TypeError: a keyword is unknown; `hub.HubOptions` lists those that are taken.
        """
        location = Location.of(pretrained_model_name_or_path, **options)
        return cls(**read_json_object(location.file(EXTRACTOR_FILE)))

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write `preprocessor_config.json` into `save_directory`, which is made where it is missing."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        (Path(save_directory) / EXTRACTOR_FILE).write_text(text, encoding="utf-8")

    def __repr__(self) -> str:
        return f"{type(self).__name__} {json.dumps(self.to_dict(), indent=2, sort_keys=True)}"


def _recordings(raw_audio: Any) -> list[Samples]:
    """Make a list of recordings, time first, of one recording or several."""
    if len(raw_audio) == 0:
        raise ValueError("raw_audio is empty; give one recording, or a list of recordings")
    is_batch = isinstance(raw_audio, list | tuple) and isinstance(raw_audio[0], np.ndarray | list | tuple)
    recordings = raw_audio if is_batch else [raw_audio]
    return [np.asarray(recording, dtype=np.float32).T for recording in recordings]


def _padding_strategy(padding: bool | str | None) -> Padding:
    strategies: dict[bool | str | None, Padding] = {None: "longest", True: "longest", False: "do_not_pad"}
    strategies |= {"longest": "longest", "max_length": "max_length", "do_not_pad": "do_not_pad"}
    if padding not in strategies:
        raise ValueError(f"padding = {padding!r} is unknown; choose True, False, longest, max_length or do_not_pad")
    return strategies[padding]


def _batch(arrays: Sequence[NDArray[Any]], return_tensors: str | None) -> Any:
    """Stack arrays; where they are of different lengths and no tensors are asked for, they stay an array of arrays."""
    if return_tensors not in (None, "np", "pt"):
        raise ValueError(f"return_tensors = {return_tensors!r} is unknown; choose pt, np or None")
    if len({array.shape for array in arrays}) == 1:
        stacked = np.stack(arrays)
    elif return_tensors is None:
        stacked = np.empty(len(arrays), dtype=object)
        stacked[:] = arrays
    else:
        lengths = sorted({array.shape[-1] for array in arrays})
        raise ValueError(
            f"recordings of {lengths} samples make no tensor; pad them (padding=True) or leave return_tensors None"
        )
    return torch.from_numpy(stacked) if return_tensors == "pt" else stacked
