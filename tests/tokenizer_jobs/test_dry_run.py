"""The dry run says what the run then does: counts, hours, problems; and it writes nothing."""

from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from tests.tokenizer_jobs.layouts import LAYOUTS, add_part, few_clips
from tokenizer_jobs import item_table
from tokenizer_jobs.cli.planning import plan_screen
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.dry_run import headers, plan
from tokenizer_jobs.dry_run.headers import (
    HeaderSummary,
    estimated_seconds,
    measured_seconds,
    read_headers,
    summarize_headers,
)
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.job import run
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources import Listing, Source
from tokenizer_jobs.sources.demo import DemoClips


def job(tmp_path: Path, **selection: object) -> JobConfig:
    content = {
        "output": str(tmp_path / "out"),
        "recipe": {"codec": {"model": "demo"}},
        "selection": {"source": {"kind": "files", "paths": [str(tmp_path / "audio")]}, **selection},
        "runtime": {"executor": "inline"},
    }
    return JobConfig.parse(content, origin="test")


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (24_000 * 2, 2)).astype(np.float32)
    for name, rate, channels, seconds in (
        ("books/a.wav", 24_000, 1, 1.0),
        ("books/b.wav", 8_000, 1, 2.0),
        ("books/copy.wav", 24_000, 1, 1.0),
        ("music/c.flac", 24_000, 2, 2.0),
        ("music/short.wav", 24_000, 1, 0.25),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, noise[: int(rate * seconds), :channels], rate, subtype="PCM_16")
    return folder


def test_hours_are_told_by_format_rate_and_channels(audio: Path, tmp_path: Path) -> None:
    result = plan(job(tmp_path))
    hours = {name: value * 3600 for name, value in result.hours_by_format.items()}
    assert hours == pytest.approx({"WAV/PCM_16": 4.25, "FLAC/PCM_16": 2.0})
    assert sum(result.hours_by_sample_rate.values()) == pytest.approx(result.hours)
    assert result.hours_by_channels["2"] * 3600 == pytest.approx(2.0)
    assert result.longest_id == "books/b.wav"
    assert result.longest_seconds == pytest.approx(2.0)
    assert "longest    books/b.wav, 2.0 s" in plan_screen(result, run_command="run")
    assert not (tmp_path / "out").exists()


def test_what_is_planned_is_what_the_run_does(audio: Path, tmp_path: Path) -> None:
    config = job(
        tmp_path,
        include=["books/*", "music/*"],
        exclude=["**/c.flac"],
        deduplicate=True,
        filters={"min_seconds": 0.5, "min_sample_rate": 16_000},
    )
    planned = plan(config)
    assert planned.skipped == {"excluded": 1}
    assert planned.expected_filtered == {"too_short": 1, "duplicate": 1, "low_sample_rate": 1}
    done = run(config)
    assert planned.new_items == done.items == 4
    assert done.rejects_by_reason == planned.expected_filtered
    assert (done.filtered, done.rows) == (3, 1)
    again = plan(config)
    assert (again.new_items, again.unchanged_items, again.skipped) == (0, 4, {"excluded": 1})


def test_an_item_left_out_is_new_when_it_is_selected(audio: Path, tmp_path: Path) -> None:
    assert run(job(tmp_path, limit=2)).items == 2
    assert plan(job(tmp_path, limit=2)).skipped == {"beyond the limit": 3}
    assert plan(job(tmp_path, limit=4)).new_items == 2
    assert plan(job(tmp_path, include=["music/*"])).new_items == 2
    assert run(job(tmp_path)).items == 5


def test_a_selection_that_leaves_nothing_is_a_problem_and_refused(audio: Path, tmp_path: Path) -> None:
    config = job(tmp_path, include=["bokos/**"])
    (problem,) = plan(config).problems
    assert "none of 5 items (not included 5)" in problem


class ClashingClips(DemoClips):
    """The demo clips with a column that an output has itself."""

    def list(self) -> Listing:
        return Listing(
            items=super().list().items, skipped={}, user_schema=pa.schema([("codes", pa.string())]), num_missing=3
        )


def test_columns_that_clash_are_a_problem_beside_the_rest(tmp_path: Path) -> None:
    config = job(tmp_path, source={"kind": f"{__name__}:ClashingClips"})
    result = plan(config)
    assert result.new_items == 32
    assert result.missing_files == 3
    assert any("codes" in problem for problem in result.problems)
    screen = plan_screen(result, run_command="run")
    assert "would be refused" in screen
    assert "3 files of the manifest" in screen


