"""The README shows only what works: its job files load, its commands and flags exist, its columns are those written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tokenizer_jobs.conftest import PYTHON_PATH, REPOSITORY, Quickstart
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.doctor import CPU_TORCH
from tokenizer_jobs.schema import ROW_COLUMNS

README = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMAND_LINES = sorted(
    {
        line.partition("#")[0].strip()
        for language, block in BLOCKS
        if language == "bash"
        for line in block.replace("\\\n", " ").splitlines()
        if "tokenizer-jobs " in line or "-m tokenizer_jobs " in line
    }
    | set(re.findall(r"`(tokenizer-jobs [^`]+)`", README))
)


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "yaml"])
def test_job_files_load(block: str) -> None:
    JobConfig.parse(yaml.safe_load(block), origin="README.md")


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_commands_and_flags_exist(line: str) -> None:
    words = shlex.split(re.split(r"tokenizer-jobs |-m tokenizer_jobs ", line)[1])
    assert words[0] in COMMANDS
    if "--help" not in words:
        parse_arguments(COMMANDS[words[0]], words[1:])


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_python_runs(block: str, quickstart: Quickstart, tmp_path: Path) -> None:
    shutil.copytree(quickstart[0], tmp_path / "out" / "quickstart")
    shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", tmp_path / "job.yaml")
    environment = os.environ | {
        "PYTHONPATH": PYTHON_PATH,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_column_is_described() -> None:
    described = set(re.findall(r"`(\w+)`", README.partition("| column |")[2].partition("\n\n")[0]))
    assert set(ROW_COLUMNS.names) <= described


def test_every_job_file_is_listed() -> None:
    for path in (REPOSITORY / "configs").glob("*.yaml"):
        assert f"`{path.name}`" in README


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_torch_is_the_version_that_was_tested() -> None:
    (tested,) = re.findall(r"^torch==.+$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert set(re.findall(r"torch==[\d.]+", README + CPU_TORCH)) == {tested}
