"""The command line: its faces are fixed, its refusals say what to do, and its help comes at once."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tokenizer_jobs.conftest import PYTHON_PATH, REPOSITORY
from tokenizer_jobs.cli import main
from tokenizer_jobs.cli.commands import COMMANDS, Command
from tokenizer_jobs.cli.flags import job_flags, load_job, override
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError

COMMANDS_FROZEN = [
    "run",
    "plan",
    "status",
    "verify",
    "report",
    "submit",
    "retry",
    "drop",
    "decode",
    "export",
    "import-codes",
    "audit",
    "train-codec",
    "train-lm",
    "doctor",
]

FLAGS_FROZEN = [
    "--output",
    "--recipe.codec.model",
    "--recipe.codec.revision",
    "--recipe.codec.bandwidth-kbps",
    "--recipe.codec.precision",
    "--recipe.audio.resampler",
    "--recipe.audio.channels",
    "--recipe.audio.long-audio",
    "--recipe.audio.slice-seconds",
    "--recipe.audio.on-truncated",
    "--selection.source.kind",
    "--selection.source.paths",
    "--selection.source.pattern",
    "--selection.source.format",
    "--selection.source.root",
    "--selection.source.path-column",
    "--selection.source.id-column",
    "--selection.source.start-column",
    "--selection.source.duration-column",
    "--selection.source.columns",
    "--selection.source.audio-column",
    "--selection.source.dataset",
    "--selection.source.config",
    "--selection.source.splits",
    "--selection.source.revision",
    "--selection.include",
    "--selection.exclude",
    "--selection.sample",
    "--selection.seed",
    "--selection.limit",
    "--selection.deduplicate",
    "--selection.filters.min-seconds",
    "--selection.filters.max-seconds",
    "--selection.filters.min-sample-rate",
    "--selection.filters.max-silent-fraction",
    "--selection.filters.max-clipped-fraction",
    "--selection.max-reject-fraction",
    "--selection.shards.format",
    "--selection.shards.unit-minutes",
    "--runtime.executor",
    "--runtime.ray-address",
    "--runtime.encoders",
    "--runtime.gpus-per-encoder",
    "--runtime.device",
    "--runtime.batch-seconds",
    "--runtime.decode-tasks",
    "--runtime.decode-cpus",
    "--runtime.decode-gigabytes",
    "--runtime.decode-seconds",
    "--runtime.max-infrastructure-failures",
    "--runtime.placement-timeout-seconds",
    "--runtime.grace-seconds",
]

JSON_FROZEN = [
    "items",
    "rows",
    "rejects",
    "filtered",
    "units",
    "units_committed",
    "hours",
    "bytes",
    "digest",
    "snapshot",
    "problems",
]

JOB = """
output: {output}
recipe: {{codec: {{model: demo, bandwidth_kbps: 6.0}}}}
selection: {{source: {{kind: demo}}, filters: {{min_seconds: 0.5}}}}
runtime: {{executor: inline}}
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.format(output=tmp_path / "out"))
    return path


def _overridden(job_file: Path, *words: str) -> JobConfig:
    """The config that `run CONFIG words…` would run."""
    return load_job(parse_arguments(COMMANDS["run"], [str(job_file), *words]))


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


class TestFaces:
    def test_commands_are_frozen(self) -> None:
        assert list(COMMANDS) == COMMANDS_FROZEN

    def test_flags_are_frozen(self) -> None:
        assert [flag.name for flag in job_flags()] == FLAGS_FROZEN

    def test_every_flag_says_what_it_is(self) -> None:
        assert [flag.name for flag in job_flags() if not flag.help or not flag.values] == []

    def test_help_lists_the_daily_commands_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert listed[: len(COMMANDS)] == COMMANDS_FROZEN

    @pytest.mark.parametrize("command", COMMANDS_FROZEN)
    def test_help_of_each_command_has_an_example(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([command, "--help"]) == 0
        assert f"example:\n  tokenizer-jobs {command}" in capsys.readouterr().out

    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from tokenizer_jobs.cli import main; main(['run', '--help'])\n"
            "heavy = {'torch', 'ray', 'pyarrow', 'datasets', 'numpy', 'soundfile', 'rich'} & set(sys.modules)\n"
            "sys.exit(repr(heavy) if heavy else 0)"
        )
        done = _python("-c", code)
        assert (done.returncode, done.stderr) == (0, "")


