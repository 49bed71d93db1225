"""Laws of `run --replace`, and of sources whose columns change as they grow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.tokenizer_jobs.factories import make_item
from tests.tokenizer_jobs.test_drop import PowerFailure, assert_whole
from tests.tokenizer_jobs.test_job import rejects, rows, write_recording
from tests.tokenizer_jobs.test_retry import fail_at, settings
from tokenizer_jobs.catalog import read_snapshot
from tokenizer_jobs.cli.running import run_screen
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.growth import fit_user_columns
from tokenizer_jobs.item_columns import user_schema_of
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.job import run
from tokenizer_jobs.receipts import read_receipts
from tokenizer_jobs.status import read_status
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for seed in range(4):
        write_recording(folder / f"clip-{seed}.wav", seconds=0.2 + 0.1 * seed, seed=seed)
    return folder


def change(audio: Path) -> None:
    write_recording(audio / "clip-0.wav", seconds=0.4, seed=90)
    write_recording(audio / "clip-2.wav", seconds=0.25, seed=91)


def test_changed_inputs_are_left_until_they_are_to_be_replaced(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run(settings(output, audio))
    change(audio)
    (audio / "clip-3.wav").unlink()
    write_recording(audio / "new.wav", seconds=0.2, seed=92)
    left = run(settings(output, audio))
    assert (left.changed, left.vanished, left.new_rows) == (2, 1, 1)
    assert (left.changed_ids, left.vanished_ids) == (["clip-0.wav", "clip-2.wav"], ["clip-3.wav"])
    screen = run_screen(left, example_id=None)
    assert "such as 'clip-0.wav', 'clip-2.wav'" in screen
    assert "--replace" in screen
    replaced = run(settings(output, audio), replace=True)
    assert (replaced.exit_code, replaced.items, replaced.rows, replaced.changed) == (0, 5, 5, 0)
    assert replaced.digest != first.digest
    assert verify(str(output), reencode=1.0).problems == []
    write_recording(audio / "clip-3.wav", seconds=0.5, seed=3)
    assert assert_whole(Storage.at(output)) == run(settings(tmp_path / "fresh", audio)).digest
    (receipt,) = read_receipts(Storage.at(output)).all
    assert (receipt.cause, receipt.num_rows) == ("replace", 2)
    with pytest.raises(ConfigError, match=r"snapshot 2 .* retired: receipts/000001"):
        read_snapshot(Storage.at(output), 2)


def test_what_is_no_audio_any_more_loses_its_row_and_comes_back(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run(settings(output, audio))
    (audio / "clip-1.wav").write_text("<html>")
    after = run(settings(output, audio), replace=True)
    assert (after.rows, after.rejects, rejects(output)) == (3, 1, {"clip-1.wav": "not_audio"})
    assert_whole(Storage.at(output))
    write_recording(audio / "clip-1.wav", seconds=0.3, seed=1)
    again = run(settings(output, audio), replace=True)
    assert (again.digest, again.rejects, rejects(output)) == (first.digest, 0, {})
    assert_whole(Storage.at(output))


def test_too_many_bad_replacements_leave_the_old_rows(audio: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = run(settings(output, audio))
    for path in audio.iterdir():
        path.write_text("<html> the disk was swapped")
    careful = settings(output, audio, selection__max_reject_fraction=0.5)
    for replace in (True, False):
        refused = run(careful, replace=replace)
        assert refused.exit_code == 1
        assert "the rows from before were left in place" in refused.problems[0]
        assert (refused.digest, read_snapshot(Storage.at(output)).facts.digest) == (first.digest, first.digest)
    assert len(rows(output)) == 4
    assert any("not in the place of the old ones yet" in problem for problem in verify(str(output)).problems)


def test_replacing_that_died_is_finished_by_the_next_run(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    old = run(settings(output, audio)).digest
    change(audio)
    with monkeypatch.context() as patched:
        fail_at(patched, "receipts/000001.json")
        with pytest.raises(PowerFailure):
            run(settings(output, audio), replace=True)
    assert read_snapshot(Storage.at(output)).facts.digest == read_status(str(output)).digest == old
    after = run(settings(output, audio))
    assert (after.rows, after.changed, after.new_rows) == (4, 0, 0)
    assert assert_whole(Storage.at(output)) != old


def table(columns: Sequence[Mapping[str, Any]], schema: pa.Schema) -> ItemTable:
    return ItemTable.of([make_item(f"i{n}", **row) for n, row in enumerate(columns)], user_schema=schema)


OURS = pa.schema([("text", pa.string()), ("take", pa.int64())])


def test_columns_of_a_source_that_grew_are_those_of_the_output() -> None:
    narrow = table([{"take": 1}, {"take": 2}], pa.schema([("take", pa.int8())]))
    fitted = fit_user_columns(narrow, OURS)
    assert user_schema_of(fitted.schema).equals(OURS)
    assert [item.user_columns for item in fitted] == [{"text": None, "take": 1}, {"text": None, "take": 2}]
    plain = table([{}], pa.schema([]))
    assert [item.user_columns for item in fit_user_columns(plain, OURS)] == [{"text": None, "take": None}]
    assert fit_user_columns(fitted, OURS) is fitted


def test_columns_that_the_output_has_not_are_refused() -> None:
    wide = table([{"text": "a", "mood": "b"}], pa.schema([("text", pa.string()), ("mood", pa.string())]))
    with pytest.raises(ConfigError, match=r"columns mood, which the output was begun without .*selection\.source\.c"):
        fit_user_columns(wide, OURS)
    other = table([{"take": "first"}], pa.schema([("take", pa.string())]))
    with pytest.raises(ConfigError, match=r"take \(string, not int64\)"):
        fit_user_columns(other, OURS)
