"""Decoding that may crash, hang or eat memory and costs one record: in a child process, with limits."""

from tokenizer_jobs.isolation.decoder import IsolatedDecoder, decode_isolated, same_recording
from tokenizer_jobs.isolation.limits import PATIENCE, DecodeLimits, alarmed, memory_limited

__all__ = [
    "PATIENCE",
    "DecodeLimits",
    "IsolatedDecoder",
    "alarmed",
    "decode_isolated",
    "memory_limited",
    "same_recording",
]
