"""Arrow IPC files with the rows' own columns, uncompressed: readers map them into memory and copy nothing."""

from typing import Any

import pyarrow as pa

from tokenizer_jobs.exporting.destination import Destination
from tokenizer_jobs.exporting.rows import ExportedRows

__all__ = ["write_arrow"]


def write_arrow(rows: ExportedRows, destination: Destination) -> dict[str, Any]:
    """Write `part-000000.arrow` and so on, one for each shard; returns what the manifest says besides."""
    for number, shard in enumerate(rows.snapshot.shards):
        with (
            destination.new_file(f"part-{number:06d}.arrow") as staged,
            pa.OSFile(str(staged), "wb") as sink,
            pa.ipc.new_file(sink, rows.schema) as writer,
        ):
            for batch in rows.batches_of(shard.path):
                writer.write_batch(batch)
    return {}
