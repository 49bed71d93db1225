"""Laws of the row groups that commits and snapshots record: they are the files', and readers ask no file for them."""

import io
import json
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.dumps import UNKNOWN
from tests.tokenizer_jobs.factories import RECIPE
from tests.tokenizer_jobs.object_stores import reach, requests_to
from tests.tokenizer_jobs.token_crews import told
from tests.tokenizer_jobs.token_outputs import codes_of, grow_output, write_output
from tokenizer_jobs import TokenDataset
from tokenizer_jobs.catalog import Snapshot, publish_snapshot, read_snapshot, snapshot_path
from tokenizer_jobs.commits import Commit, read_commits
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.importing import import_codes
from tokenizer_jobs.records import RowGroups
from tokenizer_jobs.removal import drop
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training import TokenTable, opening
from tokenizer_jobs.training.reading import GroupPlace, read_columns
from tokenizer_jobs.verification import verify

UNITS = [[9, 30, 12, 40, 7], [25, 26, 27], [8, 50, 33, 21, 19, 11, 10], [16]]
GROUP_COLUMNS = ["group_rows", "group_shortest_frames"]


def forget_groups(storage: Storage) -> None:
    """Make commits and the snapshot those of an earlier version, which recorded no row groups."""
    for stored in storage.list("_commits/000001"):
        commit = json.loads(storage.read_bytes(stored.path))
        for file in commit["files"]:
            file.pop("row_groups", None)
        storage.replace(stored.path, json.dumps(commit).encode())
    content = io.BytesIO()
    table = pq.read_table(io.BytesIO(storage.read_bytes(snapshot_path(1))))
    pq.write_table(table.drop_columns(GROUP_COLUMNS), content)
    storage.replace(snapshot_path(1), content.getvalue())


def groups_in(storage: Storage, path: str) -> RowGroups:
    """Read every row of a shard for them."""
    if path.endswith(".arrow"):
        with storage.open_file(path) as raw, pa.ipc.open_file(raw) as file:
            tables = [pa.Table.from_batches([file.get_batch(n)]) for n in range(file.num_record_batches)]
    else:
        parquet = pq.ParquetFile(io.BytesIO(storage.read_bytes(path)))
        tables = [parquet.read_row_group(group) for group in range(parquet.num_row_groups)]
    return RowGroups(
        rows=tuple(table.num_rows for table in tables),
        shortest_frames=tuple(min(table.column("num_frames").to_pylist()) for table in tables),
    )


def check_recorded(storage: Storage) -> Snapshot:
    """The newest snapshot, after a look into every shard that it lists."""
    snapshot = read_snapshot(storage)
    assert {shard.path: shard.row_groups for shard in snapshot.shards} == {
        shard.path: groups_in(storage, shard.path) for shard in snapshot.shards
    }
    return snapshot


@pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
def test_commits_and_snapshots_say_what_the_shards_are(
    tmp_path: Path, shard_format: Literal["parquet", "arrow"]
) -> None:
    units = [[*range(1, 700)], [5, 3, 4]]
    storage = write_output(tmp_path / "out", units, shard_format=shard_format)
    snapshot = check_recorded(storage)
    told_by_commits = [file.row_groups for commit in read_commits(storage, 1) for file in commit.shards]
    assert [shard.row_groups for shard in snapshot.shards] == told_by_commits
    first, second = told_by_commits
    assert first is not None
    assert len(first.rows) == 2
    assert second == RowGroups(rows=(3,), shortest_frames=(3,))


@pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
def test_rewritten_shards_say_it_too(tmp_path: Path, shard_format: Literal["parquet", "arrow"]) -> None:
    storage = write_output(tmp_path / "out", [[*range(1, 700)], [5, 3, 4]], shard_format=shard_format)
    before = read_snapshot(storage)
    drop(str(tmp_path / "out"), where="num_frames < 20 OR num_frames = 3")
    after = check_recorded(storage)
    assert [shard.row_groups for shard in after.shards] != [shard.row_groups for shard in before.shards]
    assert verify(str(tmp_path / "out")).problems == []


