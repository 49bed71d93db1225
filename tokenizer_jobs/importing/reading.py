"""The codes of planned items, with what the dump says of their audio.

Legend of shapes: K codebooks, T frames, S windows of the 48 kHz codec.
"""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokenizer_jobs.digest import codes_sha256
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage
from tokenizer_jobs.importing.archives import OpenedArchive
from tokenizer_jobs.importing.arrays import named_arrays, select_array, suffix_of
from tokenizer_jobs.importing.dump import DumpFormat
from tokenizer_jobs.importing.tables import OpenedTable, cell_array, codes_column_of
from tokenizer_jobs.records import EncodedItem, ImportedFacts, Item
from tokenizer_jobs.storage import open_source, stat_source

__all__ = ["DumpReader", "imported_row"]

Fields = Mapping[str, Any]
Array = npt.NDArray[Any]


class DumpReader:
    """Reads items of one dump; a file with many items stays open until another one is read. A context manager.

    Args:
        kind: Of the dump's files, as `DumpFiles.kind`.
        locations: What opens a file, by its URI, where that is not the URI itself.
    """

    def __init__(self, *, kind: str, locations: Mapping[str, str]) -> None:
        self._kind = kind
        self._locations = locations
        self._open: tuple[str, OpenedArchive | OpenedTable] | None = None
        self._rows: tuple[tuple[str, int], int, pa.RecordBatch] | None = None
        """Key and number of the first row of the row group that is held, and its rows."""
        self._checked: tuple[str, str | None] | None = None

    def __enter__(self) -> "DumpReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def read(self, item: Item, *, key: str | None) -> tuple[dict[str, Array], Fields]:
        """The arrays of an item by name, and what lies beside them.

        Args:
            item: As it was planned.
            key: Column of a table's codes; None: the only one.

        Raises:
            ItemError: it is gone, changed, damaged, or no array.
            TransientError: the storage failed.
        """
        try:
            self._check_version(item)
            match self._kind:
                case "tar":
                    return self._from_archive(item)
                case "table":
                    return self._from_table(item, key)
                case "index":
                    return self._from_index(item)
                case _:
                    return named_arrays(self._whole(item.source_uri), suffix=suffix_of(item.source_uri)), {}
        except FileNotFoundError as error:
            _refuse(f"it is gone ({error})", RejectReason.VANISHED, Stage.READ, error)
        except PermissionError as error:
            _refuse(f"it may not be read ({error})", RejectReason.PERMISSION_DENIED, Stage.READ, error)
        except (ConfigError, OSError, ValueError, pa.ArrowException) as error:
            _refuse(f"it cannot be read ({error})", RejectReason.UNREADABLE, Stage.READ, error)

    def _check_version(self, item: Item) -> None:
        version = (item.source_uri, item.source_etag)
        if item.source_etag is None or (self._kind != "arrays" and self._checked == version):
            return
        found = stat_source(self._location(item.source_uri)).etag
        if found != item.source_etag:
            _refuse(
                f"its file has version {found}, {item.source_etag} when it was planned; import to a new output",
                RejectReason.CHANGED,
                Stage.READ,
            )
        self._checked = version

    def _from_archive(self, item: Item) -> tuple[dict[str, Array], Fields]:
        archive = self._opened(item.source_uri, OpenedArchive)
        assert isinstance(archive, OpenedArchive)
        assert item.source_member is not None
        content = archive.read(item.source_member)
        if content is None:
            raise FileNotFoundError(f"the tar has no member {item.source_member!r}")
        suffix = suffix_of(item.source_member)
        return named_arrays(content, suffix=suffix), archive.json_beside(item.source_member)

    def _from_table(self, item: Item, key: str | None) -> tuple[dict[str, Array], Fields]:
        table = self._opened(item.source_uri, OpenedTable)
        assert isinstance(table, OpenedTable)
        assert item.source_row is not None
        assert item.source_group is not None
        place = (item.source_uri, item.source_group)
        if self._rows is None or self._rows[0] != place:
            batch = table.read(item.source_group, columns=table.schema.names)
            self._rows = (place, table.first_row(item.source_group), batch)
        _, first, batch = self._rows
        number = item.source_row - first
        column = codes_column_of(table.schema, key)
        row = batch.slice(number, 1)
        return {column: cell_array(batch.column(column)[number])}, row.drop_columns([column]).to_pylist()[0]

    def _from_index(self, item: Item) -> tuple[dict[str, Array], Fields]:
        assert item.source_member is not None
        assert item.source_row is not None
        with open_source(self._location(item.source_uri)) as lines:
            lines.seek(item.source_row)
            fields: dict[str, Any] = json.loads(lines.readline())
        if item.source_member.startswith("/") or ".." in item.source_member.split("/"):
            _refuse(f"its path {item.source_member!r} leads out of the dump", RejectReason.UNREADABLE, Stage.READ)
        folder = item.source_uri.rpartition("/")[0]
        content = self._whole(f"{folder}/{item.source_member}")
        return named_arrays(content, suffix=suffix_of(item.source_member)), fields

    def _whole(self, uri: str) -> bytes:
        with open_source(self._location(uri)) as file:
            return file.read()

    def _opened(self, uri: str, kind: type[OpenedArchive] | type[OpenedTable]) -> OpenedArchive | OpenedTable:
        if self._open is None or self._open[0] != uri:
            self._let_go()
            self._open = (uri, kind(self._location(uri)))
        return self._open[1]

    def _let_go(self) -> None:
        if self._open is not None:
            self._open[1].close()
        self._open = self._rows = None

    def _location(self, uri: str) -> str:
        return self._locations.get(uri, uri)


