"""What may not leak, run or be written elsewhere: secrets, pickles, and names that lead out of the output."""

import ast
import base64
import contextlib
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest

from tests.tokenizer_jobs.conftest import REPOSITORY
from tests.tokenizer_jobs.test_job import files, job, write_recording
from tokenizer_jobs.cli import main
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.job import run
from tokenizer_jobs.retrying import retry

MARK = "hunter2"
"""In every secret that is planted."""

PLANTED = {
    "AWS_ACCESS_KEY_ID": f"AKIA{MARK}A",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}-b",
    "AWS_SESSION_TOKEN": f"{MARK}-c",
    "HF_TOKEN": f"hf_{MARK}d",
    "RAY_AUTH_TOKEN": f"{MARK}e" * 8,
}
"""Environment of every command."""


class _Clips(BaseHTTPRequestHandler):
    """Gives files to who has the password and the signature; 403 for `locked.wav`, whatever was given."""

    folder: Path

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        name, _, query = self.path.lstrip("/").partition("?")
        granted = self.headers.get("Authorization") == f"Basic {base64.b64encode(f'me:{MARK}'.encode()).decode()}"
        if not (granted or query == f"sig={MARK}") or name == "locked.wav":
            self.send_error(403, f"{MARK} is not the key")
            return
        path = self.folder / name
        if not path.is_file():
            self.send_error(404, f"no {self.path}")
            return
        content = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "web"
    folder.mkdir()
    for seed in range(3):
        write_recording(folder / f"{seed}.wav", seconds=0.4 + 0.1 * seed, seed=seed)
    (folder / "bad.wav").write_text("<html>")
    handler = type("Clips", (_Clips,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def everything_stored(url: str) -> dict[str, str]:
    """Name of each file of an output, and its content as text: tables are decompressed, with their metadata."""
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    found = {}
    for path in system.find(root):
        content = system.cat_file(path)
        text = content.decode("utf-8", "replace")
        if path.endswith(".parquet"):
            table = pq.ParquetFile(system.open(path))
            text += f"{table.schema_arrow.metadata}{table.metadata.metadata}{table.read().to_pylist()}"
        elif path.endswith(".arrow"):
            table = ipc.open_file(system.open(path)).read_all()
            text += f"{table.schema.metadata}{table.to_pylist()}"
        found[path] = f"{path}\n{text}"
    return found


def say(*words: str) -> str:
    """All that a command prints, run as users run it."""
    command = [sys.executable, "-m", "tokenizer_jobs", *words]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return f"{ended.stdout}\n{ended.stderr}"


def test_planted_secrets_are_in_nothing_that_is_stored_or_said(
    object_store: str, web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in {**PLANTED, "AWS_ENDPOINT_URL": object_store}.items():
        monkeypatch.setenv(name, value)
    names = ("0", "1", "2", "bad", "locked", "gone")
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": f"{name}.wav", "id": name}) + "\n" for name in names))
    source = {"kind": "manifest", "paths": [str(manifest)], "root": f"http://me:{MARK}@{web}"}
    output = f"s3://bucket/{uuid.uuid4().hex}"
    config = job(Path("out"), source=source)
    job_file = tmp_path / "job.yaml"
    job_file.write_text(config.model_copy(update={"output": output}).model_dump_json())
    said = say("run", str(job_file))
    numpy = ("export", output, str(tmp_path / "npy"), "--to", "numpy")
    again = (
        ("plan", str(job_file)),
        ("run", str(job_file)),
        ("retry", output),
        ("drop", output, "--where", "id = '0'"),
    )
    for words in (*again, ("status", output), ("verify", output), ("verify", f"{output}-no"), ("doctor",), numpy):
        main(words)
    said += "".join(capfd.readouterr())
    stored = everything_stored(output)
    assert any(path.endswith(".parquet") and "/rejects/" in path for path in stored), "no reject: nothing was proven"
    assert "127.0.0.1" in "".join(stored.values()), "no location is stored: nothing was proven"
    exported = {path.name: path.read_bytes().decode(errors="replace") for path in tmp_path.glob("npy/**/*.*")}
    assert exported
    leaks = [name for name, text in {**stored, **exported}.items() if MARK in text]
    assert "permission_denied 1" in said, "the server refused nothing: nothing was proven"
    assert not leaks
    assert MARK not in said


@pytest.mark.parametrize("how", ["a password in the root", "a signature in the path", "nothing"])
def test_rejects_are_not_tried_again_without_what_opens_the_source(web: str, tmp_path: Path, how: str) -> None:
    """Secrets are not stored, the fact that there were some is: else every reject would be one of permission."""
    output, manifest = str(tmp_path / "out"), tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps({"audio_filepath": f"{name}.wav", "id": name}) + "\n" for name in "01"))
    (tmp_path / "web" / "1.wav").rename(tmp_path / "later.wav")
    sources = {
        "a password in the root": {"kind": "manifest", "paths": [str(manifest)], "root": f"http://me:{MARK}@{web}"},
        "a signature in the path": {
            "kind": "files",
            "paths": [f"http://{web}/{name}.wav?sig={MARK}" for name in ("0", "bad")],
        },
        "nothing": {"kind": "manifest", "paths": [str(manifest)], "root": str(tmp_path / "web")},
    }
    config = job(Path(output), source=sources[how])
    first = run(config)
    assert (first.rows, first.rejects) == (1, 1)
    (tmp_path / "later.wav").rename(tmp_path / "web" / "1.wav")
    write_recording(tmp_path / "web" / "bad.wav", seconds=0.3, seed=9)
    plan = (tmp_path / "out" / "plans" / "000001.json").read_text()
    assert ("is_source_stripped" in plan) == (how != "nothing"), "where it says nothing, earlier versions read the plan"
    if how != "nothing":
        with pytest.raises(ConfigError, match=r"never stored.*--config JOB\.yaml"):
            retry(output)
        assert len(list((tmp_path / "out" / "plans").glob("*.json"))) == 1
    again = retry(output, config=None if how == "nothing" else config)
    assert (again.rows, again.rejects) == (2, 0)
    assert not [name for name, text in everything_stored(output).items() if MARK in text]


NAMES_THAT_LEAD_OUT = ["../../up", "/absolute", "a/../../../b", "..", "~/home", "C:\\x", "a\x00b", "-rf", "$(touch x)"]


def test_no_id_leads_out_of_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = tmp_path / "a/b/c/d"
    world.mkdir(parents=True)
    monkeypatch.chdir(world)
    write_recording(world / "clip.wav", seconds=0.3, seed=1)
    manifest = world / "list.jsonl"
    lines = [{"audio_filepath": "clip.wav", "id": name, "text": name} for name in NAMES_THAT_LEAD_OUT]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = {"kind": "manifest", "paths": [str(manifest)]}
    result = run(job(world / "out", source=source))
    assert result.rows + result.rejects == len(lines)
    assert result.rows >= len(lines) - 1  # a name with a zero byte may be refused
    for form in ("numpy", "webdataset", "arrow"):
        main(["export", str(world / "out"), str(world / "exported" / form), "--to", form])
    assert any((world / "exported/numpy").rglob("*.npy"))
    outside = {path for path in tmp_path.rglob("*") if path.is_file()} - {manifest, world / "clip.wav"}
    outside = {path for path in outside if not path.is_relative_to(world / "out")}
    assert not {path for path in outside if not path.is_relative_to(world / "exported")}
    assert not Path("/absolute").exists()


PACKAGES = ("tokenizer_jobs", "encodec_core")

MAY_UNPICKLE = {
    "tokenizer_jobs/isolation/child.py",  # what our own child sends through a socket that only the two hold
    "tokenizer_jobs/dry_run/sampling.py",  # a file that this process has just written for its children
}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Calls in a module by the dotted name of what is called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            with contextlib.suppress(TypeError):
                yield ast.unparse(node.func), node


def option(call: ast.Call, name: str) -> object:
    """The constant that a call gives to an option; None where there is none."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == name]
    return given[0].value if given and isinstance(given[0], ast.Constant) else None


@pytest.mark.parametrize("package", PACKAGES)
def test_nothing_that_data_holds_is_ever_run(package: str) -> None:
    """No pickle but of our own making, no eval, no shell; torch and numpy are told to read arrays alone."""
    seen, faults = set[str](), list[str]()
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        where = path.relative_to(REPOSITORY).as_posix()
        for name, call in calls(path):
            seen.add(name)
            is_fault = {
                "pickle.loads": where not in MAY_UNPICKLE,
                "pickle.load": True,
                "pickle.Unpickler": True,
                "torch.load": option(call, "weights_only") is not True,
                "np.load": option(call, "allow_pickle") is not False,
                "eval": True,
                "exec": True,
                "os.system": True,
                "yaml.load": option(call, "Loader") is not None,
                "tar.extractall": True,
                "archive.extractall": True,
            }.get(name, option(call, "shell") is True)
            if is_fault:
                faults.append(f"{where}:{call.lineno}: {ast.unparse(call)}")
    assert {"torch.load"} <= seen, "the check sees no call at all"
    assert not faults


def test_a_codec_that_is_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    import pickle

    from encodec_core import EncodecModel

    folder, ran = tmp_path / "codec", tmp_path / "ran"
    EncodecModel.from_pretrained("demo").save_pretrained(folder)
    next(folder.glob("*.safetensors")).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap(str(ran))))
    write_recording(tmp_path / "clip.wav", seconds=0.3, seed=1)
    text = job(tmp_path / "out", source=files(tmp_path / "clip.wav"), recipe__codec__model=str(folder))
    job_file = tmp_path / "job.yaml"
    job_file.write_text(text.model_dump_json())
    assert main(["run", str(job_file)]) == 1
    assert not ran.exists()


class _Trap:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._path,)
