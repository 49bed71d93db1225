"""The stored plan of a generation.

plans/000001.parquet          one row per item, in plan order; a unit never spans two row groups
plans/000001-<hash>.parquet   the same, where the first name was taken: by a run that died, or that plans at once
plans/000001.json             counts, origin, and which of the files it is; published last: a generation exists when
                              it does. No published file of a plan is ever overwritten
"""

import datetime
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, takewhile
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from tokenizer_jobs.config import Selection
from tokenizer_jobs.errors import ConfigError, IntegrityError, OutputBusyError
from tokenizer_jobs.format_version import parse_record
from tokenizer_jobs.item_columns import StoredItems, item_schema, to_columns, user_schema_of
from tokenizer_jobs.parquet import open_parquet, read_row_groups
from tokenizer_jobs.planning.comparison import KNOWN_COLUMNS, KnownItems
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.storage import Storage, numbers_in
from tokenizer_jobs.yaml_files import validated

__all__ = [
    "PlanFacts",
    "PlanSummary",
    "forgotten_plans",
    "known_ids",
    "known_items",
    "list_generations",
    "read_item_columns",
    "read_plan_summary",
    "read_units",
    "read_user_schema",
    "write_plan",
]

_ROW_GROUP_ITEMS = 10_000
_PLAN_ID_KEY = b"tokenizer_jobs.plan_id"


class PlanFacts(BaseModel):
    """What is known of a plan before its units are cut."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    generation: int = Field(ge=1)
    """From 1."""
    recipe_id: str
    cause: Literal["growth", "retry", "replace"] = "growth"
    """growth: items that the output did not have. retry: rejects once more; replace: items whose input changed. These
    two take the place of what earlier generations have under these ids, once all their units are committed."""
    selection: dict[str, Any]
    """`selection` of the job, as it was."""
    base_snapshot: int | None = None
    """Snapshot that the generation builds on; null for the first."""
    skipped: dict[str, int] = Field(default_factory=dict)
    """What the source held that is no item, counted by kind."""
    num_unchanged: int = 0
    """Items of the source that the output had already."""
    num_changed: int = 0
    """Items whose input changed under a known id."""
    num_vanished: int = 0
    """Known items that the source holds no more."""
    decoder_versions: dict[str, str] = Field(default_factory=dict)
    """Decoders and resamplers with their versions; resuming the generation under others is refused."""
    is_source_stripped: bool = False
    """Whether the job's source had passwords or query strings, which `selection` is without; left out where not."""
    file_metadata: dict[str, str] = Field(default_factory=dict)
    """Metadata of every file of the generation: kept here, so that files of a resumed run have the same."""

    def read_selection(self) -> Selection:
        """The selection that the generation was planned with.

        Raises:
            ConfigError: it has what this version of the package does not know: which items it chose, or how their
                audio is judged, is then not known either.
        """
        path = _json_path(self.generation)
        try:
            return validated(Selection, self.selection, origin=f"{path}, selection")
        except ConfigError as error:
            raise ConfigError(f"{error}; it was planned by another tokenizer-jobs: go on with that one") from error


