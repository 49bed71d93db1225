"""One `.npy` file a row, and `index.jsonl` with a line for each: its file and its other columns."""

from typing import Any

from tokenizer_jobs.exporting.destination import Destination
from tokenizer_jobs.exporting.keys import file_stem_of
from tokenizer_jobs.exporting.rows import ExportedRows, json_line, rows_of
from tokenizer_jobs.exporting.webdataset import npy_bytes

__all__ = ["INDEX", "write_numpy"]

INDEX = "index.jsonl"
FOLDER_FILES = 1000
"""Files in one folder: `ls` and many a network mount are slow from ten thousand on."""


def write_numpy(rows: ExportedRows, destination: Destination) -> dict[str, Any]:
    """Write the rows as `codes/000000/KEY.npy` (uint16 [K, T]); returns what the manifest says besides."""
    number = 0
    with destination.new_file(INDEX) as index, index.open("xb") as lines:
        for batch in rows.batches():
            for row in rows_of(batch):
                path = f"codes/{number // FOLDER_FILES:06d}/{file_stem_of(row.id)}.npy"
                with destination.new_file(path, is_listed=False) as staged, staged.open("xb") as file:
                    file.write(npy_bytes(row.codes))
                lines.write(json_line({"file": path, **row.columns}) + b"\n")
                number += 1
    return {"index": INDEX}
