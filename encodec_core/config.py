"""What decides the shape and the arithmetic of a codec: the keys of `config.json`, and what follows from them."""

import json
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack, cast, get_args

from encodec_core.hub import CONFIG_FILE, HubOptions, Location, read_json_object
from encodec_core.spans import window_length, window_stride

__all__ = ["PAD_MODES", "EncodecConfig", "NormType", "why_not_streamed"]

NormType = Literal["weight_norm", "time_group_norm"]

PAD_MODES = ("reflect", "constant", "replicate", "circular")


class EncodecConfig:
    """Architecture of an EnCodec model, with the keys, defaults and derived properties of transformers 5.23.

    A config built without arguments is the published 24 kHz model. Keys that no part of the model reads
    (`architectures`, `transformers_version`, ...) are kept as attributes and written back, so that any published
    `config.json` is accepted.

    Raises:
        ValueError: `norm_type` or `pad_mode` is unknown.
    """

    model_type = "encodec"

    def __init__(
        self,
        *,
        target_bandwidths: Sequence[float] = (1.5, 3.0, 6.0, 12.0, 24.0),
        sampling_rate: int = 24_000,
        audio_channels: int = 1,
        normalize: bool = False,
        chunk_length_s: float | None = None,
        overlap: float | None = None,
        hidden_size: int = 128,
        num_filters: int = 32,
        num_residual_layers: int = 1,
        upsampling_ratios: Sequence[int] = (8, 5, 4, 2),
        norm_type: str = "weight_norm",
        kernel_size: int = 7,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 3,
        dilation_growth_rate: int = 2,
        use_causal_conv: bool = True,
        pad_mode: str = "reflect",
        compress: int = 2,
        num_lstm_layers: int = 2,
        trim_right_ratio: float = 1.0,
        codebook_size: int = 1024,
        codebook_dim: int | None = None,
        use_conv_shortcut: bool = True,
        return_dict: bool = True,
        **unread: Any,
    ) -> None:
        if norm_type not in get_args(NormType):
            raise ValueError(f"norm_type = {norm_type!r} is unknown; choose one of {', '.join(get_args(NormType))}")
        if pad_mode not in PAD_MODES:
            raise ValueError(f"pad_mode = {pad_mode!r} is unknown; choose one of {', '.join(PAD_MODES)}")
        self.target_bandwidths = target_bandwidths
        """Bandwidths offered, in kbps, lowest first; the last decides the number of codebooks."""
        self.sampling_rate = sampling_rate
        """Samples per second."""
        self.audio_channels = audio_channels
        self.normalize = normalize
        """Divide each window by its loudness before encoding, and hand the loudness out as its scale."""
        self.chunk_length_s = chunk_length_s
        """Seconds of a window; None: a recording is encoded whole."""
        self.overlap = overlap
        """Share of a window that the next one repeats."""
        self.hidden_size = hidden_size
        """Channels of the latents."""
        self.num_filters = num_filters
        """Channels at the audio's rate; doubled by each downsampling."""
        self.num_residual_layers = num_residual_layers
        self.upsampling_ratios = upsampling_ratios
        """Strides of the decoder, in its order; the encoder goes through them backwards."""
        self.norm_type = cast(NormType, norm_type)
        self.kernel_size = kernel_size
        self.last_kernel_size = last_kernel_size
        self.residual_kernel_size = residual_kernel_size
        self.dilation_growth_rate = dilation_growth_rate
        self.use_causal_conv = use_causal_conv
        self.pad_mode = pad_mode
        self.compress = compress
        """By how much residual blocks narrow their channels."""
        self.num_lstm_layers = num_lstm_layers
        self.trim_right_ratio = trim_right_ratio
        self.codebook_size = codebook_size
        self.codebook_dim = hidden_size if codebook_dim is None else codebook_dim
        self.use_conv_shortcut = use_conv_shortcut
        self.return_dict = return_dict
        """What the methods of the model do where their own `return_dict` is None."""
        self._unread = {key: value for key, value in unread.items() if key != "model_type"}

    @classmethod
    def encodec_24khz(cls, **changes: Any) -> "EncodecConfig":
        """Return the published 24 kHz mono model (causal, 75 frames per second, up to 32 codebooks), with `changes`."""
        return cls(**changes)

    @classmethod
    def encodec_48khz(cls, **changes: Any) -> "EncodecConfig":
        """Return the published 48 kHz stereo model (windows of 1 s, 150 frames per second), with `changes`."""
        published: dict[str, Any] = {
            "target_bandwidths": (3.0, 6.0, 12.0, 24.0),
            "sampling_rate": 48_000,
            "audio_channels": 2,
            "normalize": True,
            "chunk_length_s": 1.0,
            "overlap": 0.01,
            "norm_type": "time_group_norm",
            "use_causal_conv": False,
        }
        return cls(**(published | changes))

    @classmethod
    def musicgen_32khz(cls, **changes: Any) -> "EncodecConfig":
        """Return the 32 kHz mono model of MusicGen (not causal, 50 frames per second, 4 codebooks), with `changes`.

        The values are those of `facebook/encodec_32khz`, as transformers' conversion of Meta's checkpoint sets them.
        """
        published: dict[str, Any] = {
            "target_bandwidths": (2.2,),
            "sampling_rate": 32_000,
            "num_filters": 64,
            "upsampling_ratios": (8, 5, 4, 4),
            "codebook_size": 2048,
            "use_causal_conv": False,
            "use_conv_shortcut": False,
        }
        return cls(**(published | changes))

    @property
    def chunk_length(self) -> int | None:
        """Samples of a window; None where a recording is encoded whole."""
        return window_length(self.chunk_length_s, sampling_rate=self.sampling_rate)

    @property
    def chunk_stride(self) -> int | None:
        """Samples from the start of a window to the start of the next."""
        return window_stride(self.chunk_length, overlap=self.overlap)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> int:
        """Frames per second, rounded up."""
        return -(-self.sampling_rate // self.hop_length)

    @property
    def codebook_nbits(self) -> int:
        """Bits of one code."""
        return math.ceil(math.log2(self.codebook_size))

    @property
    def num_quantizers(self) -> int:
        """Codebooks of the model: as many as the highest bandwidth pays for."""
        return int(1000 * self.target_bandwidths[-1] // (self.frame_rate * self.codebook_nbits))

    def n_q_for(self, bandwidth_kbps: float) -> int:
        """Return how many codebooks `bandwidth_kbps` pays for, at least one.

        Raises:
            ValueError: the bandwidth is not in `target_bandwidths`.
        """
        if bandwidth_kbps not in self.target_bandwidths:
            offered = ", ".join(f"{offered:g}" for offered in self.target_bandwidths)
            raise ValueError(
                f"bandwidth = {bandwidth_kbps} kbps is not offered by this {self.sampling_rate} Hz model; "
                f"choose one of {offered}"
            )
        bits_per_second = math.log2(self.codebook_size) * self.frame_rate
        return max(1, math.floor(bandwidth_kbps * 1000 / bits_per_second))

    def to_dict(self) -> dict[str, Any]:
        """Return all keys in the types of JSON; `EncodecConfig(**config.to_dict())` equals `config`."""
        keys = {key: value for key, value in vars(self).items() if key != "_unread"}
        keys["target_bandwidths"] = list(self.target_bandwidths)
        keys["upsampling_ratios"] = list(self.upsampling_ratios)
        return self._unread | keys | {"model_type": self.model_type}

    @classmethod
    def from_dict(cls, keys: dict[str, Any]) -> "EncodecConfig":
        """Build a config from the keys of a `config.json`.

        Raises:
            ValueError: `model_type` is another model's.
        """
        if keys.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(f"model_type = {keys['model_type']!r} is not an EnCodec; expected {cls.model_type!r}")
        return cls(**keys)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        **options: Unpack[HubOptions],
    ) -> "EncodecConfig":
        """Read `config.json` from a local folder, the hub, or the codec inside this package ("demo").

        Raises:
            FileNotFoundError: there is no such folder, repository or cached copy.
            ValueError: the file is no JSON object, or another model's.
            TypeError: a keyword is unknown; `hub.HubOptions` lists those that are taken.
        """
        return cls.from_json_file(Location.of(pretrained_model_name_or_path, **options).file(CONFIG_FILE))

    @classmethod
    def from_json_file(cls, json_file: str | PathLike[str]) -> "EncodecConfig":
        """Read what `to_json_file` wrote, or a `config.json`.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no JSON object, or another model's.
        """
        return cls.from_dict(read_json_object(Path(json_file)))

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write `config.json` into `save_directory`, which is made where it is missing."""
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        self.to_json_file(Path(save_directory) / CONFIG_FILE)

    def to_json_string(self) -> str:
        """Return `to_dict` as indented JSON, keys sorted."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def to_json_file(self, json_file_path: str | PathLike[str]) -> None:
        """Write `to_json_string` to a file."""
        Path(json_file_path).write_text(self.to_json_string(), encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        unread = self.__dict__.get("_unread", {})
        if name in unread:
            return unread[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodecConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"


def why_not_streamed(config: EncodecConfig) -> str | None:
    """Say why a codec needs the whole recording; None for one with windows, and for a causal one."""
    if config.chunk_length is not None:
        return None
    reasons = {
        "its convolutions are not causal, so that codes depend on audio to come": not config.use_causal_conv,
        "it normalises over the whole recording (norm_type = 'time_group_norm')": config.norm_type != "weight_norm",
        "it divides a recording by its loudness (normalize = True)": config.normalize,
        "it pads a recording with its other end (pad_mode = 'circular')": config.pad_mode == "circular",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
