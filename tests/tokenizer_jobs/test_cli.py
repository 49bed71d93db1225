"""The command line: its faces are fixed, its refusals say what to do, and its help comes at once."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from encodec_core import EncodecModel
from encodec_core.training import si_snr
from tests.tokenizer_jobs.conftest import PYTHON_PATH, REPOSITORY, Quickstart
from tokenizer_jobs.audition import any_row_id
from tokenizer_jobs.cli import main
from tokenizer_jobs.cli.commands import COMMANDS, Command, load_job
from tokenizer_jobs.cli.flags import job_flags, override
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.decode import AudioTarget, decode_item
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.sources.demo import DemoClips

COMMANDS_FROZEN = [
    "run",
    "plan",
    "status",
    "verify",
    "retry",
    "drop",
    "decode",
    "export",
    "import-codes",
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


def _refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
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
        message = _refusal(capsys, "run", str(job_file), "--recipe.codec.precision", "fp99")
        assert "--recipe.codec.precision fp99" in message
        assert "'fp32', 'tf32' or 'bf16'" in message

    @pytest.mark.parametrize("typed", ["--recipe.codec.bandwith-kbps", "--bandwidth-kbps", "--bandwith-kbps=3"])
    def test_misspelt_flag_suggests_the_right_one(
        self, typed: str, job_file: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = _refusal(capsys, "run", str(job_file), typed)
        assert "did you mean --recipe.codec.bandwidth-kbps?" in message

    def test_abbreviated_flag_is_no_flag(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no flag --outp" in _refusal(capsys, "run", str(job_file), "--outp", "x")

    def test_misspelt_command_suggests_the_right_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "did you mean verify?" in _refusal(capsys, "verfy", "out")

    def test_missing_config(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "CONFIG" in _refusal(capsys, "run")

    def test_missing_job_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "cannot be read" in _refusal(capsys, "plan", str(tmp_path / "none.yaml"))

    def test_flag_of_another_kind_of_source(self, job_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
        message = _refusal(capsys, "run", str(job_file), "--selection.source.paths", "a")
        assert "does not apply to a source of kind 'demo'" in message

    def test_share_of_rows_out_of_bounds(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "expected 0 to 1" in _refusal(capsys, "verify", str(tmp_path), "--reencode", "5")

    def test_watch_and_json_exclude_each_other(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "one of the two" in _refusal(capsys, "status", str(tmp_path), "--json", "--watch")

    def test_other_errors_keep_their_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(_: object) -> int:
            raise RuntimeError("a bug")

        monkeypatch.setitem(COMMANDS, "doctor", _with_execute(fail))
        with pytest.raises(RuntimeError, match="a bug"):
            main(["doctor"])


def _python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_sigterm_while_the_job_is_loaded_is_resumable(tmp_path: Path) -> None:
    """The source of the job asks for the signal while it lists, long before the first unit."""
    (tmp_path / "own_source.py").write_text(
        "import os, signal, time\n"
        "class Terminating:\n"
        "    def list(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
    )
    (tmp_path / "job.yaml").write_text(
        "output: out\n"
        "recipe: {codec: {model: demo}}\n"
        "selection: {source: {kind: 'own_source:Terminating'}}\n"
        "runtime: {executor: inline}\n"
    )
    words = [sys.executable, "-m", "tokenizer_jobs", "run", "job.yaml"]
    environment = os.environ | {"PYTHONPATH": f"{PYTHON_PATH}{os.pathsep}{tmp_path}"}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert "the same command resumes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "_lease.json").exists()


class TestWholeJob:
    def test_run_says_what_was_made_and_what_comes_next(self, quickstart: Quickstart) -> None:
        output, done = quickstart
        assert done.returncode == 0, done.stderr
        first, *facts = done.stdout.splitlines()
        assert first == "done"
        said = dict(line.split(maxsplit=1) for line in facts if line.startswith("  "))
        assert said["output"] == str(output)
        assert said["snapshot"] == "1"
        assert len(said["digest"]) == 64
        commands = [line for line in facts if line.startswith("  ") and "tokenizer-jobs " in line]
        assert [line.split()[1] for line in commands] == ["status", "verify", "decode"]

    def test_progress_goes_to_stderr_as_lines(self, quickstart: Quickstart) -> None:
        _, done = quickstart
        lines = [line for line in done.stderr.splitlines() if line.startswith("progress ")]
        assert lines
        assert "progress" not in done.stdout
        units = dict(pair.split("=") for pair in lines[-1].split()[1:])["units"].split("/")
        assert units[0] == units[1]

    def test_the_last_line_of_verify_is_the_digest_of_the_run(
        self, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, done = quickstart
        assert main(["verify", str(output)]) == 0
        digest = capsys.readouterr().out.splitlines()[-1]
        assert f"digest     {digest}" in done.stdout

    @pytest.mark.parametrize("command", ["plan", "status", "verify"])
    def test_json_is_one_object_and_agrees_with_the_others(
        self, command: str, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, _ = quickstart
        words = ["configs/quickstart.yaml", "--output", str(output)] if command == "plan" else [str(output)]
        assert main([command, *words, "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert set(JSON_FROZEN) <= set(content)
        assert content["items"] == content["rows"] + content["rejects"] > 0
        assert content["units"] == content["units_committed"]
        assert (content["snapshot"], content["problems"]) == (1, [])

    def test_a_damaged_shard_fails_verification_and_says_so(
        self, quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "out"
        shutil.copytree(quickstart[0], output)
        shard = next((output / "codes").iterdir())
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
        assert main(["verify", str(output), "--json"]) == 1
        captured = capsys.readouterr()
        assert shard.name in json.loads(captured.out)["problems"][0]
        assert shard.name in captured.err

    def test_decode_writes_the_planned_length_as_32_bit_floats(
        self, quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, _ = quickstart
        shard = next((output / "codes").iterdir())
        row = pq.read_table(shard, columns=["id", "num_samples", "sample_rate"]).slice(3, 1).to_pylist()[0]
        wav = tmp_path / "out.wav"
        assert main(["decode", str(output), "--id", row["id"], "-o", str(wav)]) == 0
        info = soundfile.info(wav)
        assert (info.frames, info.samplerate) == (row["num_samples"], row["sample_rate"])
        assert (info.format, info.subtype) == ("WAV", "FLOAT")

    def test_what_decode_writes_sounds_like_the_clip(self, quickstart: Quickstart, tmp_path: Path) -> None:
        """Measured: 12 to 15 dB on chords, 18 to 20 dB on low tones; chirps and noise lose their phase."""
        source, wav = DemoClips(), tmp_path / "out.wav"
        clip = next(item for item in source.list().items if item.id == "chord-165-flac")
        target = AudioTarget(sample_rate=24_000, channels=1)
        original = decode_item(clip, position=0, source=source, target=target).float_waveform()
        assert main(["decode", str(quickstart[0]), "--id", clip.id, "-o", str(wav)]) == 0
        decoded, _ = soundfile.read(wav, dtype="float32")
        assert float(si_snr(torch.from_numpy(original)[None], torch.from_numpy(decoded)[None, None])) > 8

    def test_decode_refuses_a_codec_with_other_weights(
        self, quickstart: Quickstart, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, _ = quickstart
        model = EncodecModel.from_pretrained("demo")
        with torch.no_grad():
            next(model.parameters()).add_(1.0)
        model.save_pretrained(tmp_path / "other")
        row_id = any_row_id(str(output)) or ""
        words = ("decode", str(output), "--id", row_id, "-o", str(tmp_path / "x.wav"))
        assert "has weights" in _refusal(capsys, *words, "--model", str(tmp_path / "other"))
        assert not (tmp_path / "x.wav").exists()

    def test_a_second_run_has_nothing_to_do(self, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "configs/quickstart.yaml", "--output", str(quickstart[0])]) == 0
        assert capsys.readouterr().out.startswith("done: nothing was new\n")

    def test_another_recipe_is_refused(self, quickstart: Quickstart, capsys: pytest.CaptureFixture[str]) -> None:
        words = ("run", "configs/quickstart.yaml", "--output", str(quickstart[0]))
        assert main([*words, "--recipe.codec.bandwidth-kbps", "3"]) == 1
        error = capsys.readouterr().err
        assert "codec.bandwidth_kbps: 6.0 stored, 3.0 asked" in error
        assert "Traceback" not in error


def _with_execute(execute: Callable[[argparse.Namespace], int]) -> Command:
    return replace(COMMANDS["doctor"], execute=execute)