def test_imported_codes_say_it_too(tmp_path: Path) -> None:
    (tmp_path / "dump").mkdir()
    for number in range(3):
        np.save(tmp_path / "dump" / f"{number}.npy", codes_of(f"0-{number}", 20 + number))
    import_codes(str(tmp_path / "dump"), str(tmp_path / "out"), codec=UNKNOWN)
    (shard,) = check_recorded(Storage.at(tmp_path / "out")).shards
    assert shard.row_groups == RowGroups(rows=(3,), shortest_frames=(20,))


def test_an_output_of_an_earlier_version_is_read_and_grows(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", UNITS)
    new = read_snapshot(storage)
    forget_groups(storage)
    old = read_snapshot(storage)
    assert old.facts == new.facts
    assert [shard.row_groups for shard in old.shards] == [None] * len(UNITS)
    assert old.shards == tuple(replace(shard, row_groups=None) for shard in new.shards)
    assert publish_snapshot(storage, recipe_id=RECIPE.recipe_id) == old
    assert verify(str(tmp_path / "out")).problems == []
    grow_output(storage, [31, 4])
    both = [shard.row_groups for shard in read_snapshot(storage).shards]
    assert both == [*[None] * len(UNITS), RowGroups(rows=(2,), shortest_frames=(4,))]
    assert len(list(TokenDataset(str(tmp_path / "out"), crop_frames=16))) == sum(map(len, UNITS)) + 2
    assert verify(str(tmp_path / "out")).problems == []


@pytest.mark.parametrize("arguments", [{"crop_frames": 16}, {"crop_frames": 16, "short": "drop"}, {"pack_tokens": 40}])
def test_a_state_saved_by_footers_goes_on_by_the_catalog_and_back(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """The sequence is of the snapshot, however its row groups came to be known."""
    output = str(tmp_path / "out")
    storage = write_output(tmp_path / "out", UNITS)
    known = storage.read_bytes(snapshot_path(1))
    forget_groups(storage)
    forgotten = storage.read_bytes(snapshot_path(1))
    whole = [told(sample) for sample in TokenDataset(output, **arguments)]
    for first, then in ((forgotten, known), (known, forgotten)):
        storage.replace(snapshot_path(1), first)
        begun = TokenDataset(output, **arguments)
        taken = [told(sample) for sample in islice(begun, 2)]
        storage.replace(snapshot_path(1), then)
        resumed = TokenDataset(output, **arguments)
        resumed.load_state_dict(json.loads(json.dumps(begun.state_dict())))
        assert taken + [told(sample) for sample in resumed] == whole


def test_only_groups_with_short_rows_are_read_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_output(tmp_path / "out", UNITS)
    read = list[str]()

    def watched(storage: Storage, place: GroupPlace, *, columns: Sequence[str]) -> pa.Table:
        read.append(place.path)
        return read_columns(storage, place, columns=columns)

    monkeypatch.setattr(opening, "read_columns", watched)
    rows = list(TokenDataset(str(tmp_path / "out"), crop_frames=12, short="drop"))
    assert len(rows) == sum(frames >= 12 for unit in UNITS for frames in unit)
    assert len(read) == sum(min(unit) < 12 for unit in UNITS) == 2


@pytest.mark.parametrize(
    "groups", [RowGroups(rows=(2, 3), shortest_frames=(7, 7)), RowGroups(rows=(5,), shortest_frames=(8,))]
)
def test_verify_finds_row_groups_that_are_not_the_files(tmp_path: Path, groups: RowGroups) -> None:
    storage = write_output(tmp_path / "out", UNITS)
    (path,) = [file.path for file in storage.list("_commits/000001") if file.path.endswith("00000000.json")]
    commit = json.loads(storage.read_bytes(path))
    commit["files"][0]["row_groups"] = {"rows": groups.rows, "shortest_frames": groups.shortest_frames}
    storage.replace(path, json.dumps(commit).encode())
    storage.delete(snapshot_path(1))
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    (problem,) = verify(str(tmp_path / "out")).problems
    assert f"its commit says {groups}" in problem
    if len(groups.rows) == 2:
        with pytest.raises(IntegrityError, match=r"codes/part-000001-00000-.*run `verify`"):
            list(TokenDataset(str(tmp_path / "out"), crop_frames=4))
        table = TokenTable(str(tmp_path / "out"))
        with pytest.raises(IntegrityError, match="has 5 rows in row group 0, its snapshot says 2"):
            table[0]


def test_verify_finds_a_snapshot_with_other_row_groups_than_the_commits(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", UNITS)
    known = storage.read_bytes(snapshot_path(1))
    forget_groups(storage)
    storage.replace(snapshot_path(1), known)
    (problem,) = verify(str(tmp_path / "out")).problems
    assert "run again to publish a snapshot that does" in problem


def test_a_commit_whose_row_groups_do_not_add_up_is_damaged(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", UNITS)
    path = storage.list("_commits/000001")[0].path
    commit = json.loads(storage.read_bytes(path))
    commit["files"][0]["row_groups"]["rows"] = [4]
    storage.replace(path, json.dumps(commit).encode())
    with pytest.raises(IntegrityError, match="is not a commit record"):
        list(read_commits(storage, 1))


NUM_SHARDS = 2000
ROWS = 8


@pytest.fixture(scope="module")
def far_output(object_store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """2,000 shards on a store: one that was written, under as many names."""
    folder = tmp_path_factory.mktemp("far")
    local = write_output(folder / "out", [[20] * ROWS])
    (written,) = read_commits(local, 1)
    (shard,) = written.files
    output = f"s3://bucket/{uuid.uuid4().hex}"
    # By plain HTTP: the client's own 8 ms a file would be most of what these tests take.
    store = HTTPConnection(object_store.removeprefix("http://"))
    with pytest.MonkeyPatch.context() as patch, closing(store):
        reach(object_store, patch)
        storage = Storage.open(output)
        content, commits = local.read_bytes(shard.path), list[Commit]()
        for number in range(NUM_SHARDS):
            path = f"codes/part-000001-{number:05d}-{number:016x}.parquet"
            files = (shard.model_copy(update={"path": path}),)
            commits.append(written.model_copy(update={"unit_id": f"{number:016x}", "index": number, "files": files}))
            store.request("PUT", f"/{output.removeprefix('s3://')}/{path}", content)
            store.getresponse().read()
        publish_snapshot(storage, recipe_id=RECIPE.recipe_id, commits=commits)
    return output


def before_the_first_shard(requests: list[str]) -> list[str]:
    first = next(place for place, request in enumerate(requests) if "/codes/part-" in request)
    return requests[:first]


def shards_asked(requests: list[str]) -> set[str]:
    return {request.split()[1] for request in requests if "/codes/part-" in request}


def test_the_first_sample_of_many_far_shards_costs_few_requests(
    object_store: str, far_output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(object_store, monkeypatch)
    requests_to(object_store)
    dataset = TokenDataset(far_output, crop_frames=16, buffer_rows=48 * ROWS)
    opened = requests_to(object_store)
    assert len(before_the_first_shard(opened)) <= 3, opened
    assert len(shards_asked(opened)) == 1, "the columns are those of the first shard"
    sample = next(iter(dataset))
    assert sample["codes"].shape == (8, 16)
    read = requests_to(object_store)
    assert len(shards_asked(read)) <= 2, "the row group of the first row, of a window of one or two"
    assert len(opened) + len(read) <= 8, [*opened, *read]


def test_a_row_of_many_far_shards_costs_few_requests(
    object_store: str, far_output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach(object_store, monkeypatch)
    requests_to(object_store)
    table = TokenTable(far_output)
    assert len(table) == ROWS * NUM_SHARDS
    assert table[ROWS * 1234 + 3]["id"] == "0-3"
    requests = requests_to(object_store)
    assert len(before_the_first_shard(requests)) <= 3, requests
    assert len(shards_asked(requests)) == 2, "the first for the columns, and that of the row"
