"""EncodecFeatureExtractor: recordings of different lengths to one padded batch, a drop-in for transformers' class."""

import json
import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from encodec_core.features import AudioFeatures, Padding, columns, padding_strategy, stack
from encodec_core.hub import EXTRACTOR_FILE, HubOptions, Location, read_json_object
from encodec_core.spans import window_length, window_stride

__all__ = ["AudioFeatures", "EncodecFeatureExtractor"]

logger = logging.getLogger(__name__)

Samples = NDArray[np.float32]


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
        return window_length(self.chunk_length_s, sampling_rate=self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a window to the start of the next."""
        return window_stride(self.chunk_length, overlap=self.overlap)

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
            # Word for word transformers' message, for those who match on it.
            raise ValueError("Both padding and truncation were set. Make sure you only set one.")
        recordings = [self._checked(recording) for recording in _recordings(raw_audio)]
        strategy, max_length = self._lengths(recordings, padding=padding, truncation=truncation, max_length=max_length)
        padded = self.pad(
            {"input_values": recordings},
            padding=strategy,
            max_length=max_length,
            truncation=truncation,
            return_attention_mask=padding is not False,
        )
        waveforms = [recording[None] if self.feature_size == 1 else recording.T for recording in padded.input_values]
        features = AudioFeatures()
        if "attention_mask" in padded:
            masks = list(padded.attention_mask)
            features["padding_mask"] = stack(masks, name="padding_mask", return_tensors=return_tensors)
        as_list = return_tensors is None
        features["input_values"] = (
            waveforms if as_list else stack(waveforms, name="input_values", return_tensors=return_tensors)
        )
        return features

    def pad(
        self,
        processed_features: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str | None = True,
        max_length: int | None = None,
        truncation: bool | None = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> AudioFeatures:
        """Bring items to one length; time is their first dimension. No windows are looked at.

        Args:
            processed_features: `input_values`, `[T]` or `[T, C]` for each item, and what else goes with them; or a list
                of items with these names, so that this can be the `collate_fn` of a data loader.
            padding: True, None or "longest": to the longest; "max_length": to `max_length`; False or "do_not_pad".
            max_length: in samples.
            truncation: first cut to `max_length`.
            pad_to_multiple_of: samples; lengths to pad or cut to are rounded up to it.
            return_attention_mask: add `attention_mask` int32 `[B, T]`, 1 where there is audio; None: as this extractor
                was built.
            return_tensors: "pt" or "np"; None: tensors for tensors, else arrays.

        Returns:
            The features by name, float64 made float32. Where lengths differ, arrays are arrays of arrays.

        Raises:
            ValueError: there are no `input_values`, a length is missing, or items of different lengths cannot make one
                tensor.
        """
        given = columns(processed_features)
        if "input_values" not in given:
            raise ValueError(f"there are no 'input_values' to pad, only {', '.join(given) or 'nothing'}; add them")
        strategy = padding_strategy(padding)
        if max_length is None and (truncation or strategy == "max_length"):
            raise ValueError("max_length is None; give it in samples to cut or pad to a length")
        if return_tensors is None and len(given["input_values"]) and isinstance(given["input_values"][0], Tensor):
            return_tensors = "pt"
        features = {name: [_single_precision(value) for value in values] for name, values in given.items()}
        if self.return_attention_mask if return_attention_mask is None else return_attention_mask:
            masks = [np.ones(len(recording), dtype=np.int32) for recording in features["input_values"]]
            features.setdefault("attention_mask", masks)
        fillings = {"input_values": self.padding_value, "attention_mask": 0}
        for name in fillings.keys() & features.keys():
            if truncation:
                end = _rounded_up(max_length or 0, multiple=pad_to_multiple_of)
                features[name] = [values[:end] for values in features[name]]
            if strategy != "do_not_pad":
                longest = max((len(values) for values in features[name]), default=0)
                wanted = longest if strategy == "longest" else max_length or 0
                length = _rounded_up(wanted, multiple=pad_to_multiple_of)
                features[name] = [self._pad(values, length, value=fillings[name]) for values in features[name]]
        as_tensors = None if return_tensors == "np" else return_tensors
        return AudioFeatures(
            {name: stack(values, name=name, return_tensors=as_tensors) for name, values in features.items()}
        )

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
        strategy = padding_strategy(padding)
        if max_length is None and self.chunk_stride is not None:
            lengths = [len(recording) for recording in recordings]
            if truncation:
                max_length = self._whole_windows(min(lengths) // self.chunk_stride)
            elif padding is not False:
                strategy, max_length = "max_length", self._whole_windows(-(-max(lengths) // self.chunk_stride))
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

    def to_json_string(self) -> str:
        """Return `to_dict` as indented JSON, keys sorted."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | PathLike[str]) -> None:
        """Write `to_json_string` to a file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    @classmethod
    def from_json_file(cls, json_file: str | PathLike[str]) -> "EncodecFeatureExtractor":
        """Read what `to_json_file` wrote, or a `preprocessor_config.json`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no JSON object.
        """
        return cls(**read_json_object(Path(json_file)))

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
        return cls.from_json_file(Location.of(pretrained_model_name_or_path, **options).file(EXTRACTOR_FILE))

    def save_pretrained(self, save_directory: str | PathLike[str]) -> list[str]:
        """Write `preprocessor_config.json` into `save_directory`, made where it is missing; return its path in a list.

        A list, because transformers' class returns one.
        """
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        path = Path(save_directory) / EXTRACTOR_FILE
        self.to_json_file(path)
        return [str(path)]

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def _recordings(raw_audio: Any) -> list[Samples]:
    """Make a list of recordings, time first, of one recording or several."""
    if len(raw_audio) == 0:
        raise ValueError("raw_audio is empty; give one recording, or a list of recordings")
    is_batch = isinstance(raw_audio, list | tuple) and isinstance(raw_audio[0], np.ndarray | list | tuple)
    recordings = raw_audio if is_batch else [raw_audio]
    return [np.asarray(recording, dtype=np.float32).T for recording in recordings]


def _single_precision(values: Any) -> NDArray[Any]:
    """Make an array of one item's values, float64 made float32."""
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _rounded_up(length: int, *, multiple: int | None) -> int:
    return length if multiple is None else -(-length // multiple) * multiple
