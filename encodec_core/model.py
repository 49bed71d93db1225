"""EncodecModel: audio to codes and back, a drop-in for the class of that name in transformers 5.23.

Letters in shapes: S windows, B batch, C audio channels, K codebooks in use (n_q), D latent channels, T time steps.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, Self, Unpack, overload

import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.checkpoint import Provenance, load_checkpoint, write_checkpoint
from encodec_core.config import EncodecConfig
from encodec_core.hub import HubOptions, Location
from encodec_core.modules.seanet import SEANetDecoder, SEANetEncoder
from encodec_core.outputs import EncodecDecoderOutput, EncodecEncoderOutput, EncodecOutput
from encodec_core.quantization.rvq import ResidualVectorQuantizer
from encodec_core.spans import window_spans
from encodec_core.windows import linear_overlap_add, loudness

__all__ = ["EncodecModel"]


class EncodecModel(nn.Module):
    """A SEANet encoder and decoder around a residual vector quantizer (arXiv 2210.13438, section 3).

    Args:
        config: the architecture. Weights are random, drawn from torch's global generator; `from_pretrained` loads
            trained ones.

    The state dict has the names, shapes and dtypes of transformers' `EncodecModel`; either loads the other's.

    Raises:
        ValueError: the codebook size is no power of 2, or the codebooks' channels are not the latents'.
    """

    config_class = EncodecConfig
    base_model_prefix = "encodec"
    main_input_name = "input_values"

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        if config.codebook_size < 1 or config.codebook_size & (config.codebook_size - 1):
            raise ValueError(
                f"codebook_size = {config.codebook_size} is no power of 2; published models have 1024 or 2048"
            )
        if config.codebook_dim != config.hidden_size:
            raise ValueError(
                f"codebook_dim = {config.codebook_dim} differs from hidden_size = {config.hidden_size}; leave it None"
            )
        self.config = config
        self.encoder = SEANetEncoder(config)
        self.decoder = SEANetDecoder(config)
        self.quantizer = ResidualVectorQuantizer(
            num_quantizers=config.num_quantizers,
            codebook_size=config.codebook_size,
            num_channels=config.hidden_size,
            frame_rate=config.frame_rate,
        )
        self.provenance: Provenance | None = None
        """Where the weights came from; None for weights that no file was read for."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        **options: Unpack[HubOptions],
    ) -> Self:
        """Load a trained codec, in evaluation mode, on the CPU.

        Args:
            pretrained_model_name_or_path: a local folder with `config.json` and weights (`model.safetensors`,
                `pytorch_model.bin`, or an index of several), a checkpoint of Meta's (a path that ends in `.th`), a hub
                id, or "demo" for the codec in this package (a folder of that name is "./demo").
            dtype: of the weights, as a torch dtype or its name. None: float32. "auto": the one that `config.json`
                names, else the one that the file holds.
            torch_dtype: older name of `dtype`.
            options: `revision`, `cache_dir`, `local_files_only`, `token`, `subfolder` and `force_download`, as of
                transformers and huggingface_hub; see `hub.Location`. `HF_HUB_OFFLINE=1` is honoured.

        Raises:
            FileNotFoundError: there is no such folder, file, repository or cached copy.
            ValueError: the weights are not those of the config, in which case the message names the keys; a file is
                damaged; or `dtype` is unknown, or given under both names.
            TypeError: another keyword; the message lists those that are taken.
        """
        if dtype is not None and torch_dtype is not None:
            raise ValueError(f"dtype = {dtype} and torch_dtype = {torch_dtype} are one setting; give dtype alone")
        location = Location.of(pretrained_model_name_or_path, also_accepted=("dtype", "torch_dtype"), **options)
        checkpoint = load_checkpoint(location, dtype=torch_dtype if dtype is None else dtype)
        # Not on "meta", where weight norm makes torch import its Python references: 1.0 s against 0.2 s here.
        with torch.random.fork_rng(devices=[]):
            model = cls(checkpoint.config)
        checkpoint.fill(model)
        model.provenance = checkpoint.provenance(model)
        return model.eval()

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Write `config.json`, `model.safetensors` and `preprocessor_config.json`, which transformers loads too."""
        write_checkpoint(self, self.config, save_directory)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def num_parameters(self, *, only_trainable: bool = False) -> int:
        """Count the parameters' numbers, the codebooks' not among them; `only_trainable` leaves out the frozen ones."""
        return sum(weights.numel() for weights in self.parameters() if weights.requires_grad or not only_trainable)

    @property
    def bits_per_codebook(self) -> int:
        """Bits of one code."""
        return self.config.codebook_nbits

    def encode_window(self, window: Tensor, *, n_q: int) -> tuple[Tensor, Tensor | None]:
        """Encode one window, or a recording that is encoded whole.

        Args:
            window: `[B, C, T]` float in [-1, 1] at the model's rate, T > 0.
            n_q: K.

        Returns:
            Codes int64 `[B, K, ceil(T / hop_length)]`, and the scale `[B, 1]` (None unless the model normalises).
        """
        scale = None
        if self.config.normalize:
            scale = loudness(window)
            window = window / scale
        codes = self.quantizer.quantize(self.encoder(window), n_q=n_q)
        return codes, None if scale is None else scale.view(-1, 1)

    def decode_window(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Decode `[B, K, T]` codes, and the scale `[B, 1]` or None, to `[B, C, T * hop_length]` samples."""
        waveform: Tensor = self.decoder(self.quantizer.dequantize(codes))
        return waveform if scale is None else waveform * scale.view(-1, 1, 1)

    # The types assume a config whose return_dict is True, the default; another turns None into tuples.
    @overload
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        bandwidth: float | None = None,
        return_dict: Literal[True] | None = None,
    ) -> EncodecEncoderOutput: ...

    @overload
    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        bandwidth: float | None = None,
        *,
        return_dict: Literal[False],
    ) -> tuple[Tensor, list[Tensor | None], int]: ...

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        bandwidth: float | None = None,
        return_dict: bool | None = None,
    ) -> EncodecEncoderOutput | tuple[Tensor, list[Tensor | None], int]:
        """Turn audio into codes.

        Args:
            input_values: `[B, C, T]` float in [-1, 1] at the model's rate; C is 1 or 2.
            padding_mask: `[B, T]` or `[B, C, T]`, nonzero where there is audio. The rest is set to zero and encoded all
                the same, as in transformers; None: all is audio.
            bandwidth: in kbps, one of `config.target_bandwidths`; None: the lowest.
            return_dict: False: a tuple; None: as the config says.

        Returns:
            Codes `[S, B, K, T]`, S scales, and how many frames of the last window are filling. S is 1 unless the codec
            has windows.

        Raises:
            ValueError: the bandwidth is not offered, or `input_values` has not three dimensions, 1 or 2 channels, and
                samples.
            RuntimeError: the number of channels is not the model's; or two windows at the end are part-filled to
                different lengths, for which this return value has no room.
        """
        codes, scales, pad_length = self._encode(input_values, padding_mask, bandwidth)
        if not self._returns_record(return_dict):
            return codes, scales, pad_length
        return EncodecEncoderOutput(audio_codes=codes, audio_scales=scales, last_frame_pad_length=pad_length)

    @overload
    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Sequence[Tensor | None],
        padding_mask: Tensor | None = None,
        return_dict: Literal[True] | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> EncodecDecoderOutput: ...

    @overload
    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Sequence[Tensor | None],
        padding_mask: Tensor | None = None,
        *,
        return_dict: Literal[False],
        last_frame_pad_length: int | None = 0,
    ) -> tuple[Tensor]: ...

    def decode(
        self,
        audio_codes: Tensor,
        audio_scales: Sequence[Tensor | None],
        padding_mask: Tensor | None = None,
        return_dict: bool | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> EncodecDecoderOutput | tuple[Tensor]:
        """Turn codes into audio; arguments are what `encode` returns.

        Args:
            audio_codes: integers `[S, B, K, T]`; K may be less than what was encoded.
            audio_scales: S scales `[B, 1]` or None.
            padding_mask: `[..., T]`: the audio is cut to its length.
            return_dict: False: a tuple; None: as the config says.
            last_frame_pad_length: frames to drop from the last window.

        Returns:
            Audio `[B, C, T]`: whole frames, unless cut by the mask.

        Raises:
            ValueError: several windows for a codec without windows, or another number of scales than of windows.
            TypeError: `audio_scales` is None.
        """
        audio = self._decode(audio_codes, audio_scales, padding_mask, last_frame_pad_length)
        return EncodecDecoderOutput(audio_values=audio) if self._returns_record(return_dict) else (audio,)

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        bandwidth: float | None = None,
        audio_codes: Tensor | None = None,
        audio_scales: Sequence[Tensor | None] | None = None,
        return_dict: bool | None = None,
        last_frame_pad_length: int | None = 0,
    ) -> EncodecOutput | tuple[Tensor, Tensor]:
        """Encode and decode; or decode `audio_codes` with `audio_scales`, cut to the length of `input_values`.

        Arguments are those of `encode` and `decode`.

        Returns:
            The codes `[S, B, K, T]` and the audio `[B, C, T]`, cut to the length of the mask or of `input_values`.

        Raises:
            ValueError: only one of `audio_codes` and `audio_scales` is given; or as of `encode` and `decode`.
        """
        if (audio_codes is None) != (audio_scales is None):
            given, missing = (
                ("audio_codes", "audio_scales") if audio_scales is None else ("audio_scales", "audio_codes")
            )
            raise ValueError(f"{given} is given without {missing}; give both to decode, or neither to encode first")
        if audio_codes is None or audio_scales is None:
            audio_codes, audio_scales, last_frame_pad_length = self._encode(input_values, padding_mask, bandwidth)
        mask = input_values if padding_mask is None else padding_mask
        audio = self._decode(audio_codes, audio_scales, mask, last_frame_pad_length)
        if not self._returns_record(return_dict):
            return audio_codes, audio
        return EncodecOutput(audio_codes=audio_codes, audio_values=audio)

    def _encode(
        self, input_values: Tensor, padding_mask: Tensor | None, bandwidth: float | None
    ) -> tuple[Tensor, list[Tensor | None], int]:
        n_q = self.config.n_q_for(self.config.target_bandwidths[0] if bandwidth is None else bandwidth)
        _check_waveform(input_values, num_channels=self.config.audio_channels)
        if padding_mask is not None:
            input_values = padding_mask.reshape(padding_mask.shape[0], -1, padding_mask.shape[-1]).bool() * input_values
        encoded = [self.encode_window(window, n_q=n_q) for window in self._windows(input_values)]
        codes, pad_length = _stack_windows([window_codes for window_codes, _ in encoded])
        return codes, [scale for _, scale in encoded], pad_length

    def _decode(
        self,
        audio_codes: Tensor,
        audio_scales: Sequence[Tensor | None] | None,
        padding_mask: Tensor | None,
        last_frame_pad_length: int | None,
    ) -> Tensor:
        if audio_scales is None:
            raise TypeError(
                "audio_scales is None; give the list that encode returned ([None] for codecs without scales)"
            )
        windows = list(audio_codes)
        if last_frame_pad_length:
            windows[-1] = windows[-1][..., :-last_frame_pad_length]
        if self.config.chunk_length is None and len(windows) != 1:
            raise ValueError(f"audio_codes has {len(windows)} windows; this codec encodes a recording whole, as one")
        if len(windows) != len(audio_scales):
            raise ValueError(
                f"audio_codes has {len(windows)} windows and audio_scales {len(audio_scales)}; give one scale for each"
            )
        decoded = [self.decode_window(codes, scale) for codes, scale in zip(windows, audio_scales, strict=True)]
        if self.config.chunk_length is None:
            (audio,) = decoded
        else:
            # A lone window goes through the weighting too: its rounding is part of what the references return.
            audio = linear_overlap_add(decoded, stride=self.config.chunk_stride or 1)
        return audio if padding_mask is None else audio[..., : padding_mask.shape[-1]]

    def _windows(self, waveform: Tensor) -> list[Tensor]:
        length, stride = self.config.chunk_length, self.config.chunk_stride
        if length is not None and stride is None:
            raise TypeError(
                f"config.chunk_length_s = {self.config.chunk_length_s} needs config.overlap, which is None; set it"
            )
        return [waveform[..., span] for span in window_spans(waveform.shape[-1], length=length, stride=stride)]

    def _returns_record(self, return_dict: bool | None) -> bool:
        return self.config.return_dict if return_dict is None else return_dict


