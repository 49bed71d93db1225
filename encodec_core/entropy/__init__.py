"""Entropy coding: the language model, the arithmetic coder and the `.ecdc` container, interchangeable with Meta's."""

from encodec_core.entropy.compression import compress, compress_to_file, decompress, decompress_from_file
from encodec_core.entropy.container import EcdcHeader, read_header
from encodec_core.entropy.errors import EcdcError, EcdcTruncatedError
from encodec_core.entropy.fixed_point import FixedPointLanguageModel
from encodec_core.entropy.lm import LM_SUBFOLDER, LanguageModel, LanguageModelConfig, previous_codes
from encodec_core.entropy.naming import PUBLISHED_CODECS, codec_name_of

__all__ = [
    "LM_SUBFOLDER",
    "PUBLISHED_CODECS",
    "EcdcError",
    "EcdcHeader",
    "EcdcTruncatedError",
    "FixedPointLanguageModel",
    "LanguageModel",
    "LanguageModelConfig",
    "codec_name_of",
    "compress",
    "compress_to_file",
    "decompress",
    "decompress_from_file",
    "previous_codes",
    "read_header",
]
