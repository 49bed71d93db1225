"""What is sent to a cluster, and what is refused before anything is."""

import argparse
import json
import re
import shlex
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tokenizer_jobs.conftest import REPOSITORY
from tests.tokenizer_jobs.test_cli import refusal
from tokenizer_jobs.cli.commands import COMMANDS
from tokenizer_jobs.cli.flags import job_flags
from tokenizer_jobs.cli.parsing import parse_arguments
from tokenizer_jobs.cli.submission import run_flags
from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.submission import EXCLUDES, JOB_FILE, check_submitted_version, packed


def job(source: dict[str, Any] | None = None, *, output: str = "s3://bucket/Speech EN/", **rest: Any) -> JobConfig:
    content = {"output": output, "selection": {"source": source or {"kind": "demo"}}, **rest}
    return JobConfig.parse(content, origin="test")


def files(paths: list[str], **rest: Any) -> JobConfig:
    return job({"kind": "files", "paths": paths}, **rest)


def sent_files(folder: Path) -> list[str]:
    """As the cluster unpacks them."""
    import zipfile

    from ray._private.runtime_env.packaging import create_package

    package = folder.parent / "package.zip"
    create_package(str(folder), package, include_gitignore=True, excludes=list(EXCLUDES))
    with zipfile.ZipFile(package) as archive:
        return sorted(archive.namelist())


def test_the_job_file_alone_is_sent_and_is_the_job() -> None:
    config = job(recipe={"codec": {"model": "demo"}}, runtime={"grace_seconds": 12.5})
    with packed(config) as submission:
        assert sent_files(submission.working_dir) == [JOB_FILE]
        assert JobConfig.load(submission.working_dir / JOB_FILE) == config
        program, *words = submission.entrypoint.split()[2:]
        assert program == "tokenizer_jobs"
        assert parse_arguments(COMMANDS[words[0]], words[1:]).config == JOB_FILE
        assert submission.py_modules == ()
        assert int(submission.env_vars["RAY_JOB_STOP_WAIT_TIME_S"]) > 12.5
    assert not submission.working_dir.exists()


def test_flags_of_run_that_are_no_keys_go_along() -> None:
    parser = argparse.ArgumentParser()
    COMMANDS["run"].add_arguments(parser)
    job_flag_names = {flag.name for flag in job_flags()}
    others = [name for action in parser._actions for name in action.option_strings if name not in job_flag_names]
    assert sorted(others) == ["--help", "--log-format", "--replace", "-h"], "a new one must be passed on by `submit`"
    typed = ["--replace", "--log-format", "json"]
    arguments = parse_arguments(COMMANDS["submit"], ["job.yaml", *typed])
    with packed(job(), flags=run_flags(arguments)) as submission:
        words = submission.entrypoint.split()[3:]
    parsed = parse_arguments(COMMANDS["run"], words[1:])
    assert (words[0], parsed.replace, parsed.log_format) == ("run", True, "json")


def test_submission_ids_name_the_output_and_never_repeat() -> None:
    ids = set()
    for _ in range(5):
        with packed(job()) as submission:
            ids.add(submission.submission_id)
    assert len(ids) == 5
    assert all(re.fullmatch(r"tokenize-speech-en-\d{8}-\d{6}-[0-9a-f]{4}", name) for name in ids)


def test_what_the_cluster_shows_holds_no_password() -> None:
    with packed(files(["https://me:secret1@host/a.wav?sig=secret2"], output="ftp://me:secret3@host/out")) as submission:
        assert "secret" not in json.dumps(
            [*submission.metadata.items(), submission.entrypoint, submission.submission_id]
        )


def test_a_folder_is_sent_without_what_is_large_or_ignored_and_with_the_job_file_whatever_is_ignored(
    tmp_path: Path,
) -> None:
    for name in ("clips.jsonl", "code/mine.py", "out/codes.parquet", "data/a.wav", ".git/x", ".venv/x", "notes.txt"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "folder" / ".gitignore").write_text("*.yaml\nnotes.txt\n")
    with packed(job(), working_dir=tmp_path / "folder") as submission:
        assert set(sent_files(submission.working_dir)) - {".gitignore"} == {JOB_FILE, "clips.jsonl", "code/mine.py"}


def test_a_source_of_the_users_own_is_sent_with_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_source.py").write_text("class Clips: ...")
    (tmp_path / "unrelated.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with packed(job({"kind": "my_source:Clips"})) as submission:
        assert sent_files(submission.working_dir) == ["my_source.py", JOB_FILE]
    with packed(job({"kind": "json:JSONDecoder"})) as submission:
        assert sent_files(submission.working_dir) == [JOB_FILE]


def test_the_package_goes_along_when_asked_with_its_version() -> None:
    with packed(job(), send_package=True) as submission:
        names = [module.name for module in submission.py_modules]
        assert names == ["tokenizer_jobs", "encodec_core", f"tokenizer_jobs-{version('tokenizer-jobs')}.dist-info"]
        assert all((module / "__init__.py").exists() for module in submission.py_modules[:2])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (job(output="out/speech"), r"output = 'out/speech' is relative .*mount this one: --output /.*/out/speech\)"),
        (files(["data/audio"]), r"selection.source = 'data/audio' is relative .*--working-dir"),
        (job(runtime={"executor": "inline"}), "one process of the head node"),
        (job(runtime={"ray_address": "local"}), "runtime.ray_address = 'local', but a submitted job runs on"),
        (files(["memory://audio"]), "memory of one process"),
    ],
)
def test_what_cannot_work_on_a_cluster_is_refused(config: JobConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message), packed(config):
        pass


