"""Outputs of every format version are read for ever: by this package, and by pyarrow alone as `docs/format.md` says.

`python -m tests.tokenizer_jobs.golden_outputs.make tests/tokenizer_jobs/golden_outputs/v<N>` makes the one of a new
version, once; what it has to hold is then written down here.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.conftest import REPOSITORY
from tests.tokenizer_jobs.golden_outputs.make import FIRST, SECOND, golden_job
from tokenizer_jobs import TokenDataset, run, verify
from tokenizer_jobs.catalog import SnapshotFacts, newest_snapshot, read_snapshot
from tokenizer_jobs.cli import main
from tokenizer_jobs.commit_records import Commit, CommittedFile, EncodeWork
from tokenizer_jobs.commits import read_commits
from tokenizer_jobs.encoding import describe_codec
from tokenizer_jobs.errors import ConfigError, IntegrityError, NewerFormatError, RejectReason, Stage
from tokenizer_jobs.format_version import FORMAT_VERSION
from tokenizer_jobs.lease import LeaseHolder
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.planning import PlanSummary, read_plan_summary
from tokenizer_jobs.receipts import Receipt, Rewrite, read_receipts
from tokenizer_jobs.recipe import ResolvedRecipe, read_recipe
from tokenizer_jobs.schema import REJECT_COLUMNS, ROW_COLUMNS
from tokenizer_jobs.status import read_status
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training import TokenTable

FOLDER = Path(__file__).parent / "golden_outputs"
DOCUMENT = (REPOSITORY / "docs" / "format.md").read_text()
(PLAIN_READER,) = re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """What the output of a version holds."""

    digest: str
    rows: dict[str, str]
    """Hash of the codes by id, in order."""
    rejects: dict[str, str]
    """Reason by id."""
    retired: int
    """A snapshot that cannot be read any more."""


GOLDEN = {
    1: Golden(
        digest="d687215bdfa032c1bf55b0d264ac7f8a5fb7b3e74d70546be248997cc8f23bc4",
        rows={
            "noise-4-flac": "1858ef3eb0da0fd731bc0fe5e5aa9c9846959793fc5511a1cf3c106ed2be4a8d",
            "tone-220-wav": "0f426580eab127d0a094e64db539e710f000075bc29c77fad417d58e6aa05a88",
            "chirp-150-flac": "ade2a139c14716d4eaff689576ec54d42a0562a83510e9fcb11d9bcdf9850114",
        },
        rejects={"tone-880-wav": "too_short"},
        retired=2,
    )
}

every_version = pytest.mark.parametrize("version", sorted(GOLDEN))


def output_of(version: int) -> str:
    return str(FOLDER / f"v{version}")


def test_this_version_and_the_one_before_have_an_output() -> None:
    assert {f"v{version}" for version in GOLDEN} == {path.name for path in FOLDER.glob("v*")}
    assert {FORMAT_VERSION, max(1, FORMAT_VERSION - 1)} <= GOLDEN.keys()


@every_version
def test_verify_finds_its_digest_and_no_problem(version: int) -> None:
    found, golden = verify(output_of(version)), GOLDEN[version]
    assert found.problems == []
    assert (found.digest, found.items, found.rows, found.rejects) == (golden.digest, 4, 3, 1)
    assert found.dropped == 1


@every_version
def test_training_reads_its_rows(version: int) -> None:
    golden, table = GOLDEN[version], TokenTable(output_of(version), columns=["id", "codes_sha256", "num_samples"])
    rows = [table[place] for place in range(len(table))]
    assert {row["id"]: row["codes_sha256"] for row in rows} == golden.rows
    assert {tuple(row["codes"].shape) for row in rows} == {(2, 75)}
    assert table.by_id("tone-220-wav")["num_samples"] == 24_000
    samples = list(TokenDataset(output_of(version), crop_frames=50))
    assert {sample["id"] for sample in samples} == golden.rows.keys()


@every_version
def test_pyarrow_reads_it_as_the_page_says(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "import tokenizer_jobs" not in PLAIN_READER
    assert "out/quickstart" in PLAIN_READER
    monkeypatch.chdir(FOLDER)
    found: dict[str, Any] = {}
    exec(PLAIN_READER.replace("out/quickstart", f"v{version}"), found)
    assert (found["rows"], f"{found['digest'] % 2**256:064x}") == (3, GOLDEN[version].digest)


@every_version
def test_snapshots_are_read_but_the_retired_one(version: int) -> None:
    storage, golden = Storage.at(output_of(version)), GOLDEN[version]
    newest, first = read_snapshot(storage), read_snapshot(storage, 1)
    assert (newest.number, newest.facts.digest, newest.facts.format_version) == (3, golden.digest, version)
    assert [shard.path for shard in first.shards] == [shard.path for shard in newest.shards[:1]]
    with pytest.raises(ConfigError, match=r"snapshot 2 .* is retired: receipts/000001\.json says"):
        read_snapshot(storage, golden.retired)


@every_version
def test_status_and_rejects_are_read(version: int) -> None:
    found, golden = read_status(output_of(version)), GOLDEN[version]
    assert (found.units, found.units_committed, found.digest, found.problems) == (3, 3, golden.digest, [])
    (path,) = Path(output_of(version), "rejects").iterdir()
    rejects = pq.read_table(path).to_pylist()
    assert {reject["id"]: reject["reason"] for reject in rejects} == golden.rejects


def contents_of(output: Path) -> dict[Path, bytes]:
    """All files but the card and its figures, which every version makes anew in its own words."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if path.name not in ("README.md", "stats.json")}


