"""A column of audio to columns of codes: one row for each row, through the rooms that a job goes through.

read_cell ──▶ decode_items, decode_samples ──▶ form_batches ──▶ RowAssembly (encodes) ──▶ Arrow columns
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from tokenizer_jobs.assembly import RowAssembly
from tokenizer_jobs.batching import form_batches
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.decode.parts import rejected
from tokenizer_jobs.encoding import Codec, EncodeDesk
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage
from tokenizer_jobs.integrations.audio_columns import Samples, StoredAudio, audio_column, column_names, read_cell
from tokenizer_jobs.integrations.samples import decode_samples
from tokenizer_jobs.records import Batch, Decoded, Item, RejectedItem, TokenizedItem, WorkUnit
from tokenizer_jobs.schema import ROW_COLUMNS
from tokenizer_jobs.shards import codes_arrays
from tokenizer_jobs.shards.columns import row_batch
from tokenizer_jobs.sources import Listing
from tokenizer_jobs.storage import is_url, local_path, open_source, public_uri

__all__ = ["REJECT_NAMES", "add_columns", "output_schema", "python_columns", "tokenize_column"]

ROW_NAMES = (
    "codes",
    "num_frames",
    "num_codebooks",
    "num_samples",
    "sample_rate",
    "duration_seconds",
    "source_sample_rate",
    "source_channels",
    "source_format",
    "rms_db",
    "peak",
    "clipped_fraction",
    "silent_fraction",
    "codes_sha256",
)
"""The columns of a shard that apply: the dataset keeps its own, and where the audio came from is among those."""
WINDOW_NAMES = ("scales", "window_frames")
REJECT_NAMES = ("reject_reason", "reject_message")


def output_schema(*, windowed: bool, keeps_rejects: bool) -> pa.Schema:
    """The columns that are added, in order.

    Args:
        windowed: Whether the codec has windows, with a scale each.
        keeps_rejects: Whether rows that cannot be tokenized stay, with null codes and a reason.
    """
    names = [*ROW_NAMES, *(WINDOW_NAMES if windowed else ())]
    fields = [ROW_COLUMNS.field(name) for name in names]
    return pa.schema([*fields, *((name, pa.string()) for name in (REJECT_NAMES if keeps_rejects else ()))])


def tokenize_column(
    column: Sequence[Any], *, codec: Codec, target: AudioTarget, keeps_rejects: bool, batch_seconds: float
) -> pa.Table:
    """Tokenize a column of audio.

    Args:
        column: Cells as `audio_columns` knows them.
        codec: Encodes.
        target: What waveforms are made into; its channels are one row.
        keeps_rejects: Whether a row that cannot be tokenized has null columns and a reason, or is an error.
        batch_seconds: As `runtime.batch_seconds`.

    Returns:
        The columns of `output_schema`, with a row for each cell.

    Raises:
        ConfigError: a cell holds no audio of a known kind.
        ItemError: a row cannot be tokenized, and rejects are not kept.
    """
    facts = codec.describe()
    items = tuple(Item(id=str(position), source_uri="") for position in range(len(column)))
    unit = WorkUnit(generation=1, index=0, unit_id="0" * 16, items=items)
    assembly = RowAssembly(
        unit, desk=EncodeDesk(codec, merges=False), grain_samples=facts.grain_samples, restarts=False
    )
    rows: list[TokenizedItem] = []
    rejects: dict[int, RejectedItem] = {}
    decoded = _decode(column, target=target, keeps_rejects=keeps_rejects)
    for step in form_batches(decoded, batch_seconds=batch_seconds):
        if isinstance(step, RejectedItem):
            assembly.void(step)
            rejects[step.position] = step
        else:
            rows += assembly.add_batch(step) if isinstance(step, Batch) else assembly.add_stretch(step)
    assembly.check_ended()
    return _table(
        rows,
        rejects,
        num_rows=len(column),
        schema=output_schema(windowed=facts.windowed, keeps_rejects=keeps_rejects),
    )


def add_columns(
    batch: Any, *, name: str | None, codec: Codec, target: AudioTarget, keeps_rejects: bool, batch_seconds: float
) -> pa.Table:
    """Tokenize the audio column of a batch; see `tokenize_column` and `audio_columns.audio_column`.

    Returns:
        The columns to add.

    Raises:
        ConfigError: as those; or the batch has a column of such a name.
        ItemError: as `tokenize_column`.
    """
    schema = output_schema(windowed=codec.describe().windowed, keeps_rejects=keeps_rejects)
    clashes = sorted(set(schema.names).intersection(column_names(batch)))
    if clashes:
        raise ConfigError(
            f"the batch has columns {', '.join(clashes)} of its own, which tokenizing adds; rename or remove them first"
        )
    column = audio_column(batch, name=name)
    return tokenize_column(column, codec=codec, target=target, keeps_rejects=keeps_rejects, batch_seconds=batch_seconds)


def python_columns(table: pa.Table) -> dict[str, Any]:
    """Columns as numpy, each value with its exact type: codes are arrays uint16 [K, T]."""
    return {name: _python_column(table[name].combine_chunks()) for name in table.column_names}


def _python_column(column: Any) -> Any:
    if pa.types.is_string(column.type):
        return column.to_pylist()
    if not pa.types.is_list(column.type):
        values = column.drop_null().to_numpy(zero_copy_only=False)
        return values if column.null_count == 0 else _with_nulls(values, column)
    present = column.drop_null()
    if pa.types.is_list(column.type.value_type):
        arrays: list[Any] = [np.array(codes) for codes in codes_arrays(present)]
    else:
        arrays = [scalar.values.to_numpy() for scalar in present]
    return _with_nulls(arrays, column)


def _with_nulls(present: Sequence[Any], column: Any) -> list[Any]:
    values = iter(present)
    return [next(values) if is_valid else None for is_valid in column.is_valid().to_pylist()]


def _table(
    rows: Sequence[TokenizedItem], rejects: Mapping[int, RejectedItem], *, num_rows: int, schema: pa.Schema
) -> pa.Table:
    ours = [name for name in schema.names if name not in REJECT_NAMES]
    found = pa.Table.from_batches([row_batch(rows, schema=ROW_COLUMNS)]) if rows else ROW_COLUMNS.empty_table()
    found = found.select(ours)
    if rejects:
        places = {int(row.item.id): index for index, row in enumerate(rows)}
        found = found.take(pa.array([places.get(position) for position in range(num_rows)], pa.int64()))
    if "reject_reason" in schema.names:
        each = [rejects.get(position) for position in range(num_rows)]
        # Never null: `datasets` would take a first batch without rejects for a column that holds nothing.
        found = found.append_column("reject_reason", pa.array(["" if r is None else str(r.reason) for r in each]))
        found = found.append_column("reject_message", pa.array(["" if r is None else r.message for r in each]))
    return found.cast(schema)


def _decode(column: Sequence[Any], *, target: AudioTarget, keeps_rejects: bool) -> Iterator[Decoded]:
    for position, value in enumerate(column):
        cell: StoredAudio | Samples | None = None
        try:
            cell = read_cell(value)
            if cell is None:
                raise ItemError("there is no audio in it", stage=Stage.READ, reason=RejectReason.EMPTY)
            pieces = _decode_cell(cell, position=position, target=target)
        except ItemError as error:
            pieces = iter([rejected(position, error)])
        for decoded in pieces:
            if isinstance(decoded, RejectedItem) and not keeps_rejects:
                name = cell.path if isinstance(cell, StoredAudio) and cell.path else ""
                raise ItemError(
                    f"row {position} of a batch of {len(column)}{f', {_public(name)},' if name else ''} is "
                    f"{decoded.reason}: {decoded.message}; on_error='null' keeps such rows with null codes",
                    stage=decoded.stage,
                    reason=decoded.reason,
                )
            yield decoded


def _decode_cell(cell: StoredAudio | Samples, *, position: int, target: AudioTarget) -> Iterator[Decoded]:
    if isinstance(cell, Samples):
        return decode_samples(cell, item=Item(id=str(position), source_uri=""), position=position, target=target)
    source = _CellSource(cell, name=f"row {position}")
    return decode_items([(position, source.item)], source=source, target=target)


class _CellSource:
    """A source of one item: a cell.

    Args:
        cell: The cell.
        name: What messages call it where it has no path.
    """

    def __init__(self, cell: StoredAudio, *, name: str) -> None:
        self._content = cell.content
        self._location = name if cell.path is None else _absolute(cell.path)
        self.item = Item(id=name, source_uri=_public(self._location))

    def list(self) -> Listing:
        """The item."""
        return Listing(items=(self.item,), skipped={})

    def open(self, item: Item) -> IO[bytes]:
        """Open its bytes."""
        assert item is self.item
        return open_source(self._location) if self._content is None else io.BytesIO(self._content)


def _absolute(path: str) -> str:
    local = local_path(path)
    return path if local is None else str(Path(local).expanduser().absolute())


def _public(location: str) -> str:
    return public_uri(location) if is_url(location) else location
