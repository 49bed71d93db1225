"""Laws of the storage, for a local folder and for one behind fsspec."""

import errno
import http.server
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tokenizer_jobs.errors import ConfigError, IntegrityError, TransientError
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.storage import (
    STAGING_FOLDER,
    SkippedEntry,
    SourceFile,
    Storage,
    list_source_files,
    open_source,
    public_uri,
    stat_source,
)
from tokenizer_jobs.storage.faults import remote_faults, without_secrets
from tokenizer_jobs.storage.outputs import staged_by_the_dead


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "local":
        yield Storage.open(tmp_path / "out")
        return
    folder = f"/{uuid.uuid4().hex}"
    yield Storage.open(f"memory://{folder}")
    memory = fsspec.filesystem("memory")
    if memory.exists(folder):
        memory.rm(folder, recursive=True)


def staged(storage: Storage, content: bytes) -> Path:
    path = storage.stage(".bin")
    path.write_bytes(content)
    return path


def test_what_is_put_is_read(storage: Storage) -> None:
    assert storage.put_if_absent("a/b.json", b"one")
    storage.replace("a/c.json", b"two")
    storage.publish(staged(storage, b"three"), "a/d.bin")
    assert [storage.read_bytes(f"a/{name}") for name in ("b.json", "c.json", "d.bin")] == [b"one", b"two", b"three"]
    assert [(file.path, file.size_bytes) for file in storage.list("a")] == [
        ("a/b.json", 3),
        ("a/c.json", 3),
        ("a/d.bin", 5),
    ]


def test_put_if_absent_keeps_the_first(storage: Storage) -> None:
    assert storage.put_if_absent("a.json", b"first")
    assert not storage.put_if_absent("a.json", b"second")
    assert storage.read_bytes("a.json") == b"first"


def test_replace_and_publish_overwrite(storage: Storage) -> None:
    storage.replace("a.json", b"old")
    storage.replace("a.json", b"new")
    assert storage.read_bytes("a.json") == b"new"
    storage.publish(staged(storage, b"newest"), "a.json")
    assert storage.read_bytes("a.json") == b"newest"


def test_publish_if_absent_keeps_the_first(storage: Storage) -> None:
    assert storage.publish_if_absent(staged(storage, b"first"), "a/b")
    late = staged(storage, b"second")
    assert not storage.publish_if_absent(late, "a/b")
    assert late.read_bytes() == b"second"
    late.unlink()
    assert storage.read_bytes("a/b") == b"first"


def test_missing_files(storage: Storage) -> None:
    assert not storage.exists("none")
    assert storage.list("none") == []
    storage.delete("none")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("none")
    with pytest.raises(FileNotFoundError):
        storage.open_file("none")


def test_a_folder_is_no_file_and_listing_is_flat(storage: Storage) -> None:
    storage.replace("a/b/c", b"")
    storage.replace("a/d", b"")
    assert not storage.exists("a/b")
    assert [file.path for file in storage.list("a")] == ["a/d"]


def test_open_file_seeks(storage: Storage) -> None:
    storage.replace("a", b"0123456789")
    with storage.open_file("a") as file:
        file.seek(-3, 2)
        assert file.read() == b"789"
        file.seek(2)
        assert file.read(2) == b"23"


def test_delete_removes_one_file(storage: Storage) -> None:
    storage.replace("a/b", b"")
    storage.replace("a/c", b"")
    storage.delete("a/b")
    assert [file.path for file in storage.list("a")] == ["a/c"]


def test_modified_is_now(storage: Storage) -> None:
    storage.replace("a/b", b"")
    assert abs(storage.list("a")[0].modified - time.time()) < 5


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", "", "a//b", ".", "a\\..\\b", "a/\0"])
def test_no_path_leaves_the_output(storage: Storage, path: str) -> None:
    for act in (storage.read_bytes, storage.exists, storage.delete, storage.open_file, storage.list):
        with pytest.raises(IntegrityError, match="not inside the output"):
            act(path)
    with pytest.raises(IntegrityError):
        storage.put_if_absent(path, b"")
    with pytest.raises(IntegrityError):
        storage.replace(path, b"")
    with pytest.raises(IntegrityError):
        storage.publish(Path("x"), path)


def test_a_publish_leaves_no_staging(storage: Storage) -> None:
    file = staged(storage, b"x")
    storage.publish(file, "a")
    storage.put_if_absent("b", b"x")
    storage.put_if_absent("b", b"x")
    storage.replace("c", b"x")
    assert not file.exists()
    assert storage.list(STAGING_FOLDER) == []


def test_storage_survives_pickling(storage: Storage) -> None:
    storage.replace("a", b"x")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("a") == b"x"


