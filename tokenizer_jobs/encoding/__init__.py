"""Waveforms to codes and back: the codec protocol, EnCodec behind it, and the desk at which units share a codec."""

from tokenizer_jobs.encoding.codec import Codec, EncodeStream, StreamingCodec, Waveform
from tokenizer_jobs.encoding.desk import DeskStream, EncodeDesk
from tokenizer_jobs.encoding.encodec import (
    DeviceName,
    EncodecCodec,
    choose_device,
    decode_in_blocks,
    describe_codec,
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
    "StreamingCodec",
    "Waveform",
    "choose_device",
    "decode_in_blocks",
    "describe_codec",
    "limit_torch_threads",
    "load_codec",
    "make_codec",
    "offered_bandwidths",
]
