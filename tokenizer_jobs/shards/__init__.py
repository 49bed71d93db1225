"""Shards and rejects: records to files and back."""

from tokenizer_jobs.shards.columns import codes_arrays, codes_column
from tokenizer_jobs.shards.reader import StoredRow, find_row, read_batches, read_rows, read_schema
from tokenizer_jobs.shards.rewriting import stage_rewritten
from tokenizer_jobs.shards.writer import (
    CODES_FOLDER,
    REJECTS_FOLDER,
    ShardWriter,
    StagedFile,
    StagedRejects,
    StagedShard,
    write_rejects,
)

__all__ = [
    "CODES_FOLDER",
    "REJECTS_FOLDER",
    "ShardWriter",
    "StagedFile",
    "StagedRejects",
    "StagedShard",
    "StoredRow",
    "codes_arrays",
    "codes_column",
    "find_row",
    "read_batches",
    "read_rows",
    "read_schema",
    "stage_rewritten",
    "write_rejects",
]
