"""Audio bytes in, waveforms at the codec's rate out; no damage passes as success."""

from tokenizer_jobs.decode.items import AudioTarget, decode_item, decode_items, decoder_versions

__all__ = ["AudioTarget", "decode_item", "decode_items", "decoder_versions"]
