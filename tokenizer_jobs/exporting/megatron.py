r"""Megatron's indexed data set: `tokens.bin`, all documents one after the other, and `tokens.idx`, where each begins.

    tokens.idx = "MMIDIDX\0\0" · version 1 (u64) · dtype code (u8) · number of sequences (u64) · number of document
    bounds (u64) · lengths (i32 each) · byte offsets of sequences (i64 each) · document bounds (i64 each)

all little-endian. A document is one row, flattened: BOS, the codes of frame 0 by codebook, those of frame 1, …, EOS.
Codebook k has the ids from k · codebook_size on; BOS and EOS come behind the last codebook's.

Legend of shapes: K codebooks, T frames.
"""

import struct
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.exporting.destination import Destination
from tokenizer_jobs.exporting.rows import ExportedRows, json_line, rows_of

__all__ = ["document_tokens", "token_dtype", "write_megatron"]

MAGIC = b"MMIDIDX\0\0"
VERSION = 1
DTYPE_CODES = {"<i4": 4, "<u2": 8}
UINT16_VOCABULARY = 65_500
"""From this size on Megatron takes int32."""
COPIED = 1 << 20
"""Numbers of the index that are made at once."""


def token_dtype(vocabulary_size: int) -> np.dtype[Any]:
    """The dtype of tokens, by Megatron's own rule."""
    return np.dtype("<u2" if vocabulary_size < UINT16_VOCABULARY else "<i4")


def document_tokens(codes: npt.NDArray[np.uint16], *, codebook_size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The tokens [1 + T·K + 1] of one document: codes[k, t] + k · codebook_size in time order, between BOS and EOS."""
    num_codebooks, num_frames = codes.shape
    tokens = np.empty(2 + codes.size, dtype=dtype)
    offsets = np.arange(num_codebooks, dtype=np.int64) * codebook_size
    tokens[1:-1] = (codes.T + offsets).reshape(num_frames * num_codebooks)
    tokens[0] = num_codebooks * codebook_size
    tokens[-1] = num_codebooks * codebook_size + 1
    return tokens


def write_megatron(rows: ExportedRows, destination: Destination) -> dict[str, Any]:
    """Write the rows as documents; returns what the manifest says besides.

    `documents.jsonl` has a line for each document, in order, with the columns of its row.
    """
    vocabulary_size = rows.num_codebooks * rows.codebook_size + 2
    dtype, lengths = token_dtype(vocabulary_size), array("i")
    with (
        destination.new_file("tokens.bin") as staged,
        staged.open("xb") as tokens,
        destination.new_file("documents.jsonl") as staged_lines,
        staged_lines.open("xb") as lines,
    ):
        for batch in rows.batches():
            for row in rows_of(batch):
                document = document_tokens(row.codes, codebook_size=rows.codebook_size, dtype=dtype)
                tokens.write(document.data)
                lengths.append(len(document))
                lines.write(json_line(row.columns) + b"\n")
    with destination.new_file("tokens.idx") as staged:
        _write_index(staged, np.frombuffer(lengths, dtype=np.int32), dtype=dtype)
    return {
        "dtype": dtype.name,
        "vocabulary_size": vocabulary_size,
        "bos": vocabulary_size - 2,
        "eos": vocabulary_size - 1,
        "flattened": "codes[k, t] + k * codebook_size, by frame, then codebook",
    }


def _write_index(path: Path, lengths: npt.NDArray[np.int32], *, dtype: np.dtype[Any]) -> None:
    num_documents = len(lengths)
    with path.open("xb") as file:
        header = struct.pack("<QBQQ", VERSION, DTYPE_CODES[dtype.str], num_documents, num_documents + 1)
        file.write(MAGIC + header)
        file.write(lengths.astype("<i4").data)
        for part in _offsets(lengths, item_bytes=dtype.itemsize):
            file.write(part.data)
        for start in range(0, num_documents + 1, COPIED):
            file.write(np.arange(start, min(start + COPIED, num_documents + 1), dtype="<i8").data)


def _offsets(lengths: npt.NDArray[np.int32], *, item_bytes: int) -> Iterable[npt.NDArray[np.int64]]:
    """Where each sequence begins, in bytes."""
    begin = 0
    for start in range(0, len(lengths), COPIED):
        ends = np.cumsum(lengths[start : start + COPIED], dtype=np.int64) * item_bytes + begin
        yield np.concatenate([[begin], ends[:-1]]).astype("<i8")
        begin = int(ends[-1])
