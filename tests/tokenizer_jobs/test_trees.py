"""Laws of listing a remote tree: everything once, as fsspec's own `find` has it, whatever is shared out."""

from collections.abc import Iterator

import fsspec
import pytest

from tokenizer_jobs.storage import SkippedEntry, SourceFile, list_source_files, trees

ROOT = "/tree-of-trees"


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    for path in (f"{a}/{b}/{c}.wav" for a in "abc" for b in "xyz" for c in range(4)):
        system.pipe_file(f"{ROOT}/{path}", b"1")
    system.pipe_file(f"{ROOT}/top.wav", b"12")
    yield system
    system.rm(ROOT, recursive=True)


@pytest.mark.parametrize("enough", [1, 2, 5, 1000])
@pytest.mark.parametrize("listers", [1, 2, 16])
def test_every_file_and_folder_once(
    memory: fsspec.AbstractFileSystem, enough: int, listers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "ENOUGH_FOLDERS", enough)
    monkeypatch.setattr(trees, "LISTERS", listers)
    found = list(list_source_files(f"memory://{ROOT}"))
    files = [entry.uri for entry in found if isinstance(entry, SourceFile)]
    folders = [entry.uri for entry in found if isinstance(entry, SkippedEntry)]
    expected = memory.find(ROOT, detail=True, withdirs=True)
    assert sorted(files) == sorted(f"memory://{name}" for name, info in expected.items() if info["type"] == "file")
    assert sorted(folders) == sorted(
        f"memory://{name}" for name, info in expected.items() if info["type"] == "directory" and name != ROOT
    )


def test_a_folder_that_may_not_be_read_is_skipped_and_told(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(memory).ls

    def ls(self: fsspec.AbstractFileSystem, path: str, **options: object) -> object:
        if path.rstrip("/").endswith("/b"):
            raise PermissionError(path)
        return real(self, path, **options)

    monkeypatch.setattr(type(memory), "ls", ls)
    found = list(list_source_files(f"memory://{ROOT}"))
    assert not any("/b/" in entry.uri for entry in found)
    told = [entry.uri for entry in found if isinstance(entry, SkippedEntry) and entry.kind.endswith("permission")]
    assert told == [f"memory://{ROOT}/b"]
