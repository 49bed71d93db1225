"""Laws of inputs: what is listed, what opening says of faults, and that no secret is told."""

import errno
import http.server
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.storage import (
    SkippedEntry,
    SourceFile,
    Storage,
    list_source_files,
    open_source,
    stat_source,
)
from tokenizer_jobs.storage.faults import remote_faults, without_secrets


def listing(location: str | os.PathLike[str]) -> tuple[list[str], list[tuple[str, str]]]:
    entries = list(list_source_files(location))
    return (
        sorted(entry.uri for entry in entries if isinstance(entry, SourceFile)),
        sorted((entry.uri, entry.kind) for entry in entries if isinstance(entry, SkippedEntry)),
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("a.wav", "b/a.wav", "b/song [1].wav", "folder.wav/c.wav"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"123")
    return root


def test_a_folder_gives_every_file_once(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "d.wav").write_bytes(b"")
    (tree / "loop").symlink_to(tree)
    (tree / "b" / "up").symlink_to(tmp_path)
    (tree / "again").symlink_to(tree / "b")
    (tree / "broken").symlink_to(tree / "nothing")
    (tree / "itself").symlink_to(tree / "itself")
    (tree / "link.wav").symlink_to(tree / "a.wav")
    (tree / "outside").symlink_to(outside)
    os.mkfifo(tree / "pipe.wav")
    files, skipped = listing(tree)
    assert files == sorted(
        str(tree / name)
        for name in (
            "a.wav",
            "link.wav",
            "b/a.wav",
            "b/song [1].wav",
            "folder.wav/c.wav",
            "outside/d.wav",
        )
    )
    kinds = {Path(uri).name: kind for uri, kind in skipped}
    assert kinds["loop"] == kinds["again"] == "link to a listed folder"
    assert kinds["broken"] == kinds["itself"] == "broken link"
    assert kinds["pipe.wav"] == "fifo"
    assert kinds["folder.wav"] == "folder"


def test_a_name_that_is_not_utf8_has_a_uri_that_can_be_stored(tree: Path) -> None:
    Path(os.fsdecode(os.fsencode(tree) + b"/\xff.wav")).write_bytes(b"12345")
    (strange,) = (file for file in list_source_files(tree) if isinstance(file, SourceFile) and file.size_bytes == 5)
    assert strange.uri == f"file://{tree}/%FF.wav"
    assert os.fsencode(strange.location).endswith(b"/\xff.wav")
    with open_source(strange.location) as file:
        assert file.read() == b"12345"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.wav", ["a.wav", "folder.wav/c.wav"]),
        ("**/a.wav", ["a.wav", "b/a.wav"]),
        ("b/**", ["b/a.wav", "b/song [1].wav"]),
        ("b/song [1].wav", ["b/song [1].wav"]),
        ("b/song*", ["b/song [1].wav"]),
        ("none*", []),
        ("none/**/x", []),
    ],
)
def test_globs(tree: Path, pattern: str, names: list[str]) -> None:
    assert listing(tree / pattern)[0] == sorted(str(tree / name) for name in names)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none' does not exist"):
        listing(tmp_path / "none")
    with pytest.raises(ConfigError, match="does not exist"):
        listing("memory://none-at-all")
    with pytest.raises(ConfigError, match="cannot be opened"):
        listing("nosuch://x/a.wav")


def test_remote_sources(storage: Storage) -> None:
    for name in ("src/a.wav", "src/b/c.wav"):
        storage.replace(name, b"123")
    root = f"{storage.url}/src"
    files, skipped = listing(root)
    assert [uri.removeprefix(root) for uri in files] == ["/a.wav", "/b/c.wav"]
    assert [(uri.removeprefix(root), kind) for uri, kind in skipped] == [("/b", "folder")]
    assert listing(f"{root}/*/*.wav")[0] == files[1:]
    assert listing(files[0])[0] == files[:1]


