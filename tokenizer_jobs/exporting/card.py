"""The card of an exported data set: what the codes are, and which weights made them."""

from tokenizer_jobs.exporting.rows import ExportedRows
from tokenizer_jobs.row_checks import file_facts

__all__ = ["card_text"]

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card_text(rows: ExportedRows) -> str:
    """Markdown with the hub's YAML block, of rows that were all given."""
    facts, snapshot = file_facts(rows.schema), rows.snapshot.facts
    size = next((name for limit, name in _SIZES if rows.num_rows < limit), "1M<n<10M")
    return f"""---
pretty_name: Audio codes
size_categories:
- {size}
tags:
- audio
- audio-codes
- encodec
---

# Audio codes

{rows.num_rows:,} rows, {rows.num_frames:,} frames, {snapshot.hours:,.2f} hours of audio as discrete codes.

| | |
| --- | --- |
| codec | {facts.get("codec")} |
| weights sha256 | {facts.get("weights_sha256")} |
| sample rate | {facts.get("sample_rate")} Hz |
| frames per second | {facts.get("frame_rate"):g} |
| codebooks | {rows.num_codebooks} of {rows.codebook_size} entries |
| recipe id | {rows.recipe.recipe_id} |
| snapshot | {snapshot.number}, digest {snapshot.digest} |

`codes` is a list [K, T] of raw code indices: no offsets, no delay, no special tokens. `codes_sha256` is the hex sha256
of the C-order little-endian uint16 array [K, T]. `scales` and `window_frames` are needed to decode codecs with windows,
and null for all others.
"""
