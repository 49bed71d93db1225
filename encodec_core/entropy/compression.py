"""Audio to `.ecdc` bytes and back, byte for byte as Meta's package with the same weights.

Letters in shapes: C channels, n samples, K codebooks in use (n_q), T frames.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encodec_core.config import EncodecConfig
from encodec_core.entropy.coding import (
    CodePredictor,
    FloatPredictor,
    decode_window,
    encode_window,
    pack_window,
    read_exactly,
    unpack_window,
)
from encodec_core.entropy.container import EcdcHeader, encoded_header, read_header
from encodec_core.entropy.errors import EcdcError
from encodec_core.entropy.fixed_point import FixedPointLanguageModel
from encodec_core.entropy.lm import LanguageModel
from encodec_core.entropy.naming import PUBLISHED_CODECS, check_published_layout, codec_name_of, short_sha256
from encodec_core.entropy.recordings import Window, decoded_waveform, encoded_windows, window_lengths
from encodec_core.fast.precision import exact_float32
from encodec_core.model import EncodecModel
from encodec_core.weights import weights_sha256

__all__ = ["compress", "compress_to_file", "decompress", "decompress_from_file"]

MAX_PEAK = 1e9
"""The squares of louder samples leave float32, and windows their scale."""
_SCALE = struct.Struct("!f")
_CHECKSUM = struct.Struct("!I")


def compress(
    model: EncodecModel,
    waveform: Tensor,
    *,
    bandwidth_kbps: float = 6.0,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
) -> bytes:
    """Compress one recording; see `compress_to_file`."""
    file = io.BytesIO()
    compress_to_file(
        model,
        waveform,
        file,
        bandwidth_kbps=bandwidth_kbps,
        language_model=language_model,
        codec_name=codec_name,
    )
    return file.getvalue()


@torch.no_grad()
@exact_float32()
def compress_to_file(
    model: EncodecModel,
    waveform: Tensor,
    file: BinaryIO,
    *,
    bandwidth_kbps: float = 6.0,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
) -> None:
    """Compress one recording into a file, window by window where the codec has windows.

    Args:
        model: the codec.
        waveform: float32 `[C, n]` in [-1, 1] at the codec's rate, n > 0. Without windows, what is longer than two
            minutes is encoded by `BatchEncoder`, in bounded memory: its codes are the references' but for near ties.
        file: is written from where it stands, and not closed.
        bandwidth_kbps: one of the codec's.
        language_model: None: codes are packed. A `LanguageModel`: Meta's arithmetic coder; such a stream can be read
            back on the same kind of machine with the same version of torch. A `FixedPointLanguageModel`: a stream that
            every machine reads, in a version of the format that Meta's package refuses.
        codec_name: the name in the file; None: see `naming.codec_name_of`. "encodec_24khz" and "encodec_48khz" are for
            weights that are the published ones though nothing tells it.

    Raises:
        ValueError: the bandwidth is not offered, the waveform has another shape or dtype, or the language model or the
            name does not fit the codec.
    """
    config = model.config
    num_codebooks = config.n_q_for(bandwidth_kbps)
    _check_waveform(waveform, model)
    name = _checked_name(codec_name, model)
    _check_language_model(language_model, config, num_codebooks=num_codebooks)
    header = EcdcHeader(
        codec_name=name,
        num_samples=waveform.shape[-1],
        num_codebooks=num_codebooks,
        uses_lm=language_model is not None,
        fixed_point=isinstance(language_model, FixedPointLanguageModel),
        lm_digits=_lm_digits(language_model, name),
    )
    encoded = encoded_header(header)
    file.write(encoded)
    checksum = zlib.crc32(encoded)
    for window in encoded_windows(model, waveform, bandwidth_kbps=bandwidth_kbps):
        codes = window.codes.astype(np.int64)
        if window.scale is not None:
            file.write(_SCALE.pack(window.scale))
        if language_model is None:
            pack_window(codes, bits=config.codebook_nbits, file=file)
        else:
            encode_window(codes, predictor=_predictor(language_model), file=file)
        checksum = _checksum(codes, checksum)
    if header.fixed_point:
        file.write(_CHECKSUM.pack(checksum))
    file.flush()


def decompress(
    compressed: bytes,
    model: EncodecModel,
    *,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
) -> Tensor:
    """Decompress one recording; see `decompress_from_file`.

    Raises:
        EcdcError: also where bytes follow the recording.
    """
    file = io.BytesIO(compressed)
    waveform = decompress_from_file(file, model, language_model=language_model, codec_name=codec_name)
    left = len(compressed) - file.tell()
    if left:
        raise EcdcError(
            f"{left} bytes follow the recording: its header is damaged, or files were joined; read joined ones from "
            "one file with decompress_from_file"
        )
    return waveform


@torch.no_grad()
@exact_float32()
def decompress_from_file(
    file: BinaryIO,
    model: EncodecModel,
    *,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
) -> Tensor:
    """Read one recording from a file and decode it.

    Args:
        file: may return fewer bytes than asked, as sockets do. What follows the recording is not read.
        model: the codec that the file names.
        language_model: the one that the file was made with; it is needed where `header.uses_lm`. A stream in fixed
            point takes either kind.
        codec_name: the name that `model` goes by, as of `compress_to_file`.

    Returns:
        float32 `[C, n]` at the codec's rate, of the length that was compressed.

    Raises:
        EcdcTruncatedError: the stream ended.
        EcdcError: the bytes are no such file, damaged, or made by another codec or language model.
        ValueError: the language model does not fit the codec, or the name is not this codec's.
    """
    name = _checked_name(codec_name, model)
    header = read_header(file)
    if header.codec_name != name:
        raise EcdcError(
            f"the file was made by the codec {header.codec_name!r}, this one is {name!r}; load the one that made it"
        )
    if header.num_codebooks > model.config.num_quantizers:
        raise EcdcError(
            f"the file has {header.num_codebooks} codebooks, the codec {model.config.num_quantizers}; copy it again"
        )
    chosen = _chosen_language_model(language_model, header, model.config)
    windows = list(_decoded_windows(file, header, config=model.config, language_model=chosen))
    if header.fixed_point:
        _check_checksum(file, header, windows)
    return decoded_waveform(model, windows)[:, : header.num_samples]


def _decoded_windows(
    file: BinaryIO,
    header: EcdcHeader,
    *,
    config: EncodecConfig,
    language_model: LanguageModel | FixedPointLanguageModel | None,
) -> Iterator[Window]:
    for _, length in window_lengths(config, header.num_samples):
        scale = None
        if config.normalize:
            (scale,) = _SCALE.unpack(read_exactly(file, _SCALE.size))
            if not math.isfinite(scale) or scale < 0:
                raise EcdcError(
                    f"a window has the scale {scale}; expected a loudness of at least 0. Copy the file again"
                )
        num_frames = -(-length // config.hop_length)
        if language_model is None:
            codes = unpack_window(
                file, num_codebooks=header.num_codebooks, num_frames=num_frames, bits=config.codebook_nbits
            )
        else:
            codes = decode_window(
                file,
                num_codebooks=header.num_codebooks,
                num_frames=num_frames,
                predictor=_predictor(language_model),
            )
        yield Window(codes=codes, scale=scale)


def _predictor(language_model: LanguageModel | FixedPointLanguageModel) -> CodePredictor:
    """Begin the stream of a window."""
    if isinstance(language_model, FixedPointLanguageModel):
        return language_model.predictor()
    return FloatPredictor(language_model)


def _checksum(codes: NDArray[np.integer], before: int) -> int:
    return zlib.crc32(codes.T.astype("<u2").tobytes(), before)


def _check_checksum(file: BinaryIO, header: EcdcHeader, windows: Iterable[Window]) -> None:
    (expected,) = _CHECKSUM.unpack(read_exactly(file, _CHECKSUM.size))
    found = zlib.crc32(encoded_header(header))
    for window in windows:
        found = _checksum(window.codes, found)
    if found != expected:
        raise EcdcError(
            f"header and codes have the checksum {found:08x}, the file says {expected:08x}: it is "
            "damaged; copy it again"
        )


def _checked_name(codec_name: str | None, model: EncodecModel) -> str:
    name = codec_name_of(model) if codec_name is None else codec_name
    check_published_layout(name, model.config)
    return name


def _lm_digits(language_model: LanguageModel | FixedPointLanguageModel | None, codec_name: str) -> str | None:
    if language_model is None:
        return None
    if isinstance(language_model, FixedPointLanguageModel):
        return short_sha256(language_model.weights_sha256)
    # Meta's package knows no such key, and its language models go with the names of its codecs.
    return None if codec_name in PUBLISHED_CODECS else short_sha256(weights_sha256(language_model))


def _chosen_language_model(
    language_model: LanguageModel | FixedPointLanguageModel | None, header: EcdcHeader, config: EncodecConfig
) -> LanguageModel | FixedPointLanguageModel | None:
    if not header.uses_lm:
        return None
    if language_model is None:
        raise EcdcError("the file was made with a language model; give the one that goes with the codec")
    _check_language_model(language_model, config, num_codebooks=header.num_codebooks)
    if header.fixed_point and isinstance(language_model, LanguageModel):
        language_model = FixedPointLanguageModel(language_model)
    if not header.fixed_point and isinstance(language_model, FixedPointLanguageModel):
        raise EcdcError("the file was made with the language model in floating point; give it as a LanguageModel")
    digits = _lm_digits(language_model, header.codec_name)
    if digits != header.lm_digits:
        raise EcdcError(
            f"the file was made with the language model {header.lm_digits}, this one is {digits}; load the one that "
            "made it"
        )
    return language_model


def _check_language_model(
    language_model: LanguageModel | FixedPointLanguageModel | None, config: EncodecConfig, *, num_codebooks: int
) -> None:
    if language_model is None:
        return
    known = language_model.config
    if known.codebook_size != config.codebook_size or known.n_q < num_codebooks:
        raise ValueError(
            f"the language model knows {known.n_q} codebooks of {known.codebook_size} entries, the file "
            f"needs {num_codebooks} of {config.codebook_size}; give the one that was trained on its codes"
        )


def _check_waveform(waveform: Tensor, model: EncodecModel) -> None:
    channels = model.config.audio_channels
    if waveform.dim() != 2 or waveform.shape[0] != channels or waveform.shape[1] == 0:
        raise ValueError(
            f"waveform has the shape {list(waveform.shape)}; expected [{channels}, samples > 0]: mix or duplicate its "
            f"channels to {channels}"
        )
    if waveform.dtype != model.dtype:
        raise ValueError(
            f"waveform is {waveform.dtype}; expected {model.dtype}, the model's: convert it, integers scaled to [-1, 1]"
        )
    peak = waveform.abs().max().item()
    if not peak <= MAX_PEAK:
        raise ValueError(f"waveform has a peak of {peak:g}; expected samples in [-1, 1], at most {MAX_PEAK:g}")
