"""Stdout and stderr of a command: closed, without a reader, or in few characters, they do not change its outcome."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tokenizer_jobs.conftest import PYTHON_PATH
from tokenizer_jobs.cli.commands import COMMANDS

_PROGRAM = f"{sys.executable} -m tokenizer_jobs"


def _shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a line of the shell gives, in a folder."""
    return subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": PYTHON_PATH} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_closed_or_without_a_reader_nobody_complains(tmp_path: Path) -> None:
    """A closed descriptor is not that of the next opened file; a reader that is gone is no fault that Python tells."""
    line = f"""
        {_PROGRAM} --version >&- & first=$!
        {_PROGRAM} none 2>&- & second=$!
        (sleep 0.2; {_PROGRAM} --version; echo third $? >&2) | true
        wait $first; echo first $?
        wait $second; echo second $?
    """
    done = _shell(line, tmp_path, PYTHONUNBUFFERED="")  # what is not written before the end is lost at the end
    assert (done.stdout.split(), done.stderr.split()) == (["first", "0", "second", "1"], ["third", "0"])
    assert list(tmp_path.iterdir()) == []


_ENDINGS = """
import os, sys
from dataclasses import replace
from tokenizer_jobs.cli import main
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.endings import as_process, complain
from tokenizer_jobs.cli.streams import show

def execute(_):
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    os.dup2(write, 2)
    show("done " * 10_000)
    complain(["one", "two"])
    return 75

COMMANDS["doctor"] = replace(COMMANDS["doctor"], execute=execute)
sys.argv[1:] = ["doctor"]
as_process(main)
"""


def test_the_exit_code_stays_though_both_readers_are_gone() -> None:
    """Where `run 2>&1 | tee log` loses its `tee`, the run is done all the same."""
    environment = os.environ | {"PYTHONPATH": PYTHON_PATH, "PYTHONUNBUFFERED": ""}
    done = subprocess.run([sys.executable, "-c", _ENDINGS], env=environment, check=False)
    assert done.returncode == 75


_FOREIGN_WORDS = """
import sys
from tokenizer_jobs.cli.streams import make_writable
make_writable()
print("73 × real time, a, …")
print("naïve 語", file=sys.stderr)
"""


def test_in_few_characters_what_is_missing_is_spelt_out(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(_FOREIGN_WORDS)
    done = _shell(f"{sys.executable} words.py", tmp_path, PYTHONIOENCODING="ascii")
    assert (done.stdout, done.stderr) == ("73 x real time, a, ...\n", "na\\xefve \\u8a9e\n")


def test_the_pipe_of_another_is_an_error_that_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a child process or a socket, say: our own readers are there."""
    from tokenizer_jobs.cli import main

    def execute(_: object) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(COMMANDS, "doctor", replace(COMMANDS["doctor"], execute=execute))
    assert main(["doctor"]) == 1
    assert "Broken pipe" in capfd.readouterr().err
