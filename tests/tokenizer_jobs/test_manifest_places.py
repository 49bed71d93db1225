"""Laws of the places that manifests name: ids are unique and stable, and lead to the bytes."""

import gzip
import os
import uuid
from pathlib import Path

import fsspec
import pytest

from tests.tokenizer_jobs.manifests import CLIP, NEMO, ids, items, jsonl, listing, put, refusal
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import plan_units
from tokenizer_jobs.source_config import ManifestSource
from tokenizer_jobs.sources import make_source
from tokenizer_jobs.sources.manifest.places import private_location


def test_paths_are_relative_to_the_manifest_or_the_root(tmp_path: Path) -> None:
    lines = jsonl(
        {"path": "a.wav"},
        {"path": "./x/../b.wav"},
        {"path": "../up.wav"},
        {"path": "/else/c.wav"},
        {"path": f"file://{tmp_path}/lists/50%25%20off.wav"},
        {"path": "s3://bucket/d.wav"},
    )
    manifest = put(tmp_path / "lists/m.jsonl", lines)
    uris = {item.id: item.source_uri for item in items(manifest)}
    assert uris == {
        "a.wav": f"{tmp_path}/lists/a.wav",
        "b.wav": f"{tmp_path}/lists/b.wav",
        f"{tmp_path}/up.wav": f"{tmp_path}/up.wav",
        "/else/c.wav": "/else/c.wav",
        "50% off.wav": f"{tmp_path}/lists/50% off.wav",
        "bucket/d.wav": "s3://bucket/d.wav",
    }
    rooted = {item.id: item.source_uri for item in items(manifest, root=str(tmp_path / "else/.."))}
    assert rooted["a.wav"] == f"{tmp_path}/a.wav"
    assert rooted["lists/50% off.wav"] == f"{tmp_path}/lists/50% off.wav"
    remote = {item.id: item.source_uri for item in items(manifest, root="s3://bucket/audio/")}
    assert remote["a.wav"] == "s3://bucket/audio/a.wav"
    assert remote["bucket/up.wav"] == "s3://bucket/up.wav"
    assert remote["/else/c.wav"] == "/else/c.wav"


def test_two_dots_lead_where_the_file_system_leads(tmp_path: Path) -> None:
    put(tmp_path / "real/audio/a.wav", CLIP)
    put(tmp_path / "real/lists/m.jsonl", jsonl({"path": "../audio/a.wav"}))
    (tmp_path / "lists").symlink_to(tmp_path / "real/lists")
    found = listing(tmp_path / "lists/m.jsonl")
    assert found.num_missing == 0
    assert found.items[0].source_uri == str(tmp_path / "real/audio/a.wav")


def test_ids_of_several_manifests_never_collide_and_stay_when_manifests_are_added(tmp_path: Path) -> None:
    paths = [tmp_path / "en/m.jsonl", tmp_path / "de/m.csv", tmp_path / "x/en/m.tsv"]
    put(paths[0], jsonl({"path": "a.wav"}))
    put(paths[1], "path\na.wav\n")
    put(paths[2], "path\ta\na.wav\t1\n")
    assert ids(*paths) == ["a.wav", "de//a.wav", "en//a.wav"]
    for count in range(1, 3):
        assert set(ids(*paths[:count])) < set(ids(*paths[: count + 1]))
    assert ids(tmp_path) == ["de/a.wav", "en/a.wav", "x/en/a.wav"]
    assert ids(tmp_path / "*/m.*") == ["de/a.wav", "en/a.wav"]


def test_a_folder_gives_its_manifests_and_counts_the_rest(tmp_path: Path) -> None:
    put(tmp_path / "b.jsonl", jsonl({"path": "2.wav"}))
    put(tmp_path / "a.csv.gz", gzip.compress(b"path\n1.wav\n"))
    put(tmp_path / "sub/c.tsv", "path\t\n3.wav\t0\n")  # a column without a name, as pandas writes its index
    put(tmp_path / "empty.ndjson", "")
    put(tmp_path / "1.json", '{"made": "by us"}')
    put(tmp_path / "audio.tar.gz", b"")
    put(tmp_path / "1.wav", CLIP)
    found = listing(tmp_path)
    assert [item.id for item in found.items] == ["1.wav", "2.wav", "sub/3.wav"]
    assert found.skipped == {"not a manifest's extension": 3, "manifest without lines": 1}
    assert len(found.user_schema) == 0
    put(tmp_path / "json/list.json", jsonl({"path": "4.wav"}))
    assert ids(tmp_path / "json/*.json") == ["4.wav"]
    assert ids(tmp_path / "json/list.json") == ["4.wav"]
    assert "no manifest" in refusal(tmp_path / "json")


