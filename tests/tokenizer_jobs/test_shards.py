"""Laws of shards: what is written is read, by us and by everyone else, and its bytes follow from rows and metadata."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.factories import (
    FACTS,
    METADATA,
    NO_COLUMNS,
    RECIPE,
    make_facts,
    make_item,
    make_row,
    make_unit,
)
from tokenizer_jobs.digest import Digest, codes_sha256
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.recipe import file_metadata
from tokenizer_jobs.records import EncodedItem, Item, TokenizedItem, WorkUnit
from tokenizer_jobs.schema import CODES_LEAF, row_schema
from tokenizer_jobs.shards import (
    ShardWriter,
    StagedShard,
    codes_arrays,
    find_row,
    read_batches,
    read_schema,
)
from tokenizer_jobs.shards import writer as writer_module
from tokenizer_jobs.storage import STAGING_FOLDER, Storage

Format = Literal["parquet", "arrow"]
BOTH = pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
USER = pa.schema([("text", pa.string()), ("speaker", pa.int64()), ("tags", pa.list_(pa.string()))])
UNIT = make_unit([])
PATH = {name: f"codes/{UNIT.part_name}.{name}" for name in ("parquet", "arrow")}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


def write(
    storage: Storage,
    rows: Sequence[TokenizedItem],
    *,
    shard_format: Format = "parquet",
    user: pa.Schema = NO_COLUMNS,
    calls: int = 1,
    metadata: Any = METADATA,
) -> StagedShard:
    with ShardWriter(
        storage, unit=UNIT, schema=row_schema(user), metadata=metadata, shard_format=shard_format
    ) as shard:
        for call in range(calls):
            shard.append(rows[call * len(rows) // calls : (call + 1) * len(rows) // calls])
        return shard.close()


def published(storage: Storage, rows: Sequence[TokenizedItem], **options: Any) -> str:
    shard = write(storage, rows, **options)
    assert shard.file is not None
    storage.publish(shard.file.staged, shard.file.target.path)
    return shard.file.target.path


def content(shard: StagedShard) -> bytes:
    assert shard.file is not None
    return shard.file.staged.read_bytes()


def codes_bits(storage: Storage, rows: Sequence[TokenizedItem]) -> float:
    """Bits a code in the file, with dictionaries and list levels."""
    footer = pq.read_metadata(Path(storage.url) / published(storage, rows))
    size: int = sum(
        column.total_compressed_size
        for group in range(footer.num_row_groups)
        for column in map(footer.row_group(group).column, range(footer.num_columns))
        if column.path_in_schema == CODES_LEAF
    )
    return 8 * size / sum(row.encoded.codes.size for row in rows)


@BOTH
@pytest.mark.parametrize(("num_codebooks", "codebook_size"), [(1, 1024), (8, 1024), (32, 1024), (4, 2048)])
def test_codes_come_back(storage: Storage, shard_format: Format, num_codebooks: int, codebook_size: int) -> None:
    rows = [
        make_row(f"i{frames}", num_codebooks=num_codebooks, num_frames=frames, codebook_size=codebook_size)
        for frames in (1, 2, 75, 0, 300)
    ]
    path = published(storage, rows, shard_format=shard_format)
    (batch,) = read_batches(storage, path)
    for row, codes, sha256 in zip(
        rows, codes_arrays(batch.column("codes")), batch.column("codes_sha256").to_pylist(), strict=True
    ):
        assert codes.dtype == np.uint16
        np.testing.assert_array_equal(codes, row.encoded.codes)
        assert sha256 == codes_sha256(row.encoded.codes)


@BOTH
def test_every_column_comes_back(storage: Storage, shard_format: Format) -> None:
    item = Item(
        id="a/é.wav",
        source_uri="https://me:word@host/x.tar?sig=1",
        source_member="a/é.wav",
        source_row=7,
        source_size=12,
        source_etag="e",
        user_columns={"text": "hello", "tags": ["x", None]},
    )
    facts = make_facts(75, channel=1, truncated=True, rms_db=float("-inf"))
    rows = [TokenizedItem(item=item, facts=facts, encoded=make_row("a").encoded), make_row("plain")]
    found = [
        row
        for batch in read_batches(storage, published(storage, rows, shard_format=shard_format, user=USER))
        for row in batch.drop_columns(["codes", "codes_sha256"]).to_pylist()
    ]
    assert found[0] == {
        "id": "a/é.wav",
        "num_frames": 75,
        "num_codebooks": 8,
        "scales": None,
        "window_frames": None,
        "num_samples": 75 * 320 - 5,
        "sample_rate": 24000,
        "duration_seconds": (75 * 320 - 5) / 24000,
        "slice_index": 0,
        "slice_count": 1,
        "start_sample": 0,
        "source_uri": "https://host/x.tar",
        "source_member": "a/é.wav",
        "source_row": 7,
        "source_size": 12,
        "source_etag": "e",
        "source_sample_rate": 44100,
        "source_channels": 2,
        "source_format": "WAV/PCM_16",
        "channel": 1,
        "rms_db": float("-inf"),
        "peak": 0.5,
        "clipped_fraction": 0.0,
        "silent_fraction": 0.25,
        "truncated": True,
        "text": "hello",
        "speaker": None,
        "tags": ["x", None],
    }
    assert [found[1][name] for name in ("source_member", "source_row", "text")] == [None, None, None]


@BOTH
def test_windows_come_back_or_stay_null(storage: Storage, shard_format: Format) -> None:
    rows = [make_row("a", num_frames=200, windows=[150, 50]), make_row("b"), make_row("c", windows=[75])]
    path = published(storage, rows, shard_format=shard_format)
    for row in rows:
        stored = find_row(storage, [path], row_id=row.item.id)
        assert stored is not None
        assert stored.path == path
        np.testing.assert_array_equal(stored.encoded.codes, row.encoded.codes)
        for name in ("scales", "window_frames"):
            expected, found = getattr(row.encoded, name), getattr(stored.encoded, name)
            assert (found is None) == (expected is None)
            if expected is not None:
                assert found.dtype == expected.dtype
                np.testing.assert_array_equal(found, expected)
    assert find_row(storage, [path], row_id="none") is None


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=700), calls=st.integers(1, 5))
def test_bytes_do_not_depend_on_the_calls(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], calls: int
) -> None:
    storage = Storage.open(tmp_path_factory.mktemp("out"))
    rows = [make_row(f"i{number}", num_codebooks=2, num_frames=length) for number, length in enumerate(lengths)]
    one, other = write(storage, rows), write(storage, rows, calls=calls)
    assert content(one) == content(other)
    assert one.digest == other.digest


@BOTH
def test_bytes_are_reproducible_and_facts_true(storage: Storage, shard_format: Format) -> None:
    rows = [make_row(f"i{number}", num_frames=number + 1) for number in range(20)]
    one, other = (write(storage, rows, shard_format=shard_format) for _ in range(2))
    assert content(one) == content(other)
    assert one.file is not None
    assert one.file.target.path == PATH[shard_format]
    assert one.file.target.rows == 20
    assert one.file.target.size_bytes == len(content(one))
    assert one.file.target.sha256 == hashlib.sha256(content(one)).hexdigest()
    digest = Digest()
    for row in rows:
        digest.add_row(row.item.id, codes_sha256=codes_sha256(row.encoded.codes), recipe_id=RECIPE.recipe_id)
    assert one.digest == digest.hex
    assert one.row_ids == tuple(row.item.id for row in rows)
    assert one.num_frames == sum(range(1, 21))
    assert one.audio_seconds == pytest.approx(sum(row.facts.duration_seconds for row in rows), abs=1e-12)


@BOTH
def test_no_rows_are_no_file(storage: Storage, shard_format: Format) -> None:
    shard = write(storage, [], shard_format=shard_format)
    assert shard.file is None
    assert shard.digest == "0" * 64
    assert storage.list(STAGING_FOLDER) == []


def test_what_is_not_closed_is_removed(storage: Storage) -> None:
    rows = [make_row(f"i{number}", num_frames=1) for number in range(800)]
    with ShardWriter(
        storage, unit=UNIT, schema=row_schema(NO_COLUMNS), metadata=METADATA, shard_format="parquet"
    ) as shard:
        shard.append(rows)
        assert len(storage.list(STAGING_FOLDER)) == 1
    assert storage.list(STAGING_FOLDER) == []


@BOTH
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, the device of Linux that is always full")
def test_a_full_disk_is_for_the_user(storage: Storage, shard_format: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path(storage.url) / "full"
    full.symlink_to("/dev/full")
    monkeypatch.setattr(type(storage), "stage", lambda self, suffix: full)
    with pytest.raises(ConfigError, match=r"No space left .*free some space"):
        write(storage, [make_row("a", num_frames=75000)], shard_format=shard_format)


@pytest.mark.parametrize("num_rows", [1, 256, 512, 513, 767, 768, 769, 1279, 1280, 1300])
def test_row_groups_hold_256_to_512_rows(storage: Storage, num_rows: int) -> None:
    path = published(storage, [make_row(f"i{number}", num_frames=1, num_codebooks=1) for number in range(num_rows)])
    footer = pq.read_metadata(Path(storage.url) / path)
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    assert sum(sizes) == num_rows
    assert max(sizes) <= 512
    assert len(sizes) == 1 or min(sizes) >= 256


def test_long_items_bound_a_row_group(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_GROUP_CODES", 8 * 1000)
    path = published(storage, [make_row(f"i{number}", num_frames=400) for number in range(7)])
    footer = pq.read_metadata(Path(storage.url) / path)
    assert [footer.row_group(group).num_rows for group in range(footer.num_row_groups)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("num_rows", "num_frames"),
    [(2000, 75), (100, 750), (120, 75), (1, 9000)],
    ids=["2000 of 1 s", "100 of 10 s", "2 minutes of 1 s", "2 minutes in one"],
)
def test_a_code_costs_at_most_10_5_bits(storage: Storage, num_rows: int, num_frames: int) -> None:
    # Measured: 10.11, 10.05, 10.28 and 10.25; uniform codes of 1,024 hold 10 bits each.
    rows = [make_row(f"i{number}", num_frames=num_frames) for number in range(num_rows)]
    assert 10.0 <= codes_bits(storage, rows) <= 10.5


def test_codes_are_dictionary_encoded_and_pages_checked(storage: Storage) -> None:
    path = published(storage, [make_row(f"i{number}") for number in range(600)])
    footer = pq.read_metadata(Path(storage.url) / path)
    for group in range(footer.num_row_groups):
        columns = [footer.row_group(group).column(number) for number in range(footer.num_columns)]
        assert {column.compression for column in columns} == {"ZSTD"}
        (codes,) = [column for column in columns if column.path_in_schema == CODES_LEAF]
        assert "RLE_DICTIONARY" in codes.encodings


@BOTH
def test_metadata_is_in_the_file(storage: Storage, shard_format: Format) -> None:
    schema = read_schema(storage, published(storage, [make_row("a")], shard_format=shard_format))
    assert schema.metadata == METADATA
    assert schema.equals(row_schema(NO_COLUMNS))


@BOTH
@pytest.mark.parametrize("place", [0.3, 0.6, 0.9, 0.999])
def test_a_flipped_byte_is_never_read_as_codes(storage: Storage, shard_format: Format, place: float) -> None:
    rows = [make_row(f"i{number}", num_frames=400) for number in range(20)]
    path = published(storage, rows, shard_format=shard_format)
    whole = bytearray(storage.read_bytes(path))
    whole[int(place * len(whole))] ^= 0x55
    storage.replace(path, bytes(whole))
    try:
        (batch,) = read_batches(storage, path)
    except IntegrityError:
        return
    # Arrow files have no page checksums: there the row's own hash tells.
    codes, hashes = codes_arrays(batch.column("codes")), batch.column("codes_sha256").to_pylist()
    told = [codes_sha256(array) != sha256 for array, sha256 in zip(codes, hashes, strict=True)]
    untouched = [np.array_equal(array, row.encoded.codes) for array, row in zip(codes, rows, strict=True)]
    assert any(told) or all(untouched)


def test_a_cut_file_is_damaged_and_a_missing_one_missing(storage: Storage) -> None:
    path = published(storage, [make_row("a")])
    storage.replace(path, storage.read_bytes(path)[:-20])
    with pytest.raises(IntegrityError, match="is damaged"):
        read_schema(storage, path)
    with pytest.raises(FileNotFoundError):
        list(read_batches(storage, "codes/none.parquet"))


def test_codes_of_another_type_are_refused(storage: Storage) -> None:
    codes: Any = np.zeros((8, 75), dtype=np.int64)
    row = TokenizedItem(item=make_item("a"), facts=make_facts(75), encoded=EncodedItem(codes=codes))
    with pytest.raises(IntegrityError, match="expected uint16"):
        write(storage, [row])


def test_one_output_writes_to_a_remote_store() -> None:
    storage = Storage.open("memory:///shards")
    rows = [make_row("a"), make_row("b")]
    path = published(storage, rows)
    stored = find_row(storage, [path], row_id="b")
    assert stored is not None
    np.testing.assert_array_equal(stored.encoded.codes, rows[1].encoded.codes)


@pytest.fixture
def whole_output(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[TokenizedItem]]:
    """Two shards with the real metadata, as other readers find them."""
    metadata = file_metadata(RECIPE, FACTS, {"soxr": "1"}, schema=row_schema(USER))
    rows = [
        make_row(make_item(f"i{number}", text=f"t{number}", speaker=number, tags=["x"]), num_frames=20 + number)
        for number in range(6)
    ]
    for index, part in enumerate((rows[:3], rows[3:])):
        unit = WorkUnit(generation=1, index=index, unit_id=f"{index:016x}", items=())
        options: Any = {"schema": row_schema(USER), "metadata": metadata, "shard_format": "parquet"}
        with ShardWriter(storage, unit=unit, **options) as shard:
            shard.append(part)
            file = shard.close().file
            assert file is not None
            storage.publish(file.staged, file.target.path)
    return Path(storage.url) / "codes", rows


def test_load_dataset_restores_types(
    whole_output: tuple[Path, list[TokenizedItem]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder, rows = whole_output
    table = datasets.load_dataset(
        "parquet", data_files=str(folder / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    uint16 = datasets.List(datasets.List(datasets.Value("uint16")))
    assert table.features["codes"] == uint16
    assert table.features["scales"] == datasets.List(datasets.Value("float32"))
    assert table.features["speaker"] == datasets.Value("int64")
    arrays = table.with_format("numpy", dtype=np.uint16, columns=["codes"])
    for number, row in enumerate(rows):
        np.testing.assert_array_equal(np.stack(list(arrays[number]["codes"])), row.encoded.codes)
    assert table["text"][:] == [f"t{number}" for number in range(6)]


def test_pandas_reads_codes(whole_output: tuple[Path, list[TokenizedItem]]) -> None:
    folder, rows = whole_output
    frame = pd.read_parquet(folder)
    assert len(frame) == 6
    for codes, row in zip(frame["codes"], rows, strict=True):
        assert codes[0].dtype == np.uint16
        np.testing.assert_array_equal(np.stack(codes), row.encoded.codes)


def test_duckdb_reads_codes(whole_output: tuple[Path, list[TokenizedItem]]) -> None:
    folder, rows = whole_output
    with duckdb.connect() as connection:
        kind = connection.sql(f"select typeof(codes) from '{folder}/*.parquet' limit 1").fetchall()[0][0]
        found = connection.sql(f"select codes, speaker from '{folder}/*.parquet' order by speaker").fetchall()
    assert kind == "USMALLINT[][]"
    for (codes, speaker), row in zip(found, rows, strict=True):
        assert row.item.user_columns["speaker"] == speaker
        np.testing.assert_array_equal(np.array(codes, dtype=np.uint16), row.encoded.codes)
