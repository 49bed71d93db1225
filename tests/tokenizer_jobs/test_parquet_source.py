"""Laws of Parquet sources: bytes opened are bytes put in, in any order; plans read little; damage has bounds."""

import io
import os
import pickle
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.tokenizer_jobs.clips import MONO, encode, speechlike
from tokenizer_jobs.decode import decode_items
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason
from tokenizer_jobs.planning import plan_units
from tokenizer_jobs.records import DecodedItem, Item
from tokenizer_jobs.source_config import ParquetSource
from tokenizer_jobs.sources import Listing, Source, make_source
from tokenizer_jobs.sources.tables import opened as opened_tables
from tokenizer_jobs.sources.tables import reader

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLIPS = tuple(encode(speechlike(400 + 40 * place), container="FLAC", coding="PCM_16") for place in range(23))


def rows(clips: Sequence[bytes | None] = CLIPS) -> list[dict[str, Any] | None]:
    return [None if clip is None else {"bytes": clip, "path": f"{place}.flac"} for place, clip in enumerate(clips)]


def write(path: Path, columns: dict[str, Any], *, group: int = 5, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=group, **options)
    return path


def source(*paths: Path | str, **keys: Any) -> Source:
    return make_source(ParquetSource(paths=tuple(map(str, paths)), **keys))


def listed(*paths: Path | str, **keys: Any) -> Listing:
    return source(*paths, **keys).list()


def content(opened_by: Source, item: Item) -> bytes:
    with opened_by.open(item) as file:
        return file.read()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    texts = [f"text {place}" for place in range(len(CLIPS))]
    return write(tmp_path / "set" / "a.parquet", {"audio": pa.array(rows(), FILE), "text": texts})


@pytest.mark.parametrize("kept", [1, 4])
@pytest.mark.parametrize("batch_bytes", [1, 1 << 20])
def test_rows_open_as_they_were_put_in(
    table: Path, kept: int, batch_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "KEPT_READERS", kept)
    monkeypatch.setattr(opened_tables, "BATCH_BYTES", batch_bytes)
    opened = source(table.parent)
    items = list(opened.list().items)
    assert [item.id for item in items] == [f"a.parquet#{row}" for row in range(len(CLIPS))]
    assert [(item.source_uri, item.source_row, item.source_group) for item in items] == [
        (str(table), row, row // 5) for row in range(len(CLIPS))
    ]
    shuffled = random.Random(1).sample(items, len(items))
    for order in (items, items[::-1], shuffled, items[::3], items):
        assert all(content(opened, item) == CLIPS[item.source_row or 0] for item in order)


def test_threads_share_a_source(table: Path) -> None:
    opened = source(table)
    items = tuple(opened.list().items)
    wrong = list[str]()

    def read(seed: int) -> None:
        for item in random.Random(seed).sample(items, len(items)):
            if content(opened, item) != CLIPS[item.source_row or 0]:
                wrong.append(item.id)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("audio", pa.array(rows(), FILE)),
        ("anything", pa.array(rows(), FILE)),
        ("wav", pa.array(CLIPS, pa.binary())),
        ("blob", pa.array(CLIPS, pa.large_binary())),
        ("speech", pa.array([{"bytes": clip} for clip in CLIPS], pa.struct([("bytes", pa.large_binary())]))),
    ],
)
def test_the_audio_column_is_found(tmp_path: Path, name: str, column: pa.Array) -> None:
    opened = source(write(tmp_path / "a.parquet", {"text": ["t"] * len(CLIPS), name: column}))
    found = opened.list()
    assert found.user_schema == pa.schema([("text", pa.string())])
    assert [content(opened, item) for item in found.items] == list(CLIPS)


def test_samples_come_as_a_file_that_loses_nothing(tmp_path: Path) -> None:
    mono, stereo = speechlike(300)[:, 0], speechlike(200, channels=2).astype(np.float64)
    for name, samples, kind in (("m", mono, pa.list_(pa.float32())), ("s", stereo.T, pa.list_(pa.list_(pa.float64())))):
        value = {"path": "x.wav", "array": samples.tolist(), "sampling_rate": 16000}
        shape = pa.struct([("path", pa.string()), ("array", kind), ("sampling_rate", pa.int64())])
        opened = source(write(tmp_path / f"{name}.parquet", {"audio": pa.array([None, value], shape)}))
        empty, item = opened.list().items
        read, rate = soundfile.read(io.BytesIO(content(opened, item)), dtype=samples.dtype.name)
        assert rate == 16000
        assert np.array_equal(read.T, samples)
        assert _reason(opened, empty) is RejectReason.EMPTY