def test_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.wav")
    put(tmp_path / name, CLIP)
    source = make_source(ManifestSource(paths=(str(put(tmp_path / "m.jsonl", jsonl({"path": name}))),)))
    found = source.list()
    (item,) = found.items
    assert (item.id, found.num_missing) == ("%FF.wav", 0)
    assert item.source_uri.startswith("file:///")
    with source.open(item) as file:
        assert file.read() == CLIP


def test_a_manifest_behind_a_url(tmp_path: Path) -> None:
    bucket = f"memory://{uuid.uuid4().hex}"
    lines = jsonl({"path": "../audio/a.wav", "text": "hi"}, {"path": f"{bucket}/audio/b.wav"}, {"path": "/c.wav"})
    with fsspec.open(f"{bucket}/lists/m.jsonl.gz", "wb") as file:
        file.write(gzip.compress(lines.encode()))
    with fsspec.open(f"{bucket}/audio/a.wav", "wb") as file:
        file.write(CLIP)
    source = make_source(ManifestSource(paths=(f"{bucket}/lists/m.jsonl.gz",)))
    found = source.list()
    name = bucket.removeprefix("memory://")
    assert [item.id for item in found.items] == ["/c.wav", f"{name}/audio/a.wav", f"{name}/audio/b.wav"]
    assert found.num_missing == 1  # remote ones are not asked for
    a = found.items[1]
    assert (a.source_size, a.source_etag) == (None, None)
    with source.open(a) as file:
        assert file.read() == CLIP
    with pytest.raises(FileNotFoundError):
        source.open(found.items[2])
    assert ids(f"{bucket}/lists", root=f"{bucket}/audio") == ["/c.wav", "a.wav", "b.wav"]


@pytest.mark.parametrize(
    ("uri", "given", "expected"),
    [
        ("https://h/data/a.wav", "https://h/data?sig=1&x=2", "https://h/data/a.wav?sig=1&x=2"),
        ("https://h/data/b/a.wav", "https://u:pw@h/data/", "https://u:pw@h/data/b/a.wav"),
        ("https://h/other/a.wav", "https://h/data?sig=1", "https://h/other/a.wav"),
        ("https://h/database/a.wav", "https://h/data?sig=1", "https://h/database/a.wav"),
        ("s3://bucket/a.wav", "s3://bucket", "s3://bucket/a.wav"),
        ("/data/a.wav", "/data", "/data/a.wav"),
    ],
)
def test_a_root_that_holds_secrets_opens_what_is_below_it(uri: str, given: str, expected: str) -> None:
    assert private_location(uri, [given]) == expected


def test_cuts_of_one_recording_are_items_of_their_own_and_neighbours(tmp_path: Path) -> None:
    put(tmp_path / "b.wav", CLIP)
    lines = [{"path": "b.wav", "start": n / 8, "duration": 1.0} for n in range(9)]  # they overlap
    found = listing(put(tmp_path / "m.jsonl", jsonl({"path": "a.wav"}, *reversed(lines), {"path": "c.wav"})))
    assert [item.start_seconds for item in found.items] == [None, *(n / 8 for n in range(9)), None]
    assert len({item.id for item in found.items}) == 11
    assert {item.source_etag for item in found.items if item.id.startswith("b")} != {None}
    assert found.num_missing == 2


def test_equal_lines_are_duplicate_ids(tmp_path: Path) -> None:
    found = items(put(tmp_path / "m.jsonl", jsonl(NEMO, NEMO)))
    with pytest.raises(ConfigError, match=r"not unique: 'audio/a\.wav'"):
        list(plan_units(ItemTable.of(found), generation=1, recipe_id="ab", unit_minutes="auto"))


def test_ids_of_the_lines_are_kept(tmp_path: Path) -> None:
    assert ids(put(tmp_path / "m.jsonl", jsonl({"id": 7, "path": "a.wav"}, {"id": "x/y", "path": "a.wav"}))) == [
        "7",
        "x/y",
    ]
    assert ids(put(tmp_path / "m.csv", "id,path\n007,a.wav\n")) == ["007"]
    assert "id" in refusal(put(tmp_path / "n.jsonl", jsonl({"id": 7, "path": "a.wav"}, {"path": "b.wav"})))
    assert ids(put(tmp_path / "o.jsonl", jsonl({"id": None, "path": "a.wav"}))) == ["a.wav"]