def _check_waveform(waveform: Tensor, *, num_channels: int) -> None:
    if waveform.dim() != 3 or waveform.shape[-1] == 0:
        raise ValueError(f"input_values has the shape {tuple(waveform.shape)}; expected [batch, channels, samples > 0]")
    channels = waveform.shape[1]
    if channels not in (1, 2):
        raise ValueError(f"input_values has {channels} channels; expected 1 or 2, as [batch, channels, samples]")
    if channels != num_channels:
        raise RuntimeError(
            f"input_values has {channels} channels, the model {num_channels}; mix or duplicate them first"
        )


def _stack_windows(codes: list[Tensor]) -> tuple[Tensor, int]:
    """Stack `[B, K, T_i]` to `[S, B, K, T]`, the last one filled with zeros, and say with how many."""
    num_frames = codes[0].shape[-1]
    if any(window.shape[-1] != num_frames for window in codes[:-1]):
        raise RuntimeError(
            f"the last two windows: {codes[-2].shape[-1]} and {codes[-1].shape[-1]} frames, the others {num_frames}; "
            "only the last may be part-filled. Let EncodecFeatureExtractor pad to whole windows, or use BatchEncoder"
        )
    pad_length = num_frames - codes[-1].shape[-1]
    return torch.stack([*codes[:-1], functional.pad(codes[-1], (0, pad_length))]), pad_length
