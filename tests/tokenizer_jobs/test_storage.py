"""Laws of the storage, for a local folder and for one behind fsspec."""

import json
import pickle
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tests.forked import run_forked
from tokenizer_jobs.errors import ConfigError, IntegrityError
from tokenizer_jobs.liveness import Owner
from tokenizer_jobs.storage import (
    STAGING_FOLDER,
    Storage,
    public_uri,
)
from tokenizer_jobs.storage.outputs import staged_by_the_dead


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


RACE = """
storage, name = Storage.at(sys.argv[1]), int(sys.argv[2])
time.sleep(max(0.0, start - time.time()))
won = [storage.put_if_absent(f"race/{number}", bytes([65 + name]) * 1000) for number in range(20)]
Path(sys.argv[3]).write_text(json.dumps(won))
"""


def test_racing_processes_have_one_winner(tmp_path: Path) -> None:
    imports = (
        "import json, sys, time; from pathlib import Path; from tokenizer_jobs.storage import Storage\n"
        "start = time.time() + 0.5"
    )
    results = [tmp_path / f"won-{name}.json" for name in range(8)]
    calls = [(str(tmp_path), str(name), str(result)) for name, result in enumerate(results)]
    assert run_forked(imports, RACE, calls) == [0] * 8
    won = {name: json.loads(result.read_text()) for name, result in enumerate(results)}
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
    body = textwrap.dedent(f"""
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
    imports = "import os, pathlib, signal, sys; from tokenizer_jobs.storage import Storage, local"
    names = ("put", "replace", "publish")
    ended = run_forked(imports, body, [(str(tmp_path), name) for name in names])
    for name, exit_code, expected in zip(names, ended, KILLED_AT[step], strict=True):
        assert exit_code in (-signal.SIGKILL, 0)
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