class PlanSummary(PlanFacts):
    """One generation's plan, without its items."""

    num_items: int
    num_units: int
    estimated_seconds: float
    """Of audio, by headers and sizes."""
    plan_id: str
    """Hash over its unit ids in order; the Parquet file carries it too."""
    created_at: datetime.datetime
    """UTC."""
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Of its Parquet file, where that has a name with its hash; left out where it has the plain name."""

    @property
    def takes_over(self) -> bool:
        """Whether earlier generations have its items too."""
        return self.cause != "growth"


def write_plan(
    storage: Storage, units: Iterable[WorkUnit], *, facts: PlanFacts, user_schema: pa.Schema | None = None
) -> PlanSummary:
    """Store a generation's plan; units are written as they come.

    Crash points, and what a reader sees after each:
        1. before the Parquet file: nothing, and an orphan in staging;
        2. before the JSON: nothing; a Parquet file that no reader looks at. The next plan of this generation takes
           another name, and the sweep after it removes this one;
        3. after the JSON: the generation, whole.
    Of two writers at once one JSON wins, and each names its own Parquet file: the plain name is the first one's.

    Args:
        storage: The output.
        units: In order, as `plan_units` gives them.
        facts: What else is known.
        user_schema: Types of the items' user columns; None when they have none.

    Raises:
        OutputBusyError: another run has planned this generation meanwhile.
        ConfigError: a user column does not fit its type.
    """
    if storage.exists(_json_path(facts.generation)):
        raise _already_planned(facts.generation)
    schema = _plan_schema(user_schema)
    counts = _Counts()
    staged = storage.stage(".parquet")
    with pq.ParquetWriter(staged, schema, compression="zstd") as writer:
        for group in _row_groups(counts.count(units)):
            writer.write_batch(_to_batch(group, schema), row_group_size=sum(len(unit.items) for unit in group))
        plan_id = counts.plan_id()
        writer.add_key_value_metadata({_PLAN_ID_KEY.decode(): plan_id})
    summary = PlanSummary(
        **facts.model_dump(),
        num_items=counts.num_items,
        num_units=counts.num_units,
        estimated_seconds=counts.seconds,
        plan_id=plan_id,
        created_at=datetime.datetime.now(datetime.UTC),
    )
    try:
        summary = summary.model_copy(update={"sha256": _publish_parquet(storage, staged, facts.generation)})
    finally:
        staged.unlink(missing_ok=True)
    # A field that says nothing is left out, so that earlier versions read the plan.
    blank = {name for name in ("sha256", "is_source_stripped") if not getattr(summary, name)}
    content = summary.model_dump_json(indent=1, exclude=blank)
    if not storage.put_if_absent(_json_path(facts.generation), content.encode()):
        raise _already_planned(facts.generation)
    return summary


def _publish_parquet(storage: Storage, staged: Path, generation: int) -> str | None:
    """Publish the items of a plan; the hash that its name holds, or None where it has the plain name."""
    plain = _parquet_path(generation)
    if storage.is_exclusive and storage.publish_if_absent(staged, plain):
        return None
    with staged.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    # Of a run that died before its JSON, or of one that plans at this moment and is about to publish its JSON: it
    # stays as it is. Also where it has these very bytes, since a sweep may be about to take it.
    storage.publish_if_absent(staged, _parquet_path(generation, sha256))
    return sha256


def forgotten_plans(storage: Storage, summaries: Iterable[PlanSummary]) -> list[str]:
    """Parquet files of planned generations that their summaries do not name: nobody can come to name them."""
    named = {plan.generation: _parquet_path(plan.generation, plan.sha256) for plan in summaries}
    found = ((re.search(r"/(\d+)(-[0-9a-f]{16})?\.parquet$", file.path), file.path) for file in storage.list("plans"))
    return [path for match, path in found if match and named.get(int(match[1]), path) != path]


def list_generations(storage: Storage) -> tuple[int, ...]:
    """Numbers of the generations that are planned, in order."""
    return tuple(numbers_in(storage, "plans", suffix=".json"))


def read_plan_summary(storage: Storage, generation: int) -> PlanSummary:
    """Read what a plan says about itself.

    Raises:
        FileNotFoundError: the generation is not planned.
        NewerFormatError: its file has a higher format version.
        IntegrityError: its file cannot be understood.
    """
    path = _json_path(generation)
    content = storage.read_bytes(path)
    return parse_record(PlanSummary, content, origin=path, fault="no plan summary", remedy="restore it from a copy")


def read_units(storage: Storage, generation: int, *, after_index: int = -1) -> Iterator[WorkUnit]:
    """Read a generation's units in order, holding one row group at a time.

    Args:
        storage: The output.
        generation: Which one.
        after_index: Only units of higher indices; row groups without any are not read.

    Raises:
        FileNotFoundError: the generation is not planned.
        IntegrityError: the stored plan contradicts its summary.
    """
    summary = read_plan_summary(storage, generation)
    with _open_plan(storage, summary) as parquet:
        if parquet.metadata.num_rows != summary.num_items:
            raise IntegrityError(
                f"{_parquet_path(generation)} holds {parquet.metadata.num_rows} items, its summary says "
                f"{summary.num_items}"
            )
        for table in read_row_groups(parquet, first=_num_groups_until(parquet, after_index)):
            yield from (unit for unit in _units_of(table, generation) if unit.index > after_index)


def _num_groups_until(parquet: pq.ParquetFile, index: int) -> int:
    """Row groups at the beginning that hold no unit after this one."""
    groups = (parquet.metadata.row_group(group).column(0).statistics for group in range(parquet.num_row_groups))
    return sum(1 for _ in takewhile(lambda facts: index >= 0 and facts.max <= index, groups))


def read_item_ids(storage: Storage, generation: int) -> Iterator[tuple[str, list[str]]]:
    """Read each unit's id and the ids of its items, in order; nothing else of the plan is read.

    Raises:
        FileNotFoundError: the generation is not planned.
        IntegrityError: the stored plan contradicts its summary.
    """
    with _open_plan(storage, read_plan_summary(storage, generation)) as parquet:
        for table in read_row_groups(parquet, columns=("unit_id", "id")):
            unit_ids, ids = (column.to_pylist() for column in table.columns)
            for unit_id, pairs in groupby(zip(unit_ids, ids, strict=True), key=itemgetter(0)):
                yield unit_id, [item_id for _, item_id in pairs]


def read_user_schema(storage: Storage, generation: int) -> pa.Schema:
    """Types of the user columns of a generation's items, without metadata; empty when they have none."""
    with _open_plan(storage, read_plan_summary(storage, generation)) as parquet:
        return user_schema_of(parquet.schema_arrow)


