"""Snapshots in the formats of others: WebDataset, Megatron, NumPy, Arrow, Hugging Face data sets."""

from tokenizer_jobs.exporting.export import ExportFormat, ExportResult, export
from tokenizer_jobs.exporting.keys import id_of, key_of

__all__ = ["ExportFormat", "ExportResult", "export", "id_of", "key_of"]
