"""README and docs show only what is so: their blocks run, their links lead somewhere, what they name exists.

How a block is marked as runnable, and what it finds when it runs, is told in `tests/documents.py`. Here every page
finds `out/quickstart`, the output of `configs/quickstart.yaml`, and that job file as `job.yaml`.
"""

import argparse
import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.conftest import Quickstart
from tests.documents import (
    PAGES,
    REPOSITORY,
    anchors_of,
    blocks_of,
    code_spans,
    command_lines,
    links_of,
    prose_of,
)
from tests.reference_page import MODULES, first_line, page
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.flags import job_flags
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.doctor import CPU_TORCH
from tokenizer_jobs.schema import ROW_COLUMNS

TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
LINKED = {
    name: (REPOSITORY / name).read_text(encoding="utf-8")
    for name in (*TEXTS, "benchmarks/RESULTS.md", "encodec_core/demo/README.md")
}
RUNNABLE = [name for name, text in TEXTS.items() if "<!-- runnable -->" in text]
TROUBLE = "docs/troubleshooting.md"

_COMMAND = re.compile(r"tokenizer-jobs |-m tokenizer_jobs ")
_MODULE = re.compile(r"python[\d.]* -m ([\w.]+)")
_FILE = re.compile(r"\b(?:benchmarks|configs|deploy|docs|encodec_core|examples|tests|tokenizer_jobs)/[\w./-]*\w\.\w+\b")


def _command_lines(name: str) -> set[str]:
    """Every call of our command in a page: in blocks of bash, and between backquotes with its arguments."""
    spans = [span for line in prose_of(TEXTS[name]) for span in code_spans(line) if span.startswith("tokenizer-jobs ")]
    if name != "README.md":  # elsewhere a command's name alone may stand for it
        spans = [span for span in spans if len(span.split()) > 2]
    return {line for line in command_lines(TEXTS[name]) if _COMMAND.search(line)} | set(spans)