def known_items(storage: Storage, generations: Iterable[int] | None = None) -> KnownItems:
    """Every planned id with the size and etag of its input, the newest plan's where several have it.

    Args:
        storage: The output.
        generations: Which plans to read; None reads all.
    """
    return KnownItems.collect(read_item_columns(storage, generations, columns=KNOWN_COLUMNS))


def known_ids(storage: Storage, known: KnownItems, chosen: npt.NDArray[np.bool_], *, at_most: int) -> tuple[str, ...]:
    """Some of the known ids that a mask `[len(known)]` chooses, in plan order."""
    found = dict[str, None]()
    for batch in read_item_columns(storage, columns=("id",)) if chosen.any() else ():
        is_chosen = known.are_chosen(batch, chosen)
        found |= dict.fromkeys(batch.column("id").filter(pa.array(is_chosen)).slice(0, at_most).to_pylist())
        if len(found) >= at_most:
            break
    return tuple(found)[:at_most]


def read_item_columns(
    storage: Storage, generations: Iterable[int] | None = None, *, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """Read the items of plans as columns, the oldest plan first, holding one row group at a time.

    Args:
        storage: The output.
        generations: Which plans to read; None reads all.
        columns: Names to read, among them `unit_id` and `unit_index`; None reads all.
    """
    for generation in sorted(list_generations(storage) if generations is None else generations):
        with _open_plan(storage, read_plan_summary(storage, generation)) as parquet:
            yield from read_row_groups(parquet, columns=columns)


class _Counts:
    """Counts units as they pass."""

    def __init__(self) -> None:
        self.num_items = 0
        self.num_units = 0
        self.seconds = 0.0
        self._ids = hashlib.sha256()

    def count(self, units: Iterable[WorkUnit]) -> Iterator[WorkUnit]:
        for unit in units:
            self.num_items += len(unit.items)
            self.num_units += 1
            seconds = unit.estimated_seconds
            self.seconds += seconds if math.isfinite(seconds) else 0.0
            self._ids.update(unit.unit_id.encode())
            yield unit

    def plan_id(self) -> str:
        return self._ids.hexdigest()


def _plan_schema(user_schema: pa.Schema | None) -> pa.Schema:
    place = [
        pa.field("unit_index", pa.int32(), nullable=False),
        pa.field("unit_id", pa.string(), nullable=False),
    ]
    return pa.schema([*place, *item_schema(user_schema)])


def _row_groups(units: Iterable[WorkUnit]) -> Iterator[list[WorkUnit]]:
    group: list[WorkUnit] = []
    num_items = 0
    for unit in units:
        group.append(unit)
        num_items += len(unit.items)
        if num_items >= _ROW_GROUP_ITEMS:
            yield group
            group, num_items = [], 0
    if group:
        yield group


def _to_batch(units: Sequence[WorkUnit], schema: pa.Schema) -> pa.RecordBatch:
    place = [
        pa.array([unit.index for unit in units for _ in unit.items], type=pa.int32()),
        pa.array([unit.unit_id for unit in units for _ in unit.items], type=pa.string()),
    ]
    columns = to_columns([item for unit in units for item in unit.items], schema=schema)
    return pa.RecordBatch.from_arrays([*place, *columns], schema=schema)


@contextmanager
def _open_plan(storage: Storage, summary: PlanSummary) -> Iterator[pq.ParquetFile]:
    path = _parquet_path(summary.generation, summary.sha256)
    with storage.open_file(path) as file, open_parquet(file) as parquet:
        stored = (parquet.metadata.metadata or {}).get(_PLAN_ID_KEY, b"").decode()
        if stored != summary.plan_id:
            raise IntegrityError(
                f"{path} is of plan {stored[:16] or 'unknown'}, its summary of plan {summary.plan_id[:16]}; "
                "two runs planned at once, or one of the files was replaced: restore it from a copy"
            )
        yield parquet


def _units_of(table: pa.Table, generation: int) -> Iterator[WorkUnit]:
    rows = table.combine_chunks()
    indices, unit_ids = rows.column("unit_index").to_numpy(), rows.column("unit_id")
    items = rows.drop_columns(["unit_index", "unit_id"])
    starts = [0, *(np.flatnonzero(np.diff(indices)) + 1).tolist()] if len(indices) else []
    for start, end in zip(starts, [*starts[1:], len(indices)], strict=True):
        (batch,) = items.slice(start, end - start).to_batches()
        yield WorkUnit(
            generation=generation,
            index=int(indices[start]),
            unit_id=unit_ids[start].as_py(),
            items=StoredItems(batch),
        )


def _already_planned(generation: int) -> OutputBusyError:
    return OutputBusyError(
        f"generation {generation} of this output has been planned by another run meanwhile; run again to resume it"
    )


def _json_path(generation: int) -> str:
    return f"plans/{generation:06d}.json"


def _parquet_path(generation: int, sha256: str | None = None) -> str:
    return f"plans/{generation:06d}.parquet" if sha256 is None else f"plans/{generation:06d}-{sha256[:16]}.parquet"