@every_version
def test_a_run_on_it_has_nothing_to_do(version: int, tmp_path: Path) -> None:
    stored, job = read_recipe(Storage.at(output_of(version))), golden_job(str(tmp_path / "out"), *FIRST, *SECOND)
    assert describe_codec(job.recipe.codec).weights_sha256 == stored.weights_sha256, (
        "the codec `demo` has other weights than when this output was made: every output that users made with it can "
        "be read and not be added to any more; give what was trained anew a name of its own"
    )
    shutil.copytree(output_of(version), tmp_path / "out")
    before = contents_of(tmp_path / "out")
    result = run(job)
    assert (result.new_rows, result.generations, result.digest) == (0, 2, GOLDEN[version].digest)
    assert contents_of(tmp_path / "out") == before


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A copy of the output of this version, to be changed."""
    shutil.copytree(output_of(FORMAT_VERSION), tmp_path / "out")
    return Storage.at(tmp_path / "out")


def edit_json(path: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Storage], None]:
    def edit(storage: Storage) -> None:
        (file,) = Path(storage.url).glob(path)
        content = json.loads(file.read_bytes())
        change(content)
        file.write_text(json.dumps(content, indent=2))

    return edit


def edit_table(
    path: str, change: Callable[[dict[str, Any]], object], *, more_columns: bool = False
) -> Callable[[Storage], None]:
    """Change the JSON in a Parquet file's metadata, and give it a column more."""

    def edit(storage: Storage) -> None:
        (file,) = Path(storage.url).glob(path)
        table = pq.read_table(file)
        said = json.loads(table.schema.metadata[b"tokenizer_jobs"])
        change(said)
        if more_columns:
            table = table.append_column("later", pa.nulls(len(table), pa.string()))
        metadata = table.schema.metadata | {b"tokenizer_jobs": json.dumps(said).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)

    return edit


def next_version(content: dict[str, Any]) -> None:
    content["format_version"] = FORMAT_VERSION + 1
    content.pop("recipe_id", None)  # whatever else a later version may do


FILES: dict[str, tuple[Callable[[Storage], None], Callable[[Storage], object]]] = {
    "recipe.json": (edit_json("recipe.json", next_version), read_recipe),
    "plans/000001.json": (edit_json("plans/000001.json", next_version), lambda s: read_plan_summary(s, 1)),
    "_commits/000002/.*": (edit_json("_commits/000002/*.json", next_version), lambda s: list(read_commits(s, 2))),
    "receipts/000001.json": (edit_json("receipts/000001.json", next_version), read_receipts),
    "catalog/000003.parquet": (edit_table("catalog/000003.parquet", next_version), read_snapshot),
    "codes/part-000001.*": (edit_table("codes/part-000001*", next_version), lambda s: TokenTable(s.url)),
}