class CountingSource(DemoClips):
    """Clips behind whatever their items say, counted as they are opened."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, item: Item) -> IO[bytes]:
        self.opened.append(item.id)
        raise FileNotFoundError(item.id)


def summary(source: Source, items: list[Item]) -> HeaderSummary:
    table = ItemTable.of(items)
    return summarize_headers(read_headers(source, table), seconds=estimated_seconds(table))


def test_dear_headers_are_read_of_a_few_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_table, "BATCH_ITEMS", 640)
    local = [Item(id=f"l{n}", source_uri=f"/a/{n:05d}.wav", estimated_seconds=1.0) for n in range(900)]
    remote = [Item(id=f"r{n}", source_uri=f"s3://b/{n:05d}.wav", estimated_seconds=1.0) for n in range(900)]
    grouped = [
        Item(id=f"g{n}", source_uri=f"/t/{n // 500}.parquet", source_row=n % 500, source_group=n % 500 // 100)
        for n in range(5000)
    ]
    for items, most in ((local, 900), (remote, headers.MOST_REMOTE_HEADERS), (grouped, 16 * 20)):
        source = CountingSource()
        found = summary(source, items)
        assert most / 2 < found.looked_at == len(source.opened) <= most
        assert found.unreadable == found.looked_at
    rows = {(int(name[1:]) // 100) for name in source.opened}
    assert len(rows) <= headers.MOST_GROUPS  # of a table whole parts are read, so few of them
    assert found.hours_by_format == {}
    assert summary(CountingSource(), local).hours_by_format == {"unknown": 0.25}


@pytest.mark.parametrize("estimate", [0.0, 0.1, 30.0])
def test_durations_that_bytes_tell_badly_are_put_right_by_headers(estimate: float) -> None:
    clips = DemoClips().list().items
    true = [clip.estimated_seconds for clip in clips] * 40  # more than headers are read of

    class Remote(DemoClips):
        def open(self, item: Item) -> IO[bytes]:
            return super().open(clips[int(item.id) % len(clips)])

    items = [Item(id=f"{n:05d}", source_uri=f"s3://b/{n:05d}", estimated_seconds=estimate) for n in range(len(true))]
    stated = Item(id="99999", source_uri="s3://b/z", duration_seconds=7.0, estimated_seconds=7.0)
    table = ItemTable.of([*items, stated])
    found = read_headers(Remote(), table)
    assert len(found.headers) <= headers.MOST_REMOTE_HEADERS < len(items)
    seconds = measured_seconds(table, found)
    assert seconds[:-1].sum() == pytest.approx(sum(true), rel=0.1)
    assert seconds[found.places[1]] == pytest.approx(true[found.places[1]])
    assert seconds[-1] == 7.0


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_kind_of_source_is_told_to_last_as_long_as_it_does(kind: str, tmp_path: Path) -> None:
    source = add_part(kind, str(tmp_path / "data"), few_clips(0, 8), part=1)
    assert plan(job(tmp_path, source=source)).hours * 3600 == pytest.approx(4.4, rel=0.05)


def test_what_is_missing_changed_or_gone_is_named(audio: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path\naudio/books/a.wav\naudio/books/b.wav\n")
    config = job(tmp_path, source={"kind": "manifest", "paths": [str(manifest)]})
    run(config)
    manifest.write_text("path\naudio/books/a.wav\naudio/new\\line.wav\n")
    (audio / "books/a.wav").write_bytes((audio / "music/short.wav").read_bytes())
    result = plan(config)
    assert result.missing_ids == ["audio/new\\line.wav"]
    assert result.changed_ids == ["audio/books/a.wav"]
    assert result.vanished_ids == ["audio/books/b.wav"]
    screen = plan_screen(result, run_command="run")
    for name in ("missing    1 file", "changed    1 input", "vanished   1 input"):
        assert name in screen


def test_an_id_of_several_lines_takes_one_line_of_the_screen(audio: Path, tmp_path: Path) -> None:
    (audio / "books/b.wav").rename(audio / "books/b\nb.wav")
    assert "longest    'books/b\\nb.wav', 2.0 s" in plan_screen(plan(job(tmp_path)), run_command="run")


def test_too_many_rejects_are_told_with_what_they_have_in_common(audio: Path, tmp_path: Path) -> None:
    (audio / "broken").mkdir()
    for number in range(6):
        whole = (audio / "books" / "a.wav").read_bytes()
        (audio / "broken" / f"{number}.wav").write_bytes(whole[:20_000])
    result = run(job(tmp_path, max_reject_fraction=0.5))
    (problem,) = result.problems
    assert "6 of 11 items are rejects (truncated 6)" in problem
    assert "6 of 6 are of reason truncated; of those all lie under broken/ (6 items of 11 in all)" in problem
    assert result.exit_code == 1