def test_racing_threads_have_one_winner(storage: Storage) -> None:
    for number in range(10):
        start = threading.Barrier(8)
        won: list[bytes] = []

        def race(
            name: bytes, path: str = f"r/{number}", start: threading.Barrier = start, won: list[bytes] = won
        ) -> None:
            start.wait()
            if storage.put_if_absent(path, name * 1000):
                won.append(name)

        threads = [threading.Thread(target=race, args=(bytes([65 + name]),)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read_bytes(f"r/{number}") == won[0] * 1000


def _race(url: str, name: int, results: "multiprocessing.Queue[tuple[int, list[bool]]]", start: float) -> None:
    storage = Storage.at(url)
    time.sleep(max(0.0, start - time.time()))
    results.put((name, [storage.put_if_absent(f"race/{number}", bytes([65 + name]) * 1000) for number in range(20)]))


def test_racing_processes_have_one_winner(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[tuple[int, list[bool]]] = context.Queue()
    start = time.time() + 2.0
    racers = [context.Process(target=_race, args=(str(tmp_path), name, results, start)) for name in range(8)]
    for racer in racers:
        racer.start()
    won = dict(results.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    for number in range(20):
        winners = [name for name, wins in won.items() if wins[number]]
        assert len(winners) == 1
        assert (tmp_path / f"race/{number}").read_bytes() == bytes([65 + winners[0]]) * 1000


KILLED_AT = {
    # Where the process is killed -> what a reader sees of: put_if_absent, replace over b"old", publish over b"old".
    "os.fsync": (None, b"old", b"old"),
    "os.link": (None, b"new", b"new"),
    "pathlib.Path.replace": (b"new", b"old", b"old"),
    "local._fsync_folder": (b"new", b"new", b"new"),
}


@pytest.mark.parametrize("step", KILLED_AT)
def test_killed_at_any_step_leaves_old_or_new(step: str, tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, pathlib, signal, sys
        from tokenizer_jobs.storage import Storage, local
        storage = Storage.at(sys.argv[1])
        staged = storage.stage(".bin")
        staged.write_bytes(b"new")
        def die(*_, **__):
            os.kill(os.getpid(), signal.SIGKILL)
        {step} = die
        dict(put=lambda: storage.put_if_absent("put", b"new"),
             replace=lambda: storage.replace("replace", b"new"),
             publish=lambda: storage.publish(staged, "publish"))[sys.argv[2]]()
    """)
    storage = Storage.open(tmp_path)
    storage.replace("replace", b"old")
    storage.replace("publish", b"old")
    for name, expected in zip(("put", "replace", "publish"), KILLED_AT[step], strict=True):
        ended = subprocess.run([sys.executable, "-c", script, str(tmp_path), name], check=False)
        assert ended.returncode in (-signal.SIGKILL, 0)
        assert (storage.read_bytes(name) if storage.exists(name) else None) == expected
    for file in storage.list(STAGING_FOLDER):
        assert staged_by_the_dead(Path(file.path).name, here=Owner.current())


def test_own_staging_is_not_of_the_dead(tmp_path: Path) -> None:
    name = Storage.open(tmp_path).stage(".x").name
    assert not staged_by_the_dead(name, here=Owner.current())
    assert not staged_by_the_dead("anything.parquet", here=Owner.current())


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
def test_an_output_that_refuses_writing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'/proc/out' cannot be written: .*choose another `output`"):
        Storage.open("/proc/out")


def test_a_file_in_the_place_of_the_output_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    for url in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(ConfigError, match=r"out.*cannot be written"):
            Storage.open(url)


def test_a_read_only_folder_is_named(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    with pytest.raises(ConfigError, match="cannot be written"):
        Storage.open(unprivileged / "out")


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'nosuch://x' cannot be opened"):
        Storage.open("nosuch://u:p@x")


def test_naming_an_output_touches_nothing(tmp_path: Path) -> None:
    storage = Storage.at(tmp_path / "none")
    assert not storage.exists("recipe.json")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("location", "public"),
    [
        ("/data/a?b=1#c@d.wav", "/data/a?b=1#c@d.wav"),
        ("https://h/a.wav?X-Amz-Signature=1&b=2", "https://h/a.wav"),
        ("https://user:word@h:80/a@b.wav#part", "https://h:80/a@b.wav"),
        ("https://token@h/a.wav", "https://h/a.wav"),
        ("s3://key:secret@bucket/a.wav?versionId=3", "s3://bucket/a.wav"),
        ("s3://bucket/what?.wav", "s3://bucket/what?.wav"),
        ("abfs://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("sftp://me@host/a", "sftp://me@host/a"),
        ("ftp://me:word@host/a", "ftp://host/a"),
        ("zip://a.wav::https://u:p@h/x.zip?sig=1", "zip://a.wav::https://h/x.zip"),
    ],
)
def test_no_credential_is_stored(location: str, public: str) -> None:
    assert public_uri(location) == public


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