class TestOverrides:
    def test_values_are_typed_by_the_config(self, job_file: Path) -> None:
        config = _overridden(
            job_file,
            *("--recipe.codec.bandwidth-kbps", "3"),
            *("--runtime.encoders", "2"),
            *("--selection.shards.unit-minutes", "auto"),
            *("--selection.max-reject-fraction", "0.25"),
            *("--output", "elsewhere"),
        )
        assert config.recipe.codec.bandwidth_kbps == 3.0
        assert config.runtime.encoders == 2
        assert config.selection.shards.unit_minutes == "auto"
        assert config.selection.max_reject_fraction == 0.25
        assert config.output == "elsewhere"

    @pytest.mark.parametrize("word", ["null", "none", "None"])
    def test_null_takes_a_value_away(self, job_file: Path, word: str) -> None:
        assert _overridden(job_file, "--selection.filters.min-seconds", word).selection.filters.min_seconds is None

    def test_what_no_flag_names_stays_as_in_the_file(self, job_file: Path) -> None:
        config = _overridden(job_file, "--recipe.codec.bandwidth-kbps", "3")
        assert config.selection.filters.min_seconds == 0.5
        assert config.recipe.codec.model == "demo"
        assert config.runtime.executor == "inline"

    def test_no_flag_leaves_the_file_as_it_is(self, job_file: Path) -> None:
        assert _overridden(job_file) == JobConfig.load(job_file)

    def test_names_as_in_the_file_are_flags_too(self, job_file: Path) -> None:
        assert _overridden(job_file, "--recipe.codec.bandwidth_kbps=3").recipe.codec.bandwidth_kbps == 3.0

    def test_another_kind_of_source_drops_the_keys_of_the_first(self, job_file: Path, tmp_path: Path) -> None:
        config = _overridden(job_file, "--selection.source.kind", "files", "--selection.source.paths", "a", "b")
        assert config.selection.source.model_dump() == {"kind": "files", "paths": ("a", "b"), "pattern": None}

    def test_the_output_may_come_from_the_command_line_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "job.yaml"
        path.write_text("selection: {source: {kind: demo}}")
        assert _overridden(path, "--output", "here").output == "here"

    def test_every_flag_reaches_its_key(self, job_file: Path) -> None:
        for flag in job_flags():
            if flag.key[1:2] == ("source",):
                continue
            if flag.is_list:
                config: Any = override(JobConfig.load(job_file), {flag: ["two", "words"]}, origin="job.yaml")
                assert reduce(getattr, flag.key, config) == ("two", "words")
                continue
            with pytest.raises(ConfigError, match=r"\.".join(flag.key)):
                override(JobConfig.load(job_file), {flag: ["not", "one", "word"]}, origin="job.yaml")


