"""Audio bytes in, waveforms at the codec's rate out; no damage passes as success."""

from tokenizer_jobs.decode.items import decode_item, decode_items, decoder_versions, opened_items
from tokenizer_jobs.decode.target import AudioTarget

__all__ = ["AudioTarget", "decode_item", "decode_items", "decoder_versions", "opened_items"]