def test_a_doubtful_audio_column_is_asked_for(tmp_path: Path) -> None:
    audio = pa.array(rows(), FILE)
    two = write(tmp_path / "two.parquet", {"close": audio, "far": audio, "n": range(len(CLIPS))})
    with pytest.raises(ConfigError, match=r"two.parquet: close, far may each hold the audio.*audio_column"):
        listed(two)
    found = listed(two, audio_column="far")
    assert found.user_schema.names == ["n"]
    assert list(found.skipped.values()) == [len(CLIPS)]
    assert "close" in next(iter(found.skipped))
    with pytest.raises(ConfigError, match="no column 'near'; it has close, far, n"):
        listed(two, audio_column="near")
    with pytest.raises(ConfigError, match="'n' is int64, which cannot hold audio"):
        listed(two, audio_column="n")
    with pytest.raises(ConfigError, match="no column holds audio"):
        listed(write(tmp_path / "none.parquet", {"n": [1], "text": ["a"]}))


def test_columns_pass_through_with_their_types(tmp_path: Path) -> None:
    columns = {
        "audio": pa.array(rows(), FILE),
        "n": pa.array(range(len(CLIPS)), pa.int16()),
        "tags": pa.array([["a", None]] * len(CLIPS), pa.list_(pa.string())),
        "speaker": pa.array(["ann", "bob", None][place % 3] for place in range(len(CLIPS))).dictionary_encode(),
        "box": pa.array([{"x": 1.5, "y": None}] * len(CLIPS), pa.struct([("x", pa.float32()), ("y", pa.date32())])),
        "mine": pa.array(range(100, 100 + len(CLIPS))),
    }
    path = write(tmp_path / "a.parquet", columns)
    found = listed(path, id_column="mine")
    kinds = {name: column.type for name, column in columns.items()}
    assert found.user_schema == pa.schema(
        [("n", kinds["n"]), ("tags", kinds["tags"]), ("speaker", pa.string()), ("box", kinds["box"])]
    )
    for row, item in enumerate(found.items):
        assert item.id == str(100 + row)
        assert item.user_columns == {name: columns[name][row].as_py() for name in ("n", "tags", "speaker", "box")}
    assert listed(path, columns=["box", "mine"]).user_schema.names == ["box", "mine"]
    with pytest.raises(ConfigError, match="no column 'text'"):
        listed(path, columns=["text"])


def test_files_with_other_columns_go_together(tmp_path: Path) -> None:
    audio = pa.array(rows(CLIPS[:1]), FILE)
    write(tmp_path / "a.parquet", {"audio": audio, "n": pa.array([1], pa.int32())})
    write(tmp_path / "b.parquet", {"n": pa.array([1 << 40]), "text": ["b"], "audio": audio})
    found = listed(tmp_path)
    assert found.user_schema == pa.schema([("n", pa.int64()), ("text", pa.string())])
    assert [item.user_columns for item in found.items] == [{"n": 1, "text": None}, {"n": 1 << 40, "text": "b"}]
    write(tmp_path / "c.parquet", {"audio": audio, "n": ["one"]})
    with pytest.raises(ConfigError, match=r"do not go together.*selection.source.columns"):
        listed(tmp_path)
    assert len(listed(tmp_path, columns=[]).items) == 3


def test_an_own_id_must_be_there(tmp_path: Path) -> None:
    audio = pa.array(rows(CLIPS[:3]), FILE)
    path = write(tmp_path / "a.parquet", {"audio": audio, "mine": ["a", None, "c"]})
    with pytest.raises(ConfigError, match=r"id_column = 'mine': row 1 of .*a.parquet has none"):
        listed(path, id_column="mine")
    with pytest.raises(ConfigError, match=r"id_column: .* has no column 'key'"):
        listed(path, id_column="key")


def test_rows_without_audio_are_rejects(tmp_path: Path) -> None:
    audio = pa.array([*rows(CLIPS[:1]), None, {"bytes": None, "path": None}, {"bytes": b"", "path": "x"}], FILE)
    opened = source(write(tmp_path / "a.parquet", {"audio": audio}))
    items = list(opened.list().items)
    assert len(items) == 4
    decoded = list(decode_items(list(enumerate(items)), source=opened, target=MONO))
    assert isinstance(decoded[0], DecodedItem)
    assert [getattr(item, "reason", None) for item in decoded[1:]] == [RejectReason.EMPTY] * 3