def test_a_source_file_is_seen_and_opened(storage: Storage) -> None:
    storage.replace("src/a.wav", b"0123")
    uri = f"{storage.url}/src/a.wav"
    first = stat_source(uri)
    assert first.size_bytes == 4
    assert first.etag == stat_source(uri).etag
    assert first == next(iter(list_source_files(uri)))
    with open_source(first.location) as file:
        file.seek(1)
        assert file.read() == b"123"
    time.sleep(0.01)
    storage.replace("src/a.wav", b"4567")
    assert stat_source(uri).etag != first.etag
    with pytest.raises(FileNotFoundError):
        stat_source(f"{uri}.none")
    with pytest.raises(FileNotFoundError):
        open_source(f"{uri}.none")


def test_opening_a_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        open_source(str(tmp_path / "pipe"))
    with pytest.raises(IsADirectoryError):
        open_source(str(tmp_path))


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers `/<status>` with that status."""

    def do_GET(self) -> None:
        self.send_response(int(self.path[1:4]))
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else b"body")

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


SECRET = "hunter2"

WEB_FAULTS: list[tuple[int, type[Exception]]] = [
    (404, FileNotFoundError),
    (410, FileNotFoundError),
    (401, PermissionError),
    (403, PermissionError),
    (429, TransientError),
    (503, TransientError),
]


@pytest.mark.parametrize(("status", "error"), WEB_FAULTS)
def test_only_a_web_server_that_says_so_has_lost_a_file(web: str, status: int, error: type[Exception]) -> None:
    for look in (stat_source, open_source):
        with pytest.raises(error) as caught:
            look(f"{web}/{status}.wav?sig={SECRET}")
        assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("status", "error"), [(404, ConfigError), (403, PermissionError), (503, TransientError)])
def test_a_web_server_that_fails_does_not_make_a_source_missing(web: str, status: int, error: type[Exception]) -> None:
    with pytest.raises(error):
        listing(f"{web}/{status}.wav")


def test_a_web_server_that_is_down_has_lost_nothing() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.wav"
        for look in (stat_source, open_source, listing):
            with pytest.raises(TransientError):
                look(url)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("503, url='https://h/a.wav?X-Amz-Signature=hunter2&b=1'", "503, url='https://h/a.wav'"),
        ("cannot open https://me:hunter2@h:80/a.wav now", "cannot open https://h:80/a.wav now"),
        ("s3://key:hunter2@bucket/a.wav?versionId=3 is gone", "s3://bucket/a.wav is gone"),
        ("exceeded with url: /a.wav?sig=hunter2 (Caused by ...)", "exceeded with url: /a.wav (Caused by ...)"),
        ("Is it s3://bucket/a.wav? No.", "Is it s3://bucket/a.wav? No."),
    ],
)
def test_messages_of_clients_lose_their_secrets(text: str, clean: str) -> None:
    assert without_secrets(text) == clean


@pytest.mark.parametrize("kind", [RuntimeError, FileNotFoundError, PermissionError])
def test_no_secret_of_a_client_is_in_a_traceback(kind: type[Exception]) -> None:
    with pytest.raises((TransientError, OSError)) as caught, remote_faults("s3://bucket/a.wav"):
        raise kind("https://me:hunter2@h/a.wav?sig=hunter2") from ValueError("https://h/a.wav?sig=hunter2")
    assert "https://h/a.wav" in str(caught.value)
    assert "hunter2" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__


def test_a_secret_is_not_told_of_a_source_that_nothing_opens() -> None:
    with pytest.raises(ConfigError) as caught:
        listing(f"nosuch://me:{SECRET}@h/a.wav?sig={SECRET}")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("number", "error"), [(errno.EIO, OSError), (errno.ESTALE, OSError), (errno.EMFILE, TransientError)]
)
def test_a_file_that_cannot_be_read_is_told_from_a_machine_that_cannot(
    number: int, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tokenizer_jobs.storage.inputs._open_regular", fail)
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(error):
        open_source(str(tmp_path / "a.wav"))
