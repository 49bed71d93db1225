"""EnCodec (arXiv 2210.13438), interchangeable with transformers' and Meta's implementations."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported on first use: torch takes seconds, and a decode worker needs nothing but the resampler.
_HOMES = {
    "Agreement": "encodec_core.agreement",
    "BatchEncoder": "encodec_core.batch_encoder",
    "Codes": "encodec_core.codes",
    "EncodecConfig": "encodec_core.config",
    "EncodecFeatureExtractor": "encodec_core.audio",
    "EncodecModel": "encodec_core.model",
    "StreamingDecoder": "encodec_core.streaming",
    "StreamingEncoder": "encodec_core.streaming",
    "compare_codes": "encodec_core.agreement",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
