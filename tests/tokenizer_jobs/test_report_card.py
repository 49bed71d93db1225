"""The card and the statistics beside an output: loadable, made anew, and never over somebody else's."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.tokenizer_jobs.conftest import Quickstart
from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tests.tokenizer_jobs.token_outputs import grow_output, write_output
from tokenizer_jobs.catalog import publish_snapshot, read_snapshot
from tokenizer_jobs.cli import main
from tokenizer_jobs.errors import TransientError
from tokenizer_jobs.removal import drop
from tokenizer_jobs.report import Statistics, make_report, publish_card
from tokenizer_jobs.report.card import card_of, size_category
from tokenizer_jobs.report.statistics import measure
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.sweeping import sweep_orphans
from tokenizer_jobs.verification import verify


def _front_matter(card: str) -> dict[str, object]:
    start, front, _ = card.split("---\n", 2)
    assert start == ""
    content: dict[str, object] = yaml.safe_load(front)
    return content


def test_a_run_leaves_a_card_that_datasets_loads_the_folder_by(
    quickstart: Quickstart, tmp_path: Path, offline_datasets: None
) -> None:
    from datasets import load_dataset

    rows = load_dataset(str(quickstart[0]), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 32
    assert len(rows[0]["codes"]) == 8
    statistics = Statistics.model_validate_json((quickstart[0] / "stats.json").read_bytes())
    assert (statistics.snapshot, statistics.counts.rows, statistics.content) == (1, 32, None)


@pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
def test_rows_and_rejects_are_two_configurations(tmp_path: Path, offline_datasets: None, shard_format: str) -> None:
    from datasets import load_dataset

    storage = Storage.open(tmp_path / "out")
    (unit,) = plan_output(storage, [["a", "b", "c"]])
    finish_unit(storage, unit, rejected=[1], shard_format=shard_format, metadata=_METADATA)  # type: ignore[arg-type]
    publish_card(storage, publish_snapshot(storage, recipe_id=RECIPE.recipe_id))
    where = {"cache_dir": str(tmp_path / "cache"), "split": "train"}
    assert load_dataset(str(tmp_path / "out"), **where)["id"][:] == ["a", "c"]
    assert load_dataset(str(tmp_path / "out"), "rejects", **where)["id"][:] == ["b"]


def test_outputs_of_one_name_and_outputs_that_grew_load_their_own_rows(tmp_path: Path, offline_datasets: None) -> None:
    from datasets import load_dataset

    def num_loaded(output: Path) -> int:
        return len(load_dataset(str(output), split="train", cache_dir=str(tmp_path / "cache")))

    first, second = tmp_path / "a" / "speech", tmp_path / "b" / "speech"
    storage = write_output(first, [[5, 6]])
    publish_card(storage)
    publish_card(write_output(second, [[5, 6, 7, 8]]))
    assert (num_loaded(first), num_loaded(second)) == (2, 4)
    grow_output(storage, [7])
    publish_card(storage)
    assert num_loaded(first) == 3


_METADATA = {b"tokenizer_jobs": json.dumps({"recipe_id": RECIPE.recipe_id}).encode()}


def test_an_output_of_rejects_alone_names_no_file_to_load(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    (unit,) = plan_output(storage, [["a"]])
    finish_unit(storage, unit, rejected=[0])
    publish_card(storage, publish_snapshot(storage, recipe_id=RECIPE.recipe_id))
    assert "configs" not in _front_matter((tmp_path / "out" / "README.md").read_text())


def test_the_same_snapshot_gives_the_same_bytes_and_a_new_one_others(storage: Storage, tmp_path: Path) -> None:
    (unit,) = plan_output(storage, [["a", "b"]])
    finish_unit(storage, unit)
    publish_card(storage, publish_snapshot(storage, recipe_id=RECIPE.recipe_id))
    before = storage.read_bytes("README.md"), storage.read_bytes("stats.json")
    publish_card(storage)
    assert (storage.read_bytes("README.md"), storage.read_bytes("stats.json")) == before


def test_a_new_snapshot_makes_both_anew(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [[5, 6]])
    publish_card(storage)
    before = storage.read_bytes("README.md")
    grow_output(storage, [7])
    publish_card(storage)
    assert storage.read_bytes("README.md") != before
    assert json.loads(storage.read_bytes("stats.json"))["counts"]["rows"] == 3


def test_what_a_report_found_out_stays_until_the_next_snapshot(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [[50, 60]])
    make_report(str(tmp_path / "out"))
    assert "Use of the codebooks" in storage.read_bytes("README.md").decode()
    before = storage.read_bytes("stats.json")
    publish_card(storage)
    assert storage.read_bytes("stats.json") == before
    assert "Use of the codebooks" in storage.read_bytes("README.md").decode()
    grow_output(storage, [7])
    publish_card(storage)
    assert json.loads(storage.read_bytes("stats.json"))["content"] is None


@pytest.mark.parametrize("change", ["own", "edited", "appended", "not text"])
def test_a_card_of_somebody_else_is_left_as_it_is(tmp_path: Path, change: str) -> None:
    storage = write_output(tmp_path / "out", [[50, 60]])
    publish_card(storage)
    ours = storage.read_bytes("README.md")
    theirs = {
        "own": b"# My data\n",
        "edited": ours.replace(b"# Audio codes", b"# My codes"),
        "appended": ours + b"\nOne more line\n",
        "not text": b"\xff\xfe\x00",
    }[change]
    storage.replace("README.md", theirs)
    grow_output(storage, [7])
    publish_card(storage)
    result = make_report(str(tmp_path / "out"))
    assert storage.read_bytes("README.md") == theirs
    assert result.left_alone == ("README.md",)
    assert json.loads(storage.read_bytes("stats.json"))["counts"]["rows"] == 3


def test_card_page_and_statistics_are_nothing_to_verify_or_to_sweep(quickstart: Quickstart, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(quickstart[0], output)
    make_report(str(output), samples=0)
    assert verify(str(output)).problems == []
    sweep_orphans(Storage.at(str(output)))
    assert all((output / name).exists() for name in ("README.md", "stats.json", "report.html"))


def test_dropping_items_takes_the_page_that_may_show_them(quickstart: Quickstart, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(quickstart[0], output)
    make_report(str(output), samples=0)
    drop(str(output), ids=["tone-440-wav"])
    assert not (output / "report.html").exists()
    statistics = Statistics.model_validate_json((output / "stats.json").read_bytes())
    assert (statistics.counts.rows, statistics.counts.dropped) == (31, 1)
    (output / "report.html").write_text("somebody's own page")
    drop(str(output), ids=["tone-330-wav"])
    assert (output / "report.html").read_text() == "somebody's own page"


def test_a_storage_that_fails_costs_the_card_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = write_output(tmp_path / "out", [[5]])
    snapshot = read_snapshot(storage)

    def fail(*_: object) -> None:
        raise TransientError("no answer")

    monkeypatch.setattr(type(storage), "replace", fail)
    publish_card(storage, snapshot)
    assert not storage.exists("stats.json")


def test_names_of_codecs_are_words_of_the_card_not_its_markup(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [[5]])
    statistics = measure(storage)
    codec = statistics.codec.model_copy(update={"model": "a|b\n---\n<script>[x](y)"})
    card = card_of(statistics.model_copy(update={"codec": codec}), snapshot=read_snapshot(storage))
    assert "configs" in _front_matter(card)
    line = next(line for line in card.splitlines() if line.startswith("| codec |"))
    assert "<script" not in line.replace("\\<", "")
    assert line.replace("\\|", "").count("|") == 3


@pytest.mark.parametrize(("rows", "name"), [(0, "n<1K"), (1000, "1K<n<10K"), (5_000_000, "1M<n<10M"), (10**12, "n>1B")])
def test_sizes_are_the_hubs_words(rows: int, name: str) -> None:
    assert size_category(rows) == name


def test_the_command_writes_all_three_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(tmp_path / "out", [[50, 60]])
    assert main(["report", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert str(tmp_path / "out" / "report.html") in said
    assert "stats.json and README.md" in said
    assert main(["report", str(tmp_path / "out"), "-o", str(tmp_path / "page.html"), "--json"]) == 0
    assert Statistics.model_validate_json(capsys.readouterr().out).counts.rows == 2


def test_the_command_fails_where_the_output_has_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = write_output(tmp_path / "out", [[50], [60]])
    (tmp_path / "out" / storage.list("codes")[0].path).unlink()
    assert main(["report", str(tmp_path / "out")]) == 1
    assert "problem: codes/" in capsys.readouterr().err
    assert (tmp_path / "out" / "report.html").exists()
