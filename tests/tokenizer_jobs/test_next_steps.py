"""What a screen proposes can be typed as it stands, whatever the output is called; and rejects can be looked at."""

import shlex
from pathlib import Path

import pytest

from tests.tokenizer_jobs.factories import finish_unit, plan_output
from tokenizer_jobs.cli import main
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.dropping import drop_screen
from tokenizer_jobs.cli.next_steps import after_work, command
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.results import DropResult
from tokenizer_jobs.storage import Storage

HOSTILE = 'out/it\'s $(here) & "there"'


def _commands(lines: list[str]) -> list[tuple[str, str, str | None]]:
    """Name, output and id of each command among the lines of a screen, parsed as the shell and we would."""
    found = []
    for line in lines:
        if "tokenizer-jobs" in line:
            _, name, *words = shlex.split(line)
            arguments = parse_arguments(COMMANDS[name], words)
            found.append((name, arguments.output, getattr(arguments, "id", None)))
    return found


def test_what_comes_after_work_can_be_typed() -> None:
    lines = after_work(HOSTILE, example_id="a b/c'd.wav", num_rejects=0)
    assert _commands(lines) == [
        ("verify", HOSTILE, None),
        ("decode", HOSTILE, "a b/c'd.wav"),
        ("report", HOSTILE, None),
    ]


def test_without_a_row_the_report_still_is_the_third() -> None:
    names = [name for name, _, _ in _commands(after_work(HOSTILE, example_id=None, num_rejects=0, stopped=True))]
    assert names == ["status", "verify", "report"]


def test_where_there_are_rejects_the_last_command_shows_them() -> None:
    *_, told, shown = after_work(HOSTILE, example_id=None, num_rejects=12)
    assert told.startswith("12 rejects")
    (name, output, _) = _commands([shown])[0]
    assert (name, output, "--rejects" in shown) == ("status", HOSTILE, True)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_drop_proposes_itself_or_what_proves_it(dry_run: bool) -> None:
    result = DropResult(
        output=HOSTILE, items=2, rows=2, rejects=0, units=1, already=0, receipt=None, snapshot=1, dry_run=dry_run
    )
    itself = command("drop", HOSTILE, "--where", "id = 'a'")
    names = [name for name, _, _ in _commands(drop_screen(result, drop_command=itself).splitlines())]
    assert names == (["drop"] if dry_run else ["verify", "report"])


def test_every_example_of_every_command_parses() -> None:
    for name, each in COMMANDS.items():
        examples = [shlex.split(example, comments=True) for example in each.examples]
        assert [words[1] for words in examples if words] == [name] * sum(map(bool, examples))
        for words in filter(None, examples):
            parse_arguments(each, words[2:])


class TestRejects:
    def test_each_is_shown_with_what_was_wrong(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        storage = Storage.open(tmp_path / "out")
        first, second = plan_output(storage, [["a", "b"], ["c", "d"]])
        finish_unit(storage, first, rejected=[1])
        finish_unit(storage, second, rejected=[0, 1])
        assert main(["status", storage.url, "--rejects"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"{storage.name} has 3 rejects (corrupt 3)"
        assert [line.split(":")[0].strip() for line in lines if line.startswith("  ") and ": corrupt" in line] == [
            *("b", "c", "d")
        ]
        assert [line.strip() for line in lines if "/audio/" in line] == [f"/audio/{name}.wav" for name in "bcd"]
        assert _commands(lines) == [("retry", storage.name, None)]
        assert main(["status", storage.url, "--rejects", "1"]) == 0
        assert "these are 1 of them" in capsys.readouterr().out

    def test_none_are_no_fault(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        storage = Storage.open(tmp_path / "out")
        finish_unit(storage, plan_output(storage, [["a"]])[0])
        assert main(["status", storage.url, "--rejects"]) == 0
        assert capsys.readouterr().out.strip().endswith("has no rejects")
