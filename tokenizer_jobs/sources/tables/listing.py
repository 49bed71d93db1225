"""The items of tables, from their footers and from the columns beside the audio: the audio itself is not read.

footers of all files ──▶ one set of user columns ──▶ columns of all files, batch by batch ──▶ ItemTable
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.sources.listing import Listing
from tokenizer_jobs.sources.roots import extension_of
from tokenizer_jobs.sources.tables.columns import (
    AudioColumn,
    ColumnChoice,
    find_audio_column,
    unify_columns,
)
from tokenizer_jobs.sources.tables.items import FoundAudio, OpenedTable, RowItems, TableFile, TableTask
from tokenizer_jobs.sources.tables.opened import PLAN_BLOCK_BYTES, TABLE_ERRORS, RowGroup, Table, open_table
from tokenizer_jobs.storage import public_uri

__all__ = ["list_tables"]

OPENED_AT_ONCE = 8
TASK_ROWS = 1 << 16
"""Rows that are read by one task: so many of the user columns may wait in memory, `OPENED_AT_ONCE` times."""
MOST_NAMED = 3
_DURATIONS = ("duration", "duration_seconds", "duration_s", "seconds")

T = TypeVar("T")
Task = TypeVar("Task")


def list_tables(
    files: Iterable[TableFile],
    *,
    choice: ColumnChoice,
    name_audio: Callable[[str, TableFile], FoundAudio],
    skipped: Counter[str],
) -> Listing:
    """List the rows of tables as items.

    Args:
        files: The tables, in the order in which rows of a split are counted.
        choice: Which columns are what.
        name_audio: Id and URI of the audio file that a row's path leads to.
        skipped: What was skipped before.

    Raises:
        ConfigError: a file is damaged, or has no audio column, or there is no row at all.
        TransientError: the storage failed.
    """
    with ThreadPoolExecutor(OPENED_AT_ONCE, thread_name_prefix="tables") as pool:
        opened = _number(_whole(_ahead(pool, lambda file: _look(file, choice), files)))
        if not any(table.num_rows for table in opened):
            raise ConfigError("selection.source holds no row: all of its tables are empty")
        user_schema = unify_columns(table.passed for table in opened)
        adds_split = any(table.file.split is not None for table in opened) and (
            "split" not in user_schema.names if choice.columns is None else "split" in choice.columns
        )
        if adds_split and "split" not in user_schema.names:
            user_schema = user_schema.append(pa.field("split", pa.string()))
        for table in opened:
            for name in table.left_out:
                skipped[f"column {name!r}, a second one of files: not passed on unless named in columns"] += (
                    table.num_rows
                )
        rows = RowItems(choice=choice, user_schema=user_schema, name_audio=name_audio, adds_split=adds_split)
        batches = (batch for found in _ahead(pool, rows.of_groups, _tasks(opened)) for batch in found)
        items = ItemTable.sort(batches, schema=rows.schema)
    return Listing(items=items, skipped=dict(skipped), user_schema=user_schema)


class _Damaged(str):
    """A table that cannot be read, and why."""

    __slots__ = ()


def _look(file: TableFile, choice: ColumnChoice) -> OpenedTable | _Damaged:
    """Read the footer of a table, and the path inside its first row."""
    where = public_uri(file.location)
    try:
        table = open_table(file.location, is_arrow=file.is_arrow, block_bytes=PLAN_BLOCK_BYTES)
        try:
            audio = find_audio_column(table.schema, name=choice.audio_column, where=where)
            passed, left_out = choice.passed(table.schema, audio=audio, where=where)
            return OpenedTable(
                file=file,
                audio=audio,
                duration=_duration_column(table.schema),
                passed=passed,
                left_out=left_out,
                groups=tuple(table.groups),
                group_bytes=tuple(table.group_bytes(group, audio=audio) for group in table.groups),
                extension=_first_extension(table, audio),
            )
        finally:
            table.close()
    except TABLE_ERRORS as error:
        return _Damaged(f"{where} ({error})")


def _whole(looked: Iterable[OpenedTable | _Damaged]) -> list[OpenedTable]:
    opened, damaged = list[OpenedTable](), list[_Damaged]()
    for table in looked:
        if isinstance(table, _Damaged):
            damaged.append(table)
        else:
            opened.append(table)
    if damaged:
        more = f" and {len(damaged) - MOST_NAMED} more" if len(damaged) > MOST_NAMED else ""
        raise ConfigError(
            f"selection.source: {len(damaged)} of {len(damaged) + len(opened)} tables cannot be read: "
            f"{'; '.join(damaged[:MOST_NAMED])}{more}; mend them, or move them out of the source: "
            "how many rows they hold is not known, so they are not skipped"
        )
    return opened


def _first_extension(table: Table, audio: AudioColumn) -> str:
    group = next((group for group in table.groups if group.num_rows), None)
    if not audio.has_path or group is None:
        return "wav"
    batch = next(table.read([f"{audio.name}.path"], group=group))
    path = batch.column(0).field(0)[0].as_py() if batch.num_rows else None
    return extension_of(path or "") or "wav"


def _duration_column(schema: pa.Schema) -> str | None:
    kinds = {field.name: field.type for field in schema}
    numbers = (pa.types.is_floating, pa.types.is_integer)
    return next((name for name in _DURATIONS if name in kinds and any(test(kinds[name]) for test in numbers)), None)


def _number(tables: Iterable[OpenedTable]) -> list[OpenedTable]:
    """Count the rows of each split through its files."""
    first_rows = Counter[str]()
    numbered = []
    for table in tables:
        split = table.file.split
        if split is not None:
            numbered.append(replace(table, first_row=first_rows[split]))
            first_rows[split] += table.num_rows
        else:
            numbered.append(table)
    return numbered


def _tasks(tables: Iterable[OpenedTable]) -> Iterator[TableTask]:
    for table in tables:
        waiting, num_rows = list[RowGroup](), 0
        for group in table.groups:
            if waiting and num_rows + group.num_rows > TASK_ROWS:
                yield TableTask(table=table, groups=tuple(waiting))
                waiting, num_rows = [], 0
            waiting.append(group)
            num_rows += group.num_rows
        if num_rows:
            yield TableTask(table=table, groups=tuple(waiting))


def _ahead(pool: ThreadPoolExecutor, do: Callable[[Task], T], tasks: Iterable[Task]) -> Iterator[T]:
    """Do tasks in order, no more than `OPENED_AT_ONCE` of them before they are asked for."""
    waiting = deque[Any]()
    try:
        for task in tasks:
            if len(waiting) == OPENED_AT_ONCE:
                yield waiting.popleft().result()
            waiting.append(pool.submit(do, task))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for undone in waiting:
            undone.cancel()
