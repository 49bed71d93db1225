"""Laws of archives: every audio member is an item, its bytes come back in any order, and nothing ends in silence."""

import io
import json
import os
import random
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.object_stores import count_reads
from tests.tokenizer_jobs.tar_files import MODES, archive, clip, columns_of, listing, put, read, source_of
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import plan_units
from tokenizer_jobs.sources.archives.braces import expand_braces
from tokenizer_jobs.sources.archives.index import TarIndex


@pytest.mark.parametrize("ending", MODES)
def test_members_come_back_in_any_order_and_again(tmp_path: Path, ending: str) -> None:
    contents = {f"{name}.wav": clip(size) for name, size in (("c", 800), ("a", 90_000), ("b", 8), ("d/e", 1600))}
    path = put(tmp_path / f"x.{ending}", {"readme.txt": b"", **contents})
    source = source_of(path)
    items = list(source.list().items)
    assert [item.id for item in items] == [f"x.{ending}/{name}" for name in sorted(contents)]
    assert [item.source_group for item in items] == [None if ending == "tar" else 0] * 4
    for item in (*items, *items[::-1]):
        assert item.source_member is not None
        assert read(source, item) == contents[item.source_member]
        assert item.source_size == len(contents[item.source_member])


def test_a_member_can_be_read_in_pieces(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(300_000)
    source = source_of(put(tmp_path / "x.tar", {"a.wav": content, "b.wav": content[::-1]}))
    first, _ = source.list().items
    with source.open(first) as file:
        assert file.seek(0, io.SEEK_END) == len(content)
        assert file.read(10) == b""
        for place, size in ((299_990, 50), (0, 4), (4, 100_000), (1, 3), (99_999, 200_001)):
            file.seek(place)
            assert file.read(size) == content[place : place + size]


def test_threads_share_a_source(tmp_path: Path) -> None:
    contents = {f"{number:03}.wav": clip(100 + number) for number in range(40)}
    for name in ("x.tar", "y.tar.gz", "z.tar.gz"):
        put(tmp_path / name, contents)
    source = source_of(tmp_path)
    items = list(source.list().items)
    random.Random(1).shuffle(items)
    with ThreadPoolExecutor(8) as threads:
        read_back = list(threads.map(lambda item: read(source, item), items))
    assert read_back == [contents[str(item.source_member)] for item in items]


def test_a_compressed_archive_stays_in_one_unit(tmp_path: Path) -> None:
    contents = {f"{number:03}.wav": clip() for number in range(20)}
    put(tmp_path / "x.tar", contents)
    put(tmp_path / "y.tar.gz", contents)
    units = list(plan_units(ItemTable.of(listing(tmp_path).items), generation=1, recipe_id="ab", unit_minutes=0.01))
    assert len({unit.index for unit in units for item in unit.items if item.source_uri.endswith("y.tar.gz")}) == 1
    assert len({unit.index for unit in units for item in unit.items if item.source_uri.endswith("x.tar")}) > 2


_WEBDATASET_RULE = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")


@given(st.lists(st.text("ab./", min_size=1, max_size=6), min_size=1, max_size=8, unique=True))
def test_samples_are_those_of_webdataset(names: list[str]) -> None:
    plain = [name for name in names if ".." not in name and "//" not in name and "/." not in name]
    plain = [name for name in plain if name[0] not in "./" and name[-1] not in "./"]
    contents = {f"{name}.wav": b"" for name in plain}
    index = TarIndex(file=io.BytesIO(archive(contents)), is_packed=False, name="x.tar")
    found = [[member.name for member in sample.audio] for sample in index.samples()]
    expected: list[tuple[str, list[str]]] = []
    for name in contents:
        split = _WEBDATASET_RULE.match(name)
        assert split is not None
        if not expected or expected[-1][0] != split[1]:
            expected.append((split[1], []))
        expected[-1][1].append(name)
    assert found == [members for _, members in expected]


def test_every_audio_member_of_a_sample_is_an_item_with_its_columns(tmp_path: Path) -> None:
    members = {
        "v1.0/a.left.wav": clip(),
        "v1.0/a.JSON": b'{"speaker": "x"}',
        "v1.0/a.right.WAV": clip(),
        "v1.0/b.txt": b"hello\n",
        "v1.0/b.flac": clip(),
        "v1.0/b.cls": b" 7\n",
        "v1.0/b.jpg": b"",
        "v1.0/c.json": b"not read, for no audio is beside it",
        "noextension": b"",
        ".hidden": b"",
    }
    found = listing(put(tmp_path / "x.tar", members))
    nothing: dict[str, object] = {"cls": None, "speaker": None, "txt": None}
    assert columns_of(found) == {
        "x.tar/v1.0/a.left.wav": nothing | {"speaker": "x"},
        "x.tar/v1.0/a.right.WAV": nothing | {"speaker": "x"},
        "x.tar/v1.0/b.flac": nothing | {"txt": "hello\n", "cls": 7},
    }
    assert found.skipped == {"archive member of another kind": 3, "archive member without audio beside it": 1}


def test_a_column_has_one_type_over_all_archives(tmp_path: Path) -> None:
    values: list[dict[str, Any]] = [
        {"n": 1, "deep": {"a": [1]}, "none": None},
        {"n": 2.5, "deep": {"a": [], "b": "x"}},
        {"deep": None},
    ]
    for number, value in enumerate(values):
        put(tmp_path / f"{number}.tar", {"a.wav": clip(), "a.json": json.dumps(value | {"empty": {}}).encode()})
    found = listing(tmp_path)
    assert found.user_schema == pa.schema(
        [
            ("deep", pa.struct([("a", pa.list_(pa.int64())), ("b", pa.string())])),
            ("empty", pa.string()),
            ("n", pa.float64()),
            ("none", pa.string()),
        ]
    )
    assert columns_of(found)["0.tar/a.wav"] == {"deep": {"a": [1], "b": None}, "empty": None, "n": 1.0, "none": None}


@pytest.mark.parametrize(("one", "other"), [('"x"', "1"), ("true", "0"), ("[1]", "{}x"), ("[1, 2]", '[["x"]]')])
def test_values_of_two_types_are_refused_by_both_their_names(tmp_path: Path, one: str, other: str) -> None:
    other = '{"k": 1}' if other == "{}x" else other
    put(tmp_path / "1.tar", {"a.wav": clip(), "a.json": b'{"n": %b}' % one.encode()})
    put(tmp_path / "2.tar", {"b.wav": clip(), "b.json": b'{"n": %b}' % other.encode()})
    with pytest.raises(ConfigError, match="'n'") as caught:
        listing(tmp_path)
    assert f"{tmp_path}/1.tar#a.json" in str(caught.value)
    assert f"{tmp_path}/2.tar#b.json" in str(caught.value)
    assert columns_of(listing(tmp_path, columns=[])) == {"1.tar/a.wav": {}, "2.tar/b.wav": {}}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b'{"n": 1', "a JSON object"),
        ("a.json", b"[1]", "a JSON object"),
        ("a.json", b"[" * 100_000, "a JSON object"),
        ("a.json", b'{"n": "\\ud800"}', "a JSON object"),
        ("a.json", b'{"n": 36893488147419103232}', "64 bits"),
        ("a.txt", b"\xff", "UTF-8"),
        ("a.cls", b"dog", "an integer"),
    ],
)
def test_a_sidecar_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = put(tmp_path / "x.tar", {"a.wav": clip(), name: content})
    with pytest.raises(ConfigError, match=expected) as caught:
        listing(path)
    assert f"{path}#{name}" in str(caught.value)
    assert len(listing(path, columns=[]).items) == 1


