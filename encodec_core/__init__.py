"""EnCodec (arXiv 2210.13438), interchangeable with transformers' and Meta's implementations."""

from encodec_core.agreement import Agreement, compare_codes
from encodec_core.audio import EncodecFeatureExtractor
from encodec_core.batch_encoder import BatchEncoder
from encodec_core.codes import Codes
from encodec_core.config import EncodecConfig
from encodec_core.model import EncodecModel
from encodec_core.streaming import StreamingDecoder, StreamingEncoder

__all__ = [
    "Agreement",
    "BatchEncoder",
    "Codes",
    "EncodecConfig",
    "EncodecFeatureExtractor",
    "EncodecModel",
    "StreamingDecoder",
    "StreamingEncoder",
    "compare_codes",
]
