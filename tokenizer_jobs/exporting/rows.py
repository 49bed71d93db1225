"""The rows of a snapshot as they are exported: row group by row group, with the first codebooks only where asked.

Legend of shapes: K codebooks that are exported, T frames.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.catalog import Snapshot, read_snapshot
from tokenizer_jobs.digest import Digest, codes_sha256
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.recipe import METADATA_KEY, ResolvedRecipe, read_recipe
from tokenizer_jobs.row_checks import file_facts
from tokenizer_jobs.shards import codes_arrays, codes_column, read_batches, read_schema
from tokenizer_jobs.steps import Steps, untold
from tokenizer_jobs.storage import Storage

__all__ = ["ExportedRow", "ExportedRows", "json_line", "rows_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedRow:
    """One row."""

    id: str
    codes: npt.NDArray[np.uint16]
    """[K, T]."""
    columns: dict[str, Any]
    """All its columns but the codes."""


@dataclass(slots=True, kw_only=True)
class ExportedRows:
    """The rows of one snapshot, and what has been given of them."""

    storage: Storage
    recipe: ResolvedRecipe
    snapshot: Snapshot
    schema: pa.Schema
    """Of the rows, with the metadata of their files as far as it holds for what is exported."""
    num_codebooks: int
    codebook_size: int
    num_rows: int = 0
    num_frames: int = 0
    report: Steps = untold
    """Told how many `rows` were given."""
    digest: Digest = field(default_factory=Digest)
    """Of the rows that were given: that of the snapshot, where all codebooks are exported."""

    @classmethod
    def open(
        cls, output: str, *, snapshot: int | None, codebooks: int | None, report: Steps = untold
    ) -> "ExportedRows":
        """Open a snapshot for export.

        Args:
            output: Local path or fsspec URL.
            snapshot: Which one; None: the newest.
            codebooks: How many, from the first; None: all.
            report: Told how many `rows` were given.

        Raises:
            ConfigError: there is no such output or snapshot, it has no rows, or not so many codebooks.
        """
        storage = Storage.at(output)
        recipe = read_recipe(storage)
        opened = read_snapshot(storage, snapshot)
        if not opened.shards:
            raise ConfigError(f"snapshot {opened.number} of output {storage.name!r} has no rows, so nothing to export")
        schema = read_schema(storage, opened.shards[0].path)
        facts = file_facts(schema)
        n_q = int(facts["n_q"])
        if codebooks is not None and not 1 <= codebooks <= n_q:
            raise ConfigError(
                f"--codebooks {codebooks} is not within the {n_q} codebooks of the output; choose 1 to {n_q}"
            )
        wanted = n_q if codebooks is None else codebooks
        return cls(
            storage=storage,
            recipe=recipe,
            snapshot=opened,
            schema=schema.with_metadata(_narrowed_metadata(schema, facts, num_codebooks=wanted)),
            num_codebooks=wanted,
            codebook_size=int(facts["codebook_size"]),
            report=report,
        )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in the snapshot's order, a row group at a time.

        Raises:
            IntegrityError: a shard is damaged.
        """
        for shard in self.snapshot.shards:
            yield from self.batches_of(shard.path)

    def batches_of(self, path: str) -> Iterator[pa.RecordBatch]:
        """The rows of one shard, as `batches`."""
        for batch in read_batches(self.storage, path):
            given = self._narrowed(batch)
            ids, hashes = given.column("id").to_pylist(), given.column("codes_sha256").to_pylist()
            for row_id, sha256 in zip(ids, hashes, strict=True):
                self.digest.add_row(row_id, codes_sha256=sha256, recipe_id=self.recipe.recipe_id)
            self.num_rows += given.num_rows
            self.num_frames += sum(given.column("num_frames").to_pylist())
            yield given
            self.report("rows", self.num_rows, self.snapshot.facts.rows)

    def _narrowed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        arrays = codes_arrays(batch.column("codes"))
        if any(codes.shape[0] != self.num_codebooks for codes in arrays):
            first = [np.ascontiguousarray(codes[: self.num_codebooks]) for codes in arrays]
            columns["codes"] = codes_column(first)
            columns["num_codebooks"] = pa.array([codes.shape[0] for codes in first], type=pa.int16())
            columns["codes_sha256"] = pa.array([codes_sha256(codes) for codes in first], type=pa.string())
        return pa.RecordBatch.from_arrays([columns[name] for name in self.schema.names], schema=self.schema)


def rows_of(batch: pa.RecordBatch) -> Iterator[ExportedRow]:
    """The rows of a batch; their codes are views of its buffers."""
    columns = batch.drop_columns(["codes"]).to_pylist()
    for codes, row in zip(codes_arrays(batch.column("codes")), columns, strict=True):
        yield ExportedRow(id=row["id"], codes=codes, columns=row)


def json_line(content: dict[str, Any]) -> bytes:
    """JSON that every parser reads: what is not finite is null, bytes are hex, dates and decimals are their text."""
    return json.dumps(_plain(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return str(value)


def _narrowed_metadata(schema: pa.Schema, facts: dict[str, Any], *, num_codebooks: int) -> dict[bytes, bytes]:
    """The metadata of the shards; fewer codebooks are another bandwidth."""
    metadata = dict(schema.metadata)
    if num_codebooks != facts["n_q"]:
        share = num_codebooks / facts["n_q"]
        content = {**facts, "n_q": num_codebooks, "bandwidth_kbps": facts.get("bandwidth_kbps", 0.0) * share}
        metadata[METADATA_KEY] = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return metadata