def test_columns_choose(tmp_path: Path) -> None:
    members = {"a.wav": clip(), "a.json": b'{"n": 1, "txt": "of the JSON"}', "a.txt": b"of the file"}
    path = put(tmp_path / "x.tar", members)
    with pytest.raises(ConfigError, match="'txt' comes from two"):
        listing(path)
    assert columns_of(listing(path, columns=["txt"])) == {"x.tar/a.wav": {"txt": "of the file"}}
    with pytest.raises(ConfigError, match="no file beside the audio has m"):
        listing(path, columns=["m"])


def test_names_become_ids(tmp_path: Path) -> None:
    names = ["./a.wav", "/abs/b.wav", "c//d.wav", "ü\n%41.wav", os.fsdecode(b"\xff.wav"), "x" * 300 + ".wav"]
    put(tmp_path / "x.tar", {name: clip() for name in names})
    source = source_of(tmp_path)
    items = source.list().items
    ids = ["a.wav", "abs/b.wav", "c/d.wav", "ü\n%2541.wav", "%FF.wav", "x" * 300 + ".wav"]
    assert sorted(item.id for item in items) == sorted(f"x.tar/{name}" for name in ids)
    assert all(read(source, item) == clip() for item in items)


@pytest.mark.parametrize(("name", "why"), [("../a.wav", "leads out"), ("./b.wav", "twice"), ("b.json", "twice")])
def test_names_that_cannot_be_ids_are_refused(tmp_path: Path, name: str, why: str) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for each in ("b.wav", "b.json", "c.wav", name):
            facts = tarfile.TarInfo(each)
            facts.size = 2
            file.addfile(facts, io.BytesIO(b"{}"))
    (tmp_path / "x.tar").write_bytes(content.getvalue())
    with pytest.raises(ConfigError, match=why) as caught:
        listing(tmp_path / "x.tar")
    assert str(tmp_path / "x.tar") in str(caught.value)


