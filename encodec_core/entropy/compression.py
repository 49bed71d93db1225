"""Audio to `.ecdc` bytes and back, byte for byte as Meta's package with the same weights.

Letters in shapes: C channels, n samples, K codebooks in use (n_q), T frames.
"""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from encodec_core.entropy.coding import (
    CodePredictor,
    FloatPredictor,
    decode_window,
    encode_window,
    pack_window,
    read_exactly,
    unpack_window,
)
from encodec_core.entropy.container import EcdcHeader, encoded_header, read_encoded_header
from encodec_core.entropy.errors import EcdcError
from encodec_core.entropy.fixed_point import FixedPointLanguageModel
from encodec_core.entropy.lm import LanguageModel
from encodec_core.entropy.lm_choice import check_language_model, chosen_language_model, digits_in_header
from encodec_core.entropy.naming import check_published_layout, codec_name_of, is_same_codec
from encodec_core.entropy.recordings import Window, decoded_waveform, encoded_windows
from encodec_core.fast.placement import checked_dtype
from encodec_core.fast.precision import exact_float32
from encodec_core.model import EncodecModel
from encodec_core.spans import each_window_span

__all__ = ["check_end", "compress", "compress_to_file", "decompress", "decompress_from_file"]

MAX_PEAK = 1e9
"""The squares of louder samples leave float32, and windows their scale."""
MAX_SCALE = 2 * MAX_PEAK
"""No loudness is above the peak; rounding may add a little."""
_SCALE = struct.Struct("!f")
_CHECKSUM = struct.Struct("!I")


def compress(
    model: EncodecModel,
    waveform: Tensor,
    *,
    bandwidth_kbps: float = 6.0,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
    published_lm: bool = False,
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
        published_lm=published_lm,
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
    published_lm: bool = False,
) -> None:
    """Compress one recording into a file, window by window where the codec has windows.

    Args:
        model: the codec, in float32 or float64.
        waveform: of the codec's dtype, `[C, n]` in [-1, 1] at the codec's rate, n > 0. Without windows, what is
            longer than two minutes is encoded by `BatchEncoder`, in bounded memory: its codes are the references' but
            for near ties.
        file: is written from where it stands, and not closed.
        bandwidth_kbps: one of the codec's.
        language_model: None: codes are packed. A `LanguageModel`: Meta's arithmetic coder; such a stream can be read
            back on the same kind of machine with the same version of torch; it is in float32. A
            `FixedPointLanguageModel`: a stream that every machine reads, in a version of the format that Meta's package
            refuses.
        codec_name: the name in the file; None: see `naming.codec_name_of`. "encodec_24khz" and "encodec_48khz" are for
            weights that are the published ones though nothing tells it.
        published_lm: `language_model` is Meta's for the published codec of that name though nothing tells it (a
            converted copy of the `.th` file). Only then, or where it was loaded from Meta's file, is it left out of the
            header, as Meta's package leaves it out.

    Raises:
        ValueError: the codec is in half precision, the bandwidth is not offered, the waveform has another shape or
            dtype, or the language model or the name does not fit the codec; nothing is written then. Or float32
            rounded the probability of a code beyond what Meta's coder can code (`arithmetic.ArithmeticEncoder.push`):
            what the file has by then is only the beginning of a recording.
    """
    checked_dtype(model.dtype)
    num_codebooks = model.config.n_q_for(bandwidth_kbps)
    _check_waveform(waveform, model)
    name = _checked_name(codec_name, model)
    check_language_model(language_model, model, num_codebooks=num_codebooks)
    header = EcdcHeader(
        codec_name=name,
        num_samples=waveform.shape[-1],
        num_codebooks=num_codebooks,
        uses_lm=language_model is not None,
        fixed_point=isinstance(language_model, FixedPointLanguageModel),
        lm_digits=digits_in_header(language_model, name, published_lm=published_lm),
    )
    encoded = encoded_header(header)
    file.write(encoded)
    checksum = zlib.crc32(encoded)
    for window in encoded_windows(model, waveform, bandwidth_kbps=bandwidth_kbps):
        codes = window.codes.astype(np.int64)
        if window.scale is not None:
            file.write(_SCALE.pack(window.scale))
        if language_model is None:
            pack_window(codes, bits=model.config.codebook_nbits, file=file)
        else:
            encode_window(codes, predictor=_predictor(language_model), file=file)
        checksum = _checksum(window, checksum)
    if header.fixed_point:
        file.write(_CHECKSUM.pack(checksum))
    file.flush()