@pytest.fixture(scope="module")
def page_runs(quickstart: Quickstart, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code of each page that has blocks to run, and what it said."""
    folders = {name: tmp_path_factory.mktemp("page") for name in RUNNABLE}
    for folder in folders.values():
        shutil.copytree(quickstart[0], folder / "out" / "quickstart")
        shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", folder / "job.yaml")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HF_HUB_OFFLINE": "1",
    }
    words = [word for name, folder in folders.items() for word in (str(REPOSITORY / name), str(folder))]
    command = [sys.executable, "-m", "tests.documents", *words]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    codes = dict(map(json.loads, done.stdout.splitlines()))
    return {name: (codes[str(REPOSITORY / name)], (folders[name] / "said.txt").read_text()) for name in RUNNABLE}


class TestBlocks:
    @pytest.mark.parametrize("name", RUNNABLE)
    def test_those_marked_run(self, name: str, page_runs: dict[str, tuple[int, str]]) -> None:
        exit_code, said = page_runs[name]
        assert exit_code == 0, said

    @pytest.mark.parametrize("name", TEXTS)
    def test_python_is_run_or_says_why_not(self, name: str) -> None:
        unmarked = [block.line for block in blocks_of(TEXTS[name]) if block.language == "python" and not block.mark]
        assert unmarked == [], "lines of blocks that need a mark; tests/documents.py has the three there are"

    @pytest.mark.parametrize("name", TEXTS)
    def test_marks_stand_before_blocks(self, name: str) -> None:
        blocks = blocks_of(TEXTS[name])
        assert sum(bool(block.mark) for block in blocks) == len(re.findall("^<!-- ", TEXTS[name], re.MULTILINE))
        assert {block.language for block in blocks if block.is_runnable} <= {"python", "bash"}

    @pytest.mark.parametrize("name", TEXTS)
    def test_job_files_load(self, name: str) -> None:
        for block in blocks_of(TEXTS[name]):
            content = yaml.safe_load(block.text) if block.language == "yaml" else {}
            if (name == "README.md" and block.language == "yaml") or "selection" in content:
                JobConfig.parse(content, origin=f"{name}:{block.line}")

    @pytest.mark.parametrize(
        ("name", "line"), [(name, line) for name in TEXTS for line in sorted(_command_lines(name))]
    )
    def test_commands_and_flags_exist(self, name: str, line: str) -> None:
        words = shlex.split(_COMMAND.split(line)[1])
        assert words[0] in COMMANDS
        if "--help" not in words:
            parse_arguments(COMMANDS[words[0]], words[1:])

    @pytest.mark.parametrize("name", TEXTS)
    def test_modules_that_are_called_exist(self, name: str) -> None:
        missing = [found for found in _MODULE.findall(TEXTS[name]) if importlib.util.find_spec(found) is None]
        assert missing == []


class TestLinks:
    @pytest.mark.parametrize("name", LINKED)
    def test_lead_somewhere(self, name: str) -> None:
        assert [link for link in links_of(LINKED[name]) if not _leads_somewhere(name, link)] == []

    @pytest.mark.parametrize("name", LINKED)
    def test_files_that_are_named_exist(self, name: str) -> None:
        assert [path for path in _FILE.findall(LINKED[name]) if not (REPOSITORY / path).exists()] == []

    def test_comments_name_pages_that_exist(self) -> None:
        for folder in ("configs", "examples", "deploy"):
            for path in (REPOSITORY / folder).iterdir():
                if path.is_file() and path.suffix in (".py", ".yaml", ".sh"):
                    text = path.read_text(encoding="utf-8")
                    assert [each for each in _FILE.findall(text) if not (REPOSITORY / each).exists()] == [], path.name

    def test_the_readme_leads_to_every_page(self) -> None:
        assert set(TEXTS) - set(links_of(TEXTS["README.md"])) == {"README.md"}


def _leads_somewhere(name: str, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link) is not None
    path, _, anchor = link.partition("#")
    target = (REPOSITORY / name).parent / path if path else REPOSITORY / name
    return target.exists() and (not anchor or anchor in anchors_of(target.read_text(encoding="utf-8")))


class TestNames:
    @pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
    def test_public_ones_exist_and_say_what_they_are(self, module: ModuleType) -> None:
        assert [name for name in module.__all__ if not first_line(module, name)] == []

    def test_the_reference_says_what_the_code_says(self) -> None:
        written = TEXTS.get("docs/api.md")
        assert written == page(), "write it anew: python -m tests.reference_page > docs/api.md"

    def test_every_flag_says_what_it_does(self) -> None:
        assert [flag.name for flag in job_flags() if not flag.help.partition("(default:")[0].strip()] == []
        for command in COMMANDS.values():
            parser = argparse.ArgumentParser(add_help=False)
            command.add_arguments(parser)
            assert [action.dest for action in parser._actions if not action.help] == [], command.name


class TestReadme:
    def test_every_column_is_described(self) -> None:
        table = TEXTS["README.md"].partition("| column |")[2].partition("\n\n")[0]
        assert set(ROW_COLUMNS.names) <= set(re.findall(r"`(\w+)`", table))

    def test_every_job_file_is_listed(self) -> None:
        for path in (REPOSITORY / "configs").glob("*.yaml"):
            assert f"`{path.name}`" in TEXTS["README.md"]

    def test_torch_is_the_version_that_was_tested(self) -> None:
        (tested,) = re.findall(r"^torch==.+$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
        assert set(re.findall(r"torch==[\d.]+", "".join([*TEXTS.values(), CPU_TORCH]))) == {tested}


class TestTroubleshooting:
    """In the first column of its tables, what stands between backquotes is a message of ours, `…` for what varies."""

    @pytest.mark.parametrize(
        "message",
        [
            span
            for line in prose_of(TEXTS[TROUBLE])
            if line.startswith("| ")
            for span in code_spans(line.removeprefix("| ").partition(" | ")[0])
        ],
    )
    def test_messages_are_those_of_the_code(self, message: str) -> None:
        parts = [part for part in message.split("…") if part.strip()]
        assert any(_follow_each_other(parts, text) for text in _messages())


def _follow_each_other(parts: list[str], text: str) -> bool:
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


@cache
def _messages() -> tuple[str, ...]:
    """Every text in the code that is no docstring, a NUL for what is put into it."""
    found = set[str]()
    for package in ("tokenizer_jobs", "encodec_core"):
        for path in (REPOSITORY / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in docstrings:
                    continue
                if isinstance(node, ast.JoinedStr):
                    found.add(
                        "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                    )
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(re.sub(r"%[.\d]*[dsf]", "\0", node.value))
    return tuple(found)
