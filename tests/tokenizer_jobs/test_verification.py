"""Verification finds nothing in a whole output, and one problem for one planted fault, naming the file."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.factories import METADATA, RECIPE, finish_unit, plan_output
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.commits import commit_path
from tokenizer_jobs.digest import Digest, codes_sha256
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.shards import read_batches
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify_output

UNITS = [["a", "b", "c"], ["d", "e"], ["f"]]
UNIT_IDS = [f"{1:08x}{index:08x}" for index in range(3)]
COMMIT = commit_path(1, UNIT_IDS[0])
SHARD = f"codes/part-000001-00000-{UNIT_IDS[0]}.parquet"
OTHER = f"codes/part-000001-00001-{UNIT_IDS[1]}.parquet"
REJECTS = f"rejects/part-000001-00000-{UNIT_IDS[0]}.parquet"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A whole output: three units, two with a reject, one of rejects only."""
    storage = Storage.open(tmp_path / "out")
    for unit, rejected in zip(plan_output(storage, UNITS), ([2], [1], [0]), strict=True):
        finish_unit(storage, unit, rejected=rejected)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    return storage


def flip(storage: Storage, path: str) -> None:
    content = bytearray(storage.read_bytes(path))
    content[len(content) // 2] ^= 1
    storage.replace(path, bytes(content))


def edit_json(storage: Storage, path: str, **changes: Any) -> None:
    storage.replace(path, json.dumps(json.loads(storage.read_bytes(path)) | changes).encode())


def rewrite(storage: Storage, path: str, change: Callable[[dict[str, Any]], None], **metadata: Any) -> None:
    """Rewrite a file as `change` leaves its columns, with a commit that agrees on rows, bytes, hash and digest."""
    (batch,) = read_batches(storage, path)
    columns = {name: column.to_pylist() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    change(columns)
    facts = json.dumps(json.loads(METADATA[b"tokenizer_jobs"]) | metadata).encode()
    schema = batch.schema.with_metadata({**batch.schema.metadata, b"tokenizer_jobs": facts})
    pq.write_table(pa.table(columns, schema=schema), Path(storage.url) / path)
    content = storage.read_bytes(path)
    commit = json.loads(storage.read_bytes(COMMIT))
    for file in commit["files"]:
        if file["path"] == path:
            sha256_of_file = hashlib.sha256(content).hexdigest()
            file |= {"rows": len(columns["id"]), "size_bytes": len(content), "sha256": sha256_of_file}
    if path.startswith("codes/"):
        digest = Digest()
        for row_id, sha256 in zip(columns["id"], columns["codes_sha256"], strict=True):
            digest.add_row(row_id, codes_sha256=sha256, recipe_id=RECIPE.recipe_id)
        commit |= {"digest": digest.hex, "num_rows": len(columns["id"])}
    edit_json(storage, COMMIT, **commit)
    storage.delete("catalog/000001.parquet")
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)


def set_code(columns: dict[str, Any], value: int, *, honest: bool) -> None:
    columns["codes"][0][7][3] = value
    if honest:
        columns["codes_sha256"][0] = codes_sha256(np.array(columns["codes"][0], dtype=np.uint16))


def drop_last(columns: dict[str, Any]) -> None:
    for values in columns.values():
        values.pop()


def drop_codebook(columns: dict[str, Any]) -> None:
    columns["codes"][0].pop()
    columns["num_codebooks"][0] -= 1
    columns["codes_sha256"][0] = codes_sha256(np.array(columns["codes"][0], dtype=np.uint16))


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda columns: columns[key].__setitem__(0, value)


FAULTS: dict[str, tuple[Callable[[Storage], None], str]] = {
    "a byte of a shard": (lambda s: flip(s, SHARD), f"{SHARD} has sha256 .*; restore it from a copy"),
    "a byte of rejects": (lambda s: flip(s, REJECTS), f"{REJECTS} has sha256"),
    "a cut shard": (lambda s: s.replace(SHARD, s.read_bytes(SHARD)[:-1]), f"{SHARD} has .* bytes, its commit says"),
    "no shard": (lambda s: s.delete(SHARD), f"{SHARD} is missing although a commit names it"),
    "no rejects": (lambda s: s.delete(REJECTS), f"{REJECTS} is missing although a commit names it"),
    "no commit": (lambda s: s.delete(COMMIT), f"lists {SHARD}, which no commit names; restore {COMMIT}"),
    "a damaged commit": (lambda s: s.replace(COMMIT, b"{}"), f"{COMMIT} is not a commit record"),
    "a commit's recipe": (lambda s: edit_json(s, COMMIT, recipe_id="ef" * 32), f"{COMMIT} has recipe id efef"),
    "a commit's counts": (lambda s: edit_json(s, COMMIT, num_rejects=2), f"{COMMIT} says items, rows and rejects"),
    "a commit's digest": (
        lambda s: edit_json(s, COMMIT, digest="0" * 64),
        f"{SHARD} has rows, frames and digest .*its commit says",
    ),
    "a commit without plan": (
        lambda s: s.replace(
            commit_path(1, "f" * 16),
            json.dumps(json.loads(s.read_bytes(COMMIT)) | {"unit_id": "f" * 16}).encode(),
        ),
        "is of no planned unit",
    ),
    "the recipe's id": (
        lambda s: edit_json(s, "recipe.json", recipe_id="ef" * 32),
        r"recipe\.json says recipe id efef.*its fields hash to",
    ),
    "an edited recipe": (
        lambda s: edit_json(s, "recipe.json", weights_sha256="ef" * 32),
        r"recipe\.json says recipe id .*it was edited",
    ),
    "a reason": (lambda s: rewrite(s, REJECTS, put("reason", "empty")), f"{REJECTS} has reasons .*'empty': 1"),
    "no plan": (lambda s: s.delete("plans/000001.json"), "plans/000001 cannot be read"),
    "no plan rows": (lambda s: s.delete("plans/000001.parquet"), "plans/000001 cannot be read"),
    "an orphan": (
        lambda s: s.replace("codes/part-000001-00009-feed.parquet", b"x"),
        r"codes/part-000001-00009-feed\.parquet is named by no commit",
    ),
    "an orphan among rejects": (lambda s: s.replace("rejects/x", b"x"), "rejects/x is named by no commit"),
    "a code": (
        lambda s: rewrite(s, SHARD, lambda columns: set_code(columns, 5, honest=False)),
        f"{SHARD}: row 'a' has codes of sha256",
    ),
    "a code beyond the codebook": (
        lambda s: rewrite(s, SHARD, lambda columns: set_code(columns, 1024, honest=True)),
        f"{SHARD}: row 'a' has code 1024 where codebooks hold 1024",
    ),
    "a missing codebook": (
        lambda s: rewrite(s, SHARD, drop_codebook),
        f"{SHARD}: row 'a' has 7 codebooks where the file's metadata says 8",
    ),
    "a number of frames": (
        lambda s: rewrite(s, SHARD, put("num_frames", 74)),
        rf"{SHARD}: row 'a' has codes \[8, 75\] and says \[8, 74\]",
    ),
    "windows": (
        lambda s: rewrite(s, SHARD, put("window_frames", [74])),
        f"{SHARD}: row 'a' has windows of 74 frames",
    ),
    "an id twice in a shard": (
        lambda s: rewrite(s, SHARD, put("id", "b")),
        f"{SHARD} has 'b', an id that {SHARD} has too",
    ),
    "an id of another unit": (
        lambda s: rewrite(s, SHARD, put("id", "d")),
        f"{SHARD} has 'd', an id that is not planned",
    ),
    "an id among rows and rejects": (
        lambda s: rewrite(s, REJECTS, put("id", "a")),
        f"{REJECTS} has 'a', an id that {SHARD} has too",
    ),
    "another recipe in a shard": (
        lambda s: rewrite(s, SHARD, lambda columns: None, recipe_id="ef" * 32),
        f"{SHARD} was made with recipe id efef",
    ),
    "other metadata in one part": (
        lambda s: rewrite(s, SHARD, lambda columns: None, versions={}),
        f"{OTHER} has another schema or metadata than {SHARD}",
    ),
    "no snapshot": (
        lambda s: s.delete("catalog/000001.parquet"),
        "no snapshot lists the 2 committed shards; run again",
    ),
    "a damaged snapshot": (
        lambda s: s.replace("catalog/000001.parquet", b"PAR1"),
        r"catalog/000001\.parquet is damaged",
    ),
}


def test_a_whole_output_has_no_problems(storage: Storage) -> None:
    report = verify_output(storage)
    assert report.problems == ()
    assert (report.units_planned, report.items_planned, report.snapshot) == (3, 6, 1)
    totals = report.totals
    assert (totals.units, totals.items, totals.rows, totals.rejects) == (3, 6, 3, 3)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_one_named_problem(storage: Storage, fault: str) -> None:
    plant, expected = FAULTS[fault]
    plant(storage)
    problems = verify_output(storage).problems
    assert len(problems) == 1, problems
    assert re.search(expected, problems[0]), problems


def test_verification_writes_nothing(storage: Storage) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path(storage.url).rglob("*")}
    verify_output(storage)
    assert {path: path.stat().st_mtime_ns for path in Path(storage.url).rglob("*")} == before