def test_what_is_no_file_in_an_archive_is_counted(tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as file:
        for name, kind in (("a.wav", tarfile.SYMTYPE), ("b.wav", tarfile.LNKTYPE), ("c.wav", tarfile.FIFOTYPE)):
            facts = tarfile.TarInfo(name)
            facts.type, facts.linkname = kind, "real.wav"
            file.addfile(facts)
        folder = tarfile.TarInfo("folder.wav")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        for name, headers in (("real.wav", {}), ("sparse.wav", {"GNU.sparse.map": "0,4", "GNU.sparse.size": "9"})):
            facts = tarfile.TarInfo(name)
            facts.size, facts.pax_headers = 4, headers
            file.addfile(facts, io.BytesIO(b"RIFF"))
    (tmp_path / "x.tar").write_bytes(content.getvalue())
    found = listing(tmp_path)
    assert [item.id for item in found.items] == ["x.tar/real.wav"]
    assert found.skipped == {"archive member: link": 2, "archive member: special": 1, "archive member: sparse": 1}


def test_archives_without_audio_are_a_refusal(tmp_path: Path) -> None:
    put(tmp_path / "x.tar", {"a.txt": b""})
    with pytest.raises(ConfigError, match="no audio in the archives") as caught:
        listing(tmp_path)
    assert "without audio beside it: 1" in str(caught.value)


def test_an_archive_without_permission_is_counted(unprivileged: Path) -> None:
    put(unprivileged / "x.tar", {"a.wav": clip()})
    put(unprivileged / "y.tar", {"a.wav": clip()}).chmod(0)
    found = listing(unprivileged)
    assert [item.id for item in found.items] == ["x.tar/a.wav"]
    assert found.skipped == {"archive without permission": 1}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("s-{08..11}.tar", ["s-08.tar", "s-09.tar", "s-10.tar", "s-11.tar"]),
        ("s-{9..10}.tar", ["s-9.tar", "s-10.tar"]),
        ("{en,de}/{1..2}.tar", ["en/1.tar", "en/2.tar", "de/1.tar", "de/2.tar"]),
        ("s3://b/{0..1}.tar?sig={x}", ["s3://b/0.tar?sig={x}", "s3://b/1.tar?sig={x}"]),
        ("plain{}.tar", ["plain{}.tar"]),
    ],
)
def test_braces_are_written_out(path: str, expected: list[str]) -> None:
    assert list(expand_braces([path])) == expected


def test_braces_and_globs_find_archives(tmp_path: Path) -> None:
    for number in range(8, 12):
        put(tmp_path / f"s-{number:02}.tar", {"a.wav": clip()})
    assert len(listing(f"{tmp_path}/s-{{08..11}}.tar").items) == 4
    assert [item.id for item in listing(f"{tmp_path}/s-1*.tar").items] == ["s-10.tar/a.wav", "s-11.tar/a.wav"]
    with pytest.raises(ConfigError, match=r"s-12\.tar"):
        listing(f"{tmp_path}/s-{{11..12}}.tar")
    (tmp_path / "t-{1..2}.tar").write_bytes(archive({"a.wav": clip()}))
    assert [item.id for item in listing(f"{tmp_path}/t-{{1..2}}.tar").items] == ["t-{1..2}.tar/a.wav"]


def test_archives_behind_urls_are_read() -> None:
    system = fsspec.filesystem("memory")
    for ending in MODES:
        content = archive({"b.wav": clip(), "a.wav": clip(900), "a.txt": b"x"}, ending=ending)
        system.pipe_file(f"/tars/{MODES[ending]}/x.{ending}", content)
        source = source_of(f"memory://tars/{MODES[ending]}")
        items = source.list().items
        assert [item.id for item in items] == [f"x.{ending}/a.wav", f"x.{ending}/b.wav"]
        assert [read(source, item) for item in items] == [clip(900), clip()]


def test_a_large_archive_on_a_store_is_not_read_to_be_listed(
    object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": object_store, "key": "anyone", "secret": "anything"})
    large = {
        f"{number:02}.{end}": bytes(2 << 20) if end == "wav" else b"{}"
        for number in range(8)
        for end in ("wav", "json")
    }
    small = {f"{number:04}.wav": bytes(1000) for number in range(4000)}
    for name, members, most_requests, most_share in (("large", large, 10, 0.02), ("small", small, 20, 1.01)):
        content = archive(members)
        fsspec.filesystem("s3").pipe_file(f"bucket/{name}/x.tar", content)
        source = source_of(f"s3://bucket/{name}/x.tar")
        with count_reads(monkeypatch) as sizes:
            items = source.list().items
        assert len(sizes) <= most_requests
        assert sum(sizes) <= most_share * len(content)
        with count_reads(monkeypatch) as sizes:
            assert read(source, items[3]) == bytes(items[3].source_size or 0)
        assert len(sizes) <= 2  # one tells whether the archive is compressed