def decompress(
    compressed: bytes,
    model: EncodecModel,
    *,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
    published_lm: bool = False,
) -> Tensor:
    """Decompress one recording; see `decompress_from_file`.

    Raises:
        EcdcError: also where bytes follow the recording.
    """
    file = io.BytesIO(compressed)
    waveform = decompress_from_file(
        file, model, language_model=language_model, codec_name=codec_name, published_lm=published_lm
    )
    check_end(file)
    return waveform


def check_end(file: BinaryIO) -> None:
    """Check that nothing follows the recording that was read from `file`.

    Raises:
        EcdcError: something does.
    """
    if file.read(1):
        raise EcdcError(
            "bytes follow the recording: its header is damaged, or files were joined; read joined ones from one file "
            "with decompress_from_file"
        )


@torch.no_grad()
@exact_float32()
def decompress_from_file(
    file: BinaryIO,
    model: EncodecModel,
    *,
    language_model: LanguageModel | FixedPointLanguageModel | None = None,
    codec_name: str | None = None,
    published_lm: bool = False,
) -> Tensor:
    """Read one recording from a file and decode it.

    Args:
        file: may return fewer bytes than asked, as sockets do. What follows the recording is not read.
        model: the codec that the file names, in float32 or float64.
        language_model: the one that the file was made with; it is needed where `header.uses_lm`. A stream in fixed
            point takes either kind; a `LanguageModel` is turned into whole numbers anew each time (1.3 s for one of the
            paper's size on two CPU cores), so give many files a `FixedPointLanguageModel`.
        codec_name: the name that `model` goes by, as of `compress_to_file`.
        published_lm: as of `compress_to_file`; for files that name a published codec and no language model.

    Returns:
        `[C, n]` of the codec's dtype, on the CPU, at the codec's rate, of the length that was compressed.

    Raises:
        EcdcTruncatedError: the stream ended.
        EcdcError: the bytes are no such file, damaged, or made by another codec or language model.
        ValueError: the codec is in half precision, the language model does not fit it, or the name is not its.
    """
    checked_dtype(model.dtype)
    name = _checked_name(codec_name, model)
    header, encoded = read_encoded_header(file)
    if not is_same_codec(header.codec_name, name):
        raise EcdcError(
            f"the file was made by the codec {header.codec_name!r}, this one is {name!r}; load the one that made it"
        )
    if header.num_codebooks > model.config.num_quantizers:
        raise EcdcError(
            f"the file has {header.num_codebooks} codebooks, the codec {model.config.num_quantizers}; copy it again"
        )
    chosen = chosen_language_model(language_model, header, model, published_lm=published_lm)
    windows = list(_decoded_windows(file, header, model=model, language_model=chosen))
    if header.fixed_point:
        _check_checksum(file, encoded, windows)
    return decoded_waveform(model, windows)[:, : header.num_samples]


def _decoded_windows(
    file: BinaryIO,
    header: EcdcHeader,
    *,
    model: EncodecModel,
    language_model: LanguageModel | FixedPointLanguageModel | None,
) -> Iterator[Window]:
    config = model.config
    for span in each_window_span(header.num_samples, length=config.chunk_length, stride=config.chunk_stride):
        scale = None
        if config.normalize:
            (scale,) = _SCALE.unpack(read_exactly(file, _SCALE.size))
            if not 0 <= scale <= MAX_SCALE:
                raise EcdcError(
                    f"a window has the scale {scale}; expected a loudness from 0 to {MAX_SCALE:g}. Copy the file again"
                )
        num_frames = -(-(span.stop - span.start) // config.hop_length)
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


def _checksum(window: Window, before: int) -> int:
    if window.scale is not None:
        before = zlib.crc32(_SCALE.pack(window.scale), before)
    return zlib.crc32(window.codes.T.astype("<u2").tobytes(), before)


def _check_checksum(file: BinaryIO, encoded: bytes, windows: Iterable[Window]) -> None:
    """Compare with the checksum at the end of the file; `encoded` are the bytes of its header."""
    (expected,) = _CHECKSUM.unpack(read_exactly(file, _CHECKSUM.size))
    found = zlib.crc32(encoded)
    for window in windows:
        found = _checksum(window, found)
    if found != expected:
        raise EcdcError(
            f"header, scales and codes have the checksum {found:08x}, the file says {expected:08x}: it is damaged; "
            "copy it again"
        )


def _checked_name(codec_name: str | None, model: EncodecModel) -> str:
    name = codec_name_of(model) if codec_name is None else codec_name
    check_published_layout(name, model.config)
    return name


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
