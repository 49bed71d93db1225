"""The card of an exported data set: what the codes are, and which weights made them."""

from tokenizer_jobs.exporting.rows import ExportedRows
from tokenizer_jobs.report.card import COLUMNS_NOTE, WINDOWS_NOTE, facts_table, size_category
from tokenizer_jobs.row_checks import file_facts

__all__ = ["card_text"]


def card_text(rows: ExportedRows) -> str:
    """Markdown with the hub's YAML block, of rows that were all given."""
    facts, snapshot = file_facts(rows.schema), rows.snapshot.facts
    table = facts_table(
        {
            "codec": facts.get("codec"),
            "weights sha256": facts.get("weights_sha256"),
            "sample rate": f"{facts.get('sample_rate')} Hz",
            "frames per second": f"{facts.get('frame_rate'):g}",
            "codebooks": f"{rows.num_codebooks} of {rows.codebook_size} entries",
            "recipe id": rows.recipe.recipe_id,
            "snapshot": f"{snapshot.number}, digest {snapshot.digest}",
        }
    )
    return f"""---
pretty_name: Audio codes
size_categories:
- {size_category(rows.num_rows)}
tags:
- audio
- audio-codes
- encodec
---

# Audio codes

{rows.num_rows:,} rows, {rows.num_frames:,} frames, {snapshot.hours:,.2f} hours of audio as discrete codes.

{table}

{COLUMNS_NOTE}
{WINDOWS_NOTE}
"""
