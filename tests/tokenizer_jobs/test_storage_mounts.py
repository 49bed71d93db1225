"""What network mounts and file systems without hard links do to publishing: lost replies, stale handles, no links."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from tokenizer_jobs.storage import Storage, naming


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    return Storage.open(tmp_path / "out")


def test_a_link_whose_reply_was_lost_is_ours(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def done_and_said_to_be_taken(source: Any, target: Any) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", done_and_said_to_be_taken)
    assert output.put_if_absent("a.json", b"ours")
    assert not output.put_if_absent("a.json", b"theirs")
    assert output.read_bytes("a.json") == b"ours"


def test_a_rename_whose_reply_was_lost_is_done(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def done_and_said_to_be_gone(self: Path, target: Any) -> Path:
        replace(self, target)
        raise FileNotFoundError(errno.ENOENT, "No such file")

    monkeypatch.setattr(Path, "replace", done_and_said_to_be_gone)
    output.replace("a.json", b"new")
    assert output.read_bytes("a.json") == b"new"


@pytest.mark.parametrize("has_condition", [True, False])
def test_without_hard_links_the_first_stays(
    has_condition: bool, output: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    if not has_condition:
        monkeypatch.setattr(naming, "_renameat2", lambda: None)
    assert output.put_if_absent("a.json", b"first")
    assert not output.put_if_absent("a.json", b"second")
    assert output.read_bytes("a.json") == b"first"


def test_without_hard_links_a_name_taken_after_the_look_stays(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    if naming._renameat2() is None:
        pytest.skip("this system has no renameat2")

    def take_the_name_and_refuse(_source: Any, target: Any) -> None:
        Path(target).write_bytes(b"first")
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", take_the_name_and_refuse)
    assert not output.put_if_absent("a.json", b"second")
    assert output.read_bytes("a.json") == b"first"


def test_a_stale_handle_is_opened_again(output: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    output.replace("a.json", b"new")
    read, failures = Path.read_bytes, [OSError(errno.ESTALE, "Stale file handle")]

    def stale_once(self: Path) -> bytes:
        if failures:
            raise failures.pop()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", stale_once)
    assert output.read_bytes("a.json") == b"new"


def test_what_nfs_keeps_of_removed_files_is_not_listed(output: Storage) -> None:
    output.replace("codes/a", b"")
    output.replace("codes/.nfs000000000042", b"")
    assert [file.path for file in output.list("codes")] == ["codes/a"]