def test_an_unfinished_output_does_not_pass_for_a_whole_one(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    units = plan_output(storage, UNITS)
    (problem,) = verify_output(storage).problems
    assert problem.startswith("3 of 3 planned units have no commit")
    finish_unit(storage, units[1])
    report = verify_output(storage)
    (problem,) = report.problems
    assert problem.startswith("2 of 3 planned units have no commit")
    assert (report.totals.units, report.units_planned, report.snapshot) == (1, 3, None)


def test_growth_verifies(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["new"]], generation=2)
    finish_unit(storage, unit, metadata={**METADATA, b"huggingface": b'{"other": 1}'})
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    report = verify_output(storage)
    assert report.problems == ()
    assert (report.units_planned, report.snapshot, report.totals.rows) == (4, 2, 4)


def test_an_id_in_two_generations_is_found(storage: Storage) -> None:
    (unit,) = plan_output(storage, [["a"]], generation=2)
    finish_unit(storage, unit)
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    (problem,) = verify_output(storage).problems
    assert f"'a', an id that {SHARD} has too" in problem


def test_arrow_outputs_verify(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path)
    (unit,) = plan_output(storage, [["a", "b"]])
    finish_unit(storage, unit, rejected=[0], shard_format="arrow")
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    assert verify_output(storage).problems == ()
    flip(storage, f"codes/{unit.part_name}.arrow")
    assert len(verify_output(storage).problems) == 1


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is no output"):
        verify_output(Storage.at(tmp_path))
