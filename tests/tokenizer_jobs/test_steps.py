"""Steps of commands that go through an output: told by those who work, and shown as the stream allows."""

import io
import os
import re
from pathlib import Path

import pytest

from tests.tokenizer_jobs.conftest import Quickstart
from tests.tokenizer_jobs.factories import RECIPE, finish_unit, plan_output
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.cli import main
from tokenizer_jobs.exporting import export
from tokenizer_jobs.progress import StepDisplay
from tokenizer_jobs.removal import drop
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.verification import verify

LINE = re.compile(r"progress (\w+)=(\d+)/(\d+) elapsed=\d+\.\d eta=(\d+\.\d)\n")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Told:
    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, total: int) -> None:
        self.steps.append((what, done, total))


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Three units, the last of which has a reject: four files."""
    storage = Storage.open(tmp_path / "out")
    units = plan_output(storage, [["a", "b"], ["c"], ["d", "e"]])
    for unit in units:
        finish_unit(storage, unit, rejected=[0] if unit is units[-1] else [])
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    return storage.name


def test_verification_tells_of_every_file(output: str) -> None:
    told = _Told()
    assert verify(output, report=told).problems == []
    assert told.steps == [("files", done, 4) for done in (1, 2, 3, 4)]


def test_encoding_again_tells_of_every_unit(quickstart: Quickstart) -> None:
    told = _Told()
    assert verify(str(quickstart[0]), reencode=0.01, report=told).problems == []
    assert told.steps == [("files", 1, 1), ("units", 1, 1)]


def test_export_tells_of_rows(output: str, tmp_path: Path) -> None:
    told = _Told()
    export(output, str(tmp_path / "export"), to="webdataset", report=told)
    assert told.steps == [("rows", done, 4) for done in (2, 3, 4)]


def test_drop_tells_of_every_unit(output: str) -> None:
    told = _Told()
    drop(output, where="num_frames < 0", dry_run=True, report=told)
    assert told.steps == [("units", done, 3) for done in (1, 2, 3)]


def test_lines_are_told_now_and_then_and_not_of_what_is_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("tokenizer_jobs.progress.steps.time.monotonic", lambda: clock[0])
    stream = io.StringIO()
    with StepDisplay(stream, line_seconds=10.0) as display:
        for done in range(1, 101):
            clock[0] += 0.5
            display.report("files", done, 100)
        display.report("units", 1, 2)
    lines = LINE.findall(stream.getvalue())
    assert len(lines) == len(stream.getvalue().splitlines())
    # Half a second each; their clock starts with the first.
    assert [line[:3] for line in lines] == [("files", str(done), "100") for done in (21, 41, 61, 81)]
    assert [float(eta) for *_, eta in lines] == pytest.approx([790 / 21, 1180 / 41, 1170 / 61, 760 / 81], abs=0.06)


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("tokenizer_jobs.progress.steps.PATIENCE_SECONDS", 0.0)
    stream = _Terminal()
    with StepDisplay(stream) as display:
        for done in range(1, 4):
            display.report("files", done, 3)
    shown = stream.getvalue()
    assert "files" in shown
    assert "3/3" in shown
    assert "progress" not in shown
    assert shown.endswith("\x1b[2K")  # the line of the bar is cleared


def test_without_a_reader_the_work_goes_on() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream, StepDisplay(stream, line_seconds=0.0) as display:
        display.report("files", 1, 2)
        display.report("files", 2, 2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, writing)  # what is buffered would be a fault where the stream is closed
        os.close(null)


def test_commands_say_nothing_of_steps_that_are_over_at_once(
    quickstart: Quickstart, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(quickstart[0])]) == 0
    assert capsys.readouterr().err == ""