def test_a_relative_codec_is_refused_and_the_demo_codec_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("my_codec", "demo"):
        (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=r"recipe.codec.model = 'my_codec' is relative"):
        packed(job(recipe={"codec": {"model": "my_codec"}})).__enter__()
    with packed(job(recipe={"codec": {"model": "demo"}})):
        pass


def test_a_relative_manifest_is_taken_when_its_folder_is_sent(tmp_path: Path) -> None:
    (tmp_path / "clips.jsonl").write_text("{}")
    source = {"kind": "manifest", "paths": ["clips.jsonl"], "root": "s3://bucket/audio"}
    with packed(job(source), working_dir=tmp_path) as submission:
        assert sent_files(submission.working_dir) == ["clips.jsonl", JOB_FILE]
    with pytest.raises(ConfigError, match=r"clips\.jsonl"), packed(job(source)):
        pass


@pytest.mark.parametrize("metadata", [{}, {"metadata": None}, {"metadata": {"tokenizer_jobs_version": None}}])
def test_jobs_that_say_nothing_of_a_version_are_run(metadata: dict[str, Any]) -> None:
    check_submitted_version({"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(metadata)})


def test_a_job_of_another_version_is_refused() -> None:
    told = json.dumps({"metadata": {"tokenizer_jobs_version": "9.9"}})
    with pytest.raises(ConfigError, match=r"submitted by tokenizer-jobs 9\.9.*--send-package"):
        check_submitted_version({"RAY_JOB_CONFIG_JSON_ENV_VAR": told})


def test_the_commands_of_the_page_on_clusters_exist() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    lines = re.findall(r"^(?:\$ )?tokenizer-jobs (.+)$", page, re.MULTILINE)
    assert len(lines) > 3
    for line in lines:
        name, *words = shlex.split(line)
        parse_arguments(COMMANDS[name], words)


@pytest.mark.parametrize(
    ("status", "code", "log", "exit_code", "message"),
    [
        ("SUCCEEDED", 0, "", 0, "done"),
        ("STOPPED", None, "x\nstopped: 1 of 2 units", 75, "in hand is committed; submit again to resume"),
        ("STOPPED", None, "progress", 75, "it was killed, and what it had in hand is done again"),
        ("FAILED", 75, "", 75, "submit again to resume"),
        ("FAILED", 1, "error: no", 1, "the log above says why"),
        ("FAILED", 1, "python: No module named tokenizer_jobs", 1, "--send-package"),
        ("FAILED", -9, "", 1, "killed by signal 9"),
        ("FAILED", 137, "", 137, "killed by signal 9"),
        ("FAILED", None, "", 1, "Ray could not run the job, or lost it"),
    ],
)
def test_how_a_job_ended_is_told_by_exit_code_and_words(
    status: str, code: int | None, log: str, exit_code: int, message: str
) -> None:
    from ray.job_submission import JobStatus

    from tokenizer_jobs.cluster.job_client import job_end

    end = job_end(JobStatus(status), exit_code=code, reason=None, log=log)
    assert end.exit_code_here == exit_code
    assert message in end.message


def test_a_log_that_begins_anew_after_a_lost_connection_is_written_once() -> None:
    from tokenizer_jobs.cluster.job_client import FollowedLog

    written: list[str] = []
    log = FollowedLog(written.append)
    for connection in (["ab", "cde"], ["a"], ["abcd", "efg"], ["abcdefg", "h"]):
        log.rewind()
        for text in connection:
            log.add(text)
    assert "".join(written) == log.tail == "abcdefgh"


@contextmanager
def web_server(code: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(code)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestAddresses:
    @pytest.fixture(autouse=True)
    def _nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def job_file(self, tmp_path: Path) -> str:
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump({"output": "s3://bucket/out", "selection": {"source": {"kind": "demo"}}}))
        return str(path)

    def test_a_job_needs_an_address(self, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--address is missing; expected the URL of" in refusal(capsys, "submit", job_file)

    @pytest.mark.parametrize("address", ["head:6379", "ray://head:10001", "http://"])
    def test_other_addresses_are_told_apart(
        self, job_file: str, address: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told = refusal(capsys, "submit", job_file, "--address", address)
        assert f"--address = {address!r} is not the URL of a dashboard" in told

    def test_the_variables_are_looked_at_in_rays_order(
        self, job_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "head:6379")
        assert "RAY_ADDRESS = 'head:6379' is not the URL" in refusal(capsys, "submit", job_file)
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "other:1")
        assert "RAY_API_SERVER_ADDRESS = 'other:1' is not" in refusal(capsys, "submit", job_file)

    def test_where_nothing_listens_is_said(self, job_file: str, capsys: pytest.CaptureFixture[str]) -> None:
        with web_server(404) as address:
            assert "is no Ray dashboard" in refusal(capsys, "submit", job_file, "--address", address)
        assert f"no Ray cluster answers at {address}" in refusal(capsys, "submit", job_file, "--address", address)