def imported_row(
    arrays: Mapping[str, Array], fields: Fields, *, form: DumpFormat, sample_rate: int, hop_length: int
) -> tuple[EncodedItem, ImportedFacts]:
    """The codes of an item, and what is known of its audio: fields with the names of our columns are taken as these.

    Raises:
        ItemError: these are no codes of the dump's layout, or not those that `codes_sha256` beside them tells of.
    """
    codes = form.layout.codes_in(select_array(arrays, form.key))
    said = fields.get("codes_sha256")
    if said is not None and said != (found := codes_sha256(codes)):
        _refuse(f"its codes have sha256 {found}, `codes_sha256` beside them says {said}", RejectReason.CORRUPT)
    longest = codes.shape[1] * hop_length
    num_samples = _whole_number(fields, "num_samples", longest) if fields.get("sample_rate") == sample_rate else None
    fraction = {name: _real_number(fields, name) for name in ("rms_db", "peak", "clipped_fraction", "silent_fraction")}
    text, flag = fields.get("source_format"), fields.get("truncated")
    facts = ImportedFacts(
        num_samples=num_samples or longest,
        sample_rate=sample_rate,
        source_sample_rate=_whole_number(fields, "source_sample_rate", 2**31 - 1),
        source_channels=_whole_number(fields, "source_channels", 2**15 - 1),
        source_format=text if isinstance(text, str) else None,
        channel=_whole_number(fields, "channel", 2**15 - 1),
        truncated=flag if isinstance(flag, bool) else None,
        **fraction,
    )
    return EncodedItem(codes=codes, **_windows(fields, codes.shape[1])), facts


def _windows(fields: Fields, num_frames: int) -> dict[str, Array]:
    """Scales [S] and window frames [S], where both are there and agree with the codes."""
    scales, frames = fields.get("scales"), fields.get("window_frames")
    if not (isinstance(scales, list) and isinstance(frames, list)) or len(scales) != len(frames):
        return {}
    if not all(isinstance(n, int) and n >= 0 for n in frames) or sum(frames) != num_frames:
        _refuse(f"its windows have {frames} frames, its codes {num_frames}", RejectReason.CORRUPT)
    if not all(isinstance(scale, int | float) for scale in scales):
        _refuse(f"the scales of its windows are {scales}, expected numbers", RejectReason.CORRUPT)
    return {"scales": np.array(scales, dtype=np.float32), "window_frames": np.array(frames, dtype=np.int32)}


def _whole_number(fields: Fields, name: str, most: int) -> int | None:
    value = fields.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= most else None


def _real_number(fields: Fields, name: str) -> float | None:
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _refuse(
    message: str, reason: RejectReason, stage: Stage = Stage.DECODE, cause: BaseException | None = None
) -> NoReturn:
    raise ItemError(message, stage=stage, reason=reason) from cause
