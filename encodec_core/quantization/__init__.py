"""The residual vector quantizer of EnCodec."""

from encodec_core.quantization.codebook import Codebook
from encodec_core.quantization.rvq import ResidualVectorQuantizer

__all__ = ["Codebook", "ResidualVectorQuantizer"]
