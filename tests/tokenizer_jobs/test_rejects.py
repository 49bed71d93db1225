"""Files of rejects: in plan order, with the users' columns, and none where nothing was rejected."""

from pathlib import Path
from typing import Literal

import pyarrow as pa
import pytest

from tests.tokenizer_jobs.factories import METADATA, NO_COLUMNS, make_item, make_reject, make_unit
from tokenizer_jobs.errors import RejectReason, Stage
from tokenizer_jobs.records import WorkUnit
from tokenizer_jobs.schema import reject_schema
from tokenizer_jobs.shards import read_batches, read_schema, write_rejects
from tokenizer_jobs.storage import STAGING_FOLDER, Storage

USER = pa.schema([("text", pa.string()), ("speaker", pa.int64()), ("tags", pa.list_(pa.string()))])
UNIT = make_unit([])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


@pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
def test_rejects_come_back_in_plan_order(storage: Storage, shard_format: Literal["parquet", "arrow"]) -> None:
    unit = WorkUnit(
        generation=1,
        index=0,
        unit_id="0" * 16,
        items=tuple(make_item(f"i{number}", text=str(number)) for number in range(4)),
    )
    rejected = [
        make_reject(3, RejectReason.TOO_LONG, Stage.FILTER),
        make_reject(0),
        make_reject(2, RejectReason.EMPTY),
    ]
    schema = reject_schema(USER)
    staged = write_rejects(
        storage, unit=unit, rejected=rejected, schema=schema, metadata=METADATA, shard_format=shard_format
    )
    assert staged.item_ids == ("i0", "i2", "i3")
    assert staged.by_reason == {"corrupt": 1, "empty": 1, "too_long": 1}
    assert staged.num_filtered == 1
    assert staged.file is not None
    path = staged.file.target.path
    assert path == f"rejects/{unit.part_name}.{shard_format}"
    storage.publish(staged.file.staged, path)
    (batch,) = read_batches(storage, path)
    assert batch.schema.equals(schema)
    assert batch.column("stage").to_pylist() == ["decode", "decode", "filter"]
    assert batch.column("reason").to_pylist() == ["corrupt", "empty", "too_long"]
    assert batch.column("message").to_pylist()[0] == "item 0 is damaged"
    assert batch.column("text").to_pylist() == ["0", "2", "3"]
    assert b"huggingface" not in read_schema(storage, path).metadata


def test_no_rejects_are_no_file(storage: Storage) -> None:
    staged = write_rejects(
        storage, unit=UNIT, rejected=[], schema=reject_schema(NO_COLUMNS), metadata=METADATA, shard_format="parquet"
    )
    assert staged.file is None
    assert storage.list(STAGING_FOLDER) == []