def test_paths_inside_lead_to_files(tmp_path: Path) -> None:
    for place in range(3):
        (tmp_path / f"clips/{place}.flac").parent.mkdir(exist_ok=True)
        (tmp_path / f"clips/{place}.flac").write_bytes(CLIPS[place])
    far = tmp_path / "far.flac"
    far.write_bytes(CLIPS[3])
    paths = ["../clips/0.flac", "../clips/1.flac", str(far), "../clips/./2.flac", None, "none.flac"]
    plain = write(tmp_path / "x" / "plain.parquet", {"file": paths, "n": range(6)})
    opened = source(plain)
    found = {item.user_columns["n"]: item for item in opened.list().items}
    assert [found[n].id for n in range(6)] == [
        *(str(tmp_path / name) for name in ("clips/0.flac", "clips/1.flac", "far.flac", "clips/2.flac")),
        "plain.parquet#4",
        "none.flac",
    ]
    assert [content(opened, found[n]) for n in (0, 1, 3, 2)] == list(CLIPS[:4])
    assert _reason(opened, found[4]) is RejectReason.EMPTY
    with pytest.raises(FileNotFoundError):
        opened.open(found[5])
    assert found[0].estimated_seconds > 1
    rooted = source(write(tmp_path / "y.parquet", {"file": ["0.flac", "1.flac"]}), root=str(tmp_path / "clips"))
    assert [(item.id, content(rooted, item)) for item in rooted.list().items] == [
        ("0.flac", CLIPS[0]),
        ("1.flac", CLIPS[1]),
    ]
    files = pa.array([{"bytes": None, "path": "clips/0.flac"}, {"bytes": CLIPS[1], "path": "none"}], FILE)
    structs = source(write(tmp_path / "z.parquet", {"audio": files}))
    assert [content(structs, item) for item in structs.list().items] == list(CLIPS[:2])


def test_durations_are_estimated(tmp_path: Path) -> None:
    seconds = [1.0 + place for place in range(8)]
    waves = [encode(speechlike(round(16000 * length)), container="WAV", coding="PCM_16") for length in seconds]
    audio = pa.array(rows(waves), FILE)
    guessed = listed(write(tmp_path / "a.parquet", {"audio": audio, "duration": [s * 1000 for s in seconds]}))
    assert sum(item.estimated_seconds for item in guessed.items) == pytest.approx(
        len(b"".join(waves)) / 60_000,
        rel=0.1,  # as the paths inside say FLAC
    )
    told = listed(write(tmp_path / "b.parquet", {"audio": audio, "duration": seconds}))
    assert [item.estimated_seconds for item in told.items] == seconds
    units = list(plan_units(told.items, generation=1, recipe_id="r", unit_minutes=0.01))  # type: ignore[arg-type]
    assert [len(unit.items) for unit in units] == [5, 3]  # a row group stays together


def test_growth_adds_items_only(table: Path) -> None:
    before = {item.id: item for item in listed(table.parent).items}
    write(table.parent / "b.parquet", {"audio": pa.array(rows(), FILE), "text": ["b"] * len(CLIPS)})
    after = {item.id: item for item in listed(table.parent).items}
    assert after.items() >= before.items()
    assert len(after) == 2 * len(CLIPS)
    assert pickle.loads(pickle.dumps(after)) == after


def test_a_rewritten_file_is_noticed(table: Path) -> None:
    opened = source(table)
    items = list(opened.list().items)
    assert content(opened, items[0]) == CLIPS[0]
    write(table, {"audio": pa.array(rows(CLIPS[::-1]), FILE)})
    os.utime(table, (1, 1))
    assert _reason(opened, items[1]) is RejectReason.CHANGED
    assert [content(opened, item) for item in opened.list().items] == list(CLIPS[::-1])
    table.unlink()
    with pytest.raises(FileNotFoundError):
        opened.open(items[2])


def test_a_damaged_group_costs_its_own_rows(tmp_path: Path) -> None:
    clips = [os.urandom(30_000) for _ in range(15)]
    path = write(
        tmp_path / "a.parquet",
        {"audio": pa.array(rows(clips), FILE)},
        group=5,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    content_of_file = bytearray(path.read_bytes())
    content_of_file[content_of_file.index(clips[7][:50]) + 60] ^= 255
    path.write_bytes(content_of_file)
    opened = source(path)
    items = list(opened.list().items)
    reasons = [_reason(opened, item) for item in items]
    assert reasons == [None] * 5 + [RejectReason.CORRUPT] * 5 + [None] * 5
    assert [content(opened, item) for item in (*items[:5], *items[10:])] == [*clips[:5], *clips[10:]]


def test_text_that_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"audio": pa.array(rows(), FILE), "text": ["abcdefgh"] * len(CLIPS)})
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abc\xff\xfefgh"))
    with pytest.raises(ConfigError, match=r"a.parquet: columns beside the audio cannot be read .*UTF8"):
        listed(path)
    assert len(listed(path, columns=[]).items) == len(CLIPS)


def test_broken_files_are_named_before_anything_starts(table: Path) -> None:
    (table.parent / "half.parquet").write_bytes(table.read_bytes()[:-20])
    (table.parent / "none.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2 of 3 tables cannot be read: .*half.parquet.*none.parquet"):
        listed(table.parent)
    (table.parent / "empty").mkdir()
    with pytest.raises(ConfigError, match="nothing found"):
        listed(table.parent / "empty")
    with pytest.raises(ConfigError, match="holds no row"):
        listed(write(table.parent / "empty" / "a.parquet", {"audio": pa.array([], FILE)}))


def _reason(opened_by: Source, item: Item) -> RejectReason | None:
    try:
        content(opened_by, item)
    except ItemError as error:
        return error.reason
    return None