@pytest.mark.parametrize("path", FILES)
def test_a_newer_file_is_refused_and_not_called_damaged(path: str, storage: Storage) -> None:
    edit, read = FILES[path]
    edit(storage)
    said = (
        f"{path} has format_version = {FORMAT_VERSION + 1}, and this tokenizer-jobs reads versions up to "
        f"{FORMAT_VERSION}; install a newer tokenizer-jobs, and leave the files as they are"
    )
    with pytest.raises(NewerFormatError, match=said):
        read(storage)


@pytest.mark.parametrize("path", ["recipe.json", "plans/000001.json"])
def test_verify_judges_nothing_of_a_newer_output(
    path: str, storage: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    FILES[path][0](storage)
    assert main(["verify", storage.url]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("format_version") == 1
    assert "delete" not in shown.err


@pytest.mark.parametrize("version", [0, -1, True, 1.5, "2"])
def test_what_is_no_version_is_damage(version: object, storage: Storage) -> None:
    edit_json("plans/000001.json", lambda content: content.update(format_version=version))(storage)
    with pytest.raises(IntegrityError, match=r"plans/000001\.json has format_version = .*restore it") as caught:
        read_plan_summary(storage, 1)
    assert not isinstance(caught.value, NewerFormatError)


def add_later_fields(content: dict[str, Any]) -> None:
    """Add a field to a record and to every record inside it that has a model."""
    content["later"] = {"of": "a later package"}
    for name in ("files", "rewrites", "before", "after"):
        for inner in content.get(name, ()):
            add_later_fields(inner)
    for name in ("row_groups", "encode_work"):
        if content.get(name) is not None:
            content[name]["later"] = 1


def test_fields_that_later_packages_add_are_passed_over(storage: Storage) -> None:
    for path in ("plans/000001.json", "plans/000002.json", "_commits/000002/*.json", "receipts/000001.json"):
        edit_json(path, add_later_fields)(storage)
    for number in (1, 2, 3):
        edit_table(f"catalog/{number:06d}.parquet", add_later_fields, more_columns=True)(storage)
    found = verify(storage.url)
    assert (found.problems, found.digest) == ([], GOLDEN[FORMAT_VERSION].digest)
    newest = newest_snapshot(storage)
    assert newest is not None
    assert newest == read_snapshot(Storage.at(output_of(FORMAT_VERSION)))


def test_a_field_of_the_recipe_is_never_passed_over(storage: Storage) -> None:
    edit_json("recipe.json", lambda content: content["audio"].update(dither="none"))(storage)
    with pytest.raises(
        IntegrityError, match=r"recipe\.json has audio\.dither, which this tokenizer-jobs does not know"
    ):
        read_recipe(storage)


def test_a_selection_of_a_later_package_is_refused_by_its_key(storage: Storage) -> None:
    edit_json("plans/000002.json", lambda content: content["selection"]["filters"].update(max_reverb=1))(storage)
    plan = read_plan_summary(storage, 2)
    with pytest.raises(ConfigError, match=r"plans/000002\.json, selection: unknown key filters\.max_reverb"):
        plan.read_selection()
    assert verify(storage.url).digest == GOLDEN[FORMAT_VERSION].digest


def fields_of_the_format() -> set[str]:
    models = (Commit, CommittedFile, EncodeWork, PlanSummary, Receipt, Rewrite, ResolvedRecipe, SnapshotFacts)
    output = Path(output_of(FORMAT_VERSION))
    columns = pq.read_schema(output / "catalog" / "000003.parquet")
    said = json.loads(pq.read_schema(next((output / "codes").iterdir())).metadata[b"tokenizer_jobs"])
    holder = LeaseHolder(run_id="", owner=Owner.current(), started_at=0.0, heartbeat=0.0)
    return {
        *(name for model in models for name in model.model_fields),
        *(name for schema in (ROW_COLUMNS, REJECT_COLUMNS, columns) for name in schema.names),
        *pq.read_schema(output / "plans" / "000001.parquet").names,
        *said,
        *json.loads(holder.to_json()),
        *(reason.value for reason in RejectReason),
        *(stage.value for stage in Stage),
    }


def test_the_page_names_every_field() -> None:
    assert fields_of_the_format() - set(re.findall(r"`(\w+)`", DOCUMENT)) == set()
