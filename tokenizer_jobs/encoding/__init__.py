"""Waveforms to codes and back: the codec protocol, EnCodec behind it, and the desk at which units share a codec."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokenizer_jobs.encoding.codec import Codec, EncodeStream, LaneCodec, StreamingCodec, Waveform
from tokenizer_jobs.encoding.desk import DeskStream, EncodeDesk, open_desk
from tokenizer_jobs.encoding.facts import describe_codec

if TYPE_CHECKING:
    from tokenizer_jobs.encoding.encodec import (
        DeviceName,
        EncodecCodec,
        choose_device,
        decode_in_blocks,
        limit_torch_threads,
        load_codec,
        make_codec,
        offered_bandwidths,
    )

__all__ = [
    "Codec",
    "DeskStream",
    "DeviceName",
    "EncodeDesk",
    "EncodeStream",
    "EncodecCodec",
    "LaneCodec",
    "StreamingCodec",
    "Waveform",
    "choose_device",
    "decode_in_blocks",
    "describe_codec",
    "limit_torch_threads",
    "load_codec",
    "make_codec",
    "offered_bandwidths",
    "open_desk",
]

_NEED_TORCH = {
    "DeviceName",
    "EncodecCodec",
    "choose_device",
    "decode_in_blocks",
    "limit_torch_threads",
    "load_codec",
    "make_codec",
    "offered_bandwidths",
}


def __getattr__(name: str) -> Any:
    # On first use: torch takes seconds, and the driver of a cluster, or a plan, encodes nothing.
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("tokenizer_jobs.encoding.encodec"), name)