class TestRefusals:
    def test_wrong_value_names_flag_value_and_expectation(
        self, job_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refusal(capsys, "run", str(job_file), "--recipe.codec.precision", "fp99")
        assert "--recipe.codec.precision fp99" in message
        assert "'fp32', 'tf32' or 'bf16'" in message

    @pytest.mark.parametrize("typed", ["--recipe.codec.bandwith-kbps", "--bandwidth-kbps", "--bandwith-kbps=3"])
    def test_misspelt_flag_suggests_the_right_one(
        self, typed: str, job_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refusal(capsys, "run", str(job_file), typed)
        assert "did you mean --recipe.codec.bandwidth-kbps?" in message

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("recpie: {}", "unknown key recpie; did you mean recipe?"),
            ("recipe: {codec: {bandwith_kbps: 3}}", "recipe.codec.bandwith_kbps; did you mean bandwidth_kbps?"),
            ("recipe: {bandwidth_kbps: 3}", "recipe.bandwidth_kbps; did you mean recipe.codec.bandwidth_kbps?"),
            ("recipe: {bandwith: 3}", "recipe.bandwith; did you mean recipe.codec.bandwidth_kbps?"),
            ("recipe: {codec: {x: 1}}", "recipe.codec.x; expected model, revision, bandwidth_kbps, precision"),
            (
                "recipe: {codec: {precision: FP32}}",
                "'FP32': Input should be 'fp32', 'tf32' or 'bf16'; did you mean fp32?",
            ),
            ("selection: {source: {kind: fils}}", "selection.source.kind = 'fils': "),
            ("selection: {source: {kind: fils}}", "did you mean files?"),
            ("selection: {source: {paths: [a]}}", "selection.source.kind is missing: "),
            ("selection: {source: {kind: files, paths: [a], patern: b}}", "source.patern; did you mean pattern?"),
            ("selection: {source: {kind: tar, paths: [a], colums: b}}", "source.colums; did you mean columns?"),
            ("selection: {source: {kind: files, paths: [a], root: b}}", "it is a key of kind manifest and parquet"),
        ],
    )
    def test_misspelt_key_of_the_file_suggests_the_right_one(self, line: str, told: str) -> None:
        content = {"output": "out", "selection": {"source": {"kind": "demo"}}} | yaml.safe_load(line)
        with pytest.raises(ConfigError) as refused:
            JobConfig.parse(content, origin="job.yaml")
        assert told in str(refused.value)
        assert "{" not in str(refused.value)

    def test_misspelt_codec_suggests_the_right_one(
        self, job_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        message = refusal(capsys, "plan", str(job_file), "--recipe.codec.model", "facebook/encodec-24khz")
        assert "did you mean facebook/encodec_24khz?" in message

    def test_a_folder_without_a_dump_is_told_in_words(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refusal(capsys, "import-codes", str(job_file.parent), "out", "--codec", "demo")
        assert "found .yaml files 1\n" in message

    def test_abbreviated_flag_is_no_flag(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no flag --outp" in refusal(capsys, "run", str(job_file), "--outp", "x")

    @pytest.mark.parametrize(
        ("words", "meant"),
        [
            (("export", "out", "there", "--to", "webdatset"), "webdataset"),
            (("export", "out", "there", "--too", "webdataset"), "--to"),  # and not: --to is missing
            (("import-codes", "dump", "out", "--layout", "kt"), "KT"),
            (("report", "out", "--sample", "3"), "--samples"),
            (("status", "out", "--reject"), "--rejects"),
            (("run", "job.yaml", "--log-format", "jsn"), "json"),
        ],
    )
    def test_misspelt_words_of_any_command_suggest_the_right_one(
        self, words: tuple[str, ...], meant: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert f"did you mean {meant}?" in refusal(capsys, *words)

    @pytest.mark.parametrize("command", COMMANDS_FROZEN)
    def test_what_is_no_number_is_told_in_words(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        """Of every flag that takes a number."""
        parser = argparse.ArgumentParser()
        COMMANDS[command].add_arguments(parser)
        for action in parser._actions:
            if action.type is not None:
                message = refusal(capsys, command, action.option_strings[-1], "x1")
                assert re.search(r"'x1' is no (whole )?number", message), message

    def test_misspelt_command_suggests_the_right_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "did you mean verify?" in refusal(capsys, "verfy", "out")

    def test_missing_config(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "CONFIG" in refusal(capsys, "run")

    def test_missing_job_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "cannot be read" in refusal(capsys, "plan", str(tmp_path / "none.yaml"))

    def test_flag_of_another_kind_of_source(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = refusal(capsys, "run", str(job_file), "--selection.source.paths", "a")
        assert "does not apply to a source of kind 'demo'" in message

    def test_share_of_rows_out_of_bounds(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected 0 to 1" in refusal(capsys, "verify", str(tmp_path), "--reencode", "5")

    def test_watch_and_json_exclude_each_other(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "one of the two" in refusal(capsys, "status", str(tmp_path), "--json", "--watch")

    def test_other_errors_keep_their_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: object) -> int:
            raise RuntimeError("a bug")

        monkeypatch.setitem(COMMANDS, "doctor", _with_execute(fail))
        with pytest.raises(RuntimeError, match="a bug"):
            main(["doctor"])


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def _run_with_source(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a job in a process of its own, whose source does this when it lists."""
    (folder / "own_source.py").write_text(
        "import atexit, os, signal, time\n"
        "from tokenizer_jobs.sources.demo import DemoClips\n"
        "class Signalling(DemoClips):\n"
        f"    def list(self):\n        {body}\n        return super().list()\n"
    )
    (folder / "job.yaml").write_text(
        "output: out\n"
        "recipe: {codec: {model: demo}}\n"
        "selection: {source: {kind: 'own_source:Signalling'}, limit: 1}\n"
        "runtime: {executor: inline}\n"
    )
    words = [sys.executable, "-m", "tokenizer_jobs", "run", "job.yaml"]
    environment = os.environ | {"PYTHONPATH": f"{PYTHON_PATH}{os.pathsep}{folder}"}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_sigterm_while_the_job_is_loaded_is_resumable(tmp_path: Path) -> None:
    """The source of the job asks for the signal while it lists, long before the first unit."""
    done = _run_with_source(tmp_path, "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)")
    assert done.returncode == 75
    assert "the same command resumes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "_lease.json").exists()


def test_signals_after_the_job_is_done_do_not_make_it_look_killed(tmp_path: Path) -> None:
    kill = "[(os.kill(os.getpid(), number), time.sleep(0.1)) for number in (signal.SIGINT, signal.SIGTERM)]"
    done = _run_with_source(tmp_path, f"atexit.register(lambda: {kill})")
    assert (done.returncode, done.stdout.partition("\n")[0]) == (0, "done"), done.stderr
    assert "Traceback" not in done.stderr


def _with_execute(execute: Callable[[argparse.Namespace], int]) -> Command:
    return replace(COMMANDS["doctor"], execute=execute)
