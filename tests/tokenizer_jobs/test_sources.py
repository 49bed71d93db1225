"""Laws of the sources: ids are unique and stable, no folder breaks a listing, open gives what was listed."""

import os
import pickle
import socket
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.clips import encode, speechlike
from tokenizer_jobs.decode import AudioTarget, decode_items
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import PlanFacts, plan_units, read_units, write_plan
from tokenizer_jobs.records import DecodedItem, Item
from tokenizer_jobs.source_config import DemoSource, FilesSource, PluginSource
from tokenizer_jobs.sources import Listing, make_source, probe
from tokenizer_jobs.sources.files import id_from_path, path_from_id
from tokenizer_jobs.storage import Storage

CLIP = encode(speechlike(1600), container="WAV", coding="PCM_16")


def put(root: Path, *names: str, content: bytes = CLIP) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def listing(*paths: Path | str, pattern: str | None = None) -> Listing:
    return make_source(FilesSource(paths=tuple(map(str, paths)), pattern=pattern)).list()


def ids(*paths: Path | str, pattern: str | None = None) -> list[str]:
    return sorted(item.id for item in listing(*paths, pattern=pattern).items)


def test_ids_are_paths_below_the_root(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b/a.wav", "b/c/ü\n1.WAV", "song [1].flac", "50% off.ogg")
    found = listing(tmp_path)
    assert [item.source_uri for item in found.items] == sorted(item.source_uri for item in found.items)
    assert ids(tmp_path) == ["50% off.ogg", "a.wav", "b/a.wav", "b/c/ü\n1.WAV", "song [1].flac"]
    assert {item.source_uri for item in found.items} == {str(tmp_path / item.id) for item in found.items}
    assert all(item.source_size == len(CLIP) and item.source_etag for item in found.items)


def test_same_named_files_of_several_roots_never_collide(tmp_path: Path) -> None:
    put(tmp_path, "x/en/a.wav", "y/en/a.wav", "z/a.wav", "x/en/en/a.wav", "w/en//a.wav")
    roots = [tmp_path / "x/en", tmp_path / "y/en", tmp_path / "z", tmp_path / "w"]
    for count in range(1, len(roots) + 1):
        found = ids(*roots[:count])
        assert len(set(found)) == len(found)
        assert set(ids(*roots[:1])) <= set(found)
        assert set(ids(*roots[: count - 1] or roots[:1])) <= set(found)  # roots added at the end change no id
    assert ids(*roots) == ["a.wav", "en//a.wav", "en/a.wav", "w//en/a.wav", "z//a.wav"]


def test_a_file_reached_twice_is_one_item(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b/c.wav")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    overlapping = [tmp_path, tmp_path / "b", tmp_path / "b/c.wav", tmp_path / "*.wav", tmp_path / "b/../a.wav"]
    assert ids(*overlapping, tmp_path / "link") == ["a.wav", "b/c.wav"]


def test_single_files_and_globs(tmp_path: Path) -> None:
    put(tmp_path, "a/1.wav", "a/2.wav", "b/1.wav", "a/odd.dat")
    assert ids(tmp_path / "a/1.wav") == ["1.wav"]
    assert ids(tmp_path / "a/1.wav", tmp_path / "a/2.wav", tmp_path / "b/1.wav") == ["1.wav", "2.wav", "b//1.wav"]
    assert ids(tmp_path / "a/odd.dat") == ["odd.dat"]  # named outright, so it is meant
    assert ids(tmp_path / "*/1.wav") == ["a/1.wav", "b/1.wav"]
    assert ids(tmp_path / "**/*.wav") == ["a/1.wav", "a/2.wav", "b/1.wav"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.wav", ["1.wav", "a/2.wav", "a/b/3.wav"]),
        ("*.wav", ["1.wav"]),
        ("a/**", ["a/2.wav", "a/b/3.wav", "a/x.dat"]),
        ("a/?.wav", ["a/2.wav"]),
        ("**/[!12].*", ["a/b/3.wav", "a/x.dat"]),
        ("**/*.dat", ["a/x.dat"]),
    ],
)
def test_a_pattern_is_a_glob_below_the_folder(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    put(tmp_path, "1.wav", "a/2.wav", "a/b/3.wav", "a/x.dat")
    assert ids(tmp_path, pattern=pattern) == expected
    assert listing(tmp_path, pattern=pattern).skipped == (
        {"does not match the pattern": 4 - len(expected)} if len(expected) < 4 else {}
    )


def test_what_is_no_audio_file_is_counted(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "folder.wav/b.wav", "plain/c.wav")
    put(tmp_path, "readme.txt", "a.wav.md5", content=b"")
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nowhere")
    os.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.wav")  # relative: the path of a socket may be 107 bytes
        found = listing(tmp_path)
    assert sorted(item.id for item in found.items) == ["a.wav", "folder.wav/b.wav", "plain/c.wav"]
    assert found.skipped == {
        "not an audio extension": 2,
        "folder named like audio": 1,
        "fifo": 1,
        "socket": 1,
        "broken link": 1,
        "link to a listed folder": 1,
    }


def test_folders_that_may_not_be_read_are_counted(unprivileged: Path) -> None:
    put(unprivileged, "a.wav", "closed/b.wav")
    (unprivileged / "closed").chmod(0)
    assert listing(unprivileged).skipped == {"folder without permission": 1}


@pytest.mark.parametrize("name", ["missing", "missing/*.wav", "empty", "*.flac"])
def test_a_path_without_items_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    put(tmp_path, "good/a.wav")
    with pytest.raises(ConfigError, match=r"does not exist|nothing found") as caught:
        listing(tmp_path / "good", tmp_path / name)
    assert name.split("/")[0] in str(caught.value)


names = st.binary(min_size=1, max_size=12).map(os.fsdecode)


@given(names, names)
def test_ids_of_any_bytes_are_text_unique_and_reversible(one: str, other: str) -> None:
    assert path_from_id(id_from_path(one)) == one
    assert (id_from_path(one) == id_from_path(other)) == (one == other)
    id_from_path(one).encode()


@given(st.text(alphabet="%25Ff\udcff/", max_size=8), st.text(alphabet="%25Ff\udcff/", max_size=8))
def test_ids_of_percent_signs_are_unique(one: str, other: str) -> None:
    assert path_from_id(id_from_path(one)) == one
    assert (id_from_path(one) == id_from_path(other)) == (one == other)


def test_a_name_that_is_not_utf8_is_planned_stored_and_opened(tmp_path: Path) -> None:
    root = tmp_path / "audio"
    put(root, os.fsdecode(b"\xff\n\xe9.wav"), "%FF%0A%E9.wav", "plain.wav")
    source = make_source(FilesSource(paths=(str(root),)))
    found = source.list()
    storage = Storage.open(str(tmp_path / "out"))
    units = list(plan_units(ItemTable.of(found.items), generation=1, recipe_id="ab", unit_minutes="auto"))
    write_plan(storage, units, facts=PlanFacts(generation=1, recipe_id="ab", selection={}))
    stored = [item for unit in read_units(storage, 1) for item in unit.items]
    assert sorted(item.id for item in stored) == ["%25FF%250A%25E9.wav", "%FF\n%E9.wav", "plain.wav"]
    for item in stored:
        with source.open(item) as file:
            assert file.read() == CLIP
        assert probe(source, item) is not None


def test_open_refuses_what_has_changed(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    source = make_source(FilesSource(paths=(str(tmp_path),)))
    changed, gone = source.list().items
    os.utime(changed.source_uri, ns=(1, 1))
    with pytest.raises(ItemError) as caught:
        source.open(changed)
    assert caught.value.reason is RejectReason.CHANGED
    assert "write to a new output" in caught.value.message
    assert "--replace" not in caught.value.message
    (tmp_path / "b.wav").unlink()
    os.mkfifo(tmp_path / "b.wav")
    target = AudioTarget(sample_rate=16000, channels=1)
    decoded = list(decode_items([(0, changed), (1, gone)], source=source, target=target))
    assert [getattr(item, "reason", None) for item in decoded] == [RejectReason.CHANGED, RejectReason.UNREADABLE]
    (tmp_path / "b.wav").unlink()
    (vanished,) = decode_items([(0, gone)], source=source, target=target)
    assert getattr(vanished, "reason", None) is RejectReason.VANISHED


def test_estimates_come_from_headers_or_sizes(tmp_path: Path) -> None:
    put(tmp_path, "a.wav", "b.wav")
    put(tmp_path, "c.mp3", content=bytes(32_000))
    put(tmp_path, "d.wav", content=CLIP[:40] + b"\xf0\xff\xff\x7f" + CLIP[44:])
    seconds = {item.id: item.estimated_seconds for item in listing(tmp_path).items}
    assert seconds["a.wav"] == seconds["b.wav"] == pytest.approx(0.1)
    assert seconds["c.mp3"] == 2.0
    assert seconds["d.wav"] <= len(CLIP)  # a lying header cannot make a unit of its own


def test_probe_says_what_the_header_says(tmp_path: Path) -> None:
    put(tmp_path, "a.wav")
    put(tmp_path, "b.wav", content=b"<html>")
    source = make_source(FilesSource(paths=(str(tmp_path),)))
    good, bad = source.list().items
    facts = probe(source, good)
    assert facts is not None
    assert (facts.format, facts.sample_rate, facts.channels, facts.seconds) == ("WAV/PCM_16", 16000, 1, 0.1)
    assert probe(source, bad) is None
    assert probe(source, Item(id="x", source_uri=str(tmp_path / "gone.wav"))) is None


def test_urls_are_listed_and_opened_like_folders() -> None:
    system = fsspec.filesystem("memory")
    for name in ("/bucket/audio/a.wav", "/bucket/audio/sub/a.wav", "/bucket/more/a.wav", "/bucket/audio/notes.txt"):
        system.pipe_file(name, CLIP)
    source = make_source(FilesSource(paths=("memory://bucket/audio", "memory://bucket/more/")))
    found = source.list()
    assert sorted(item.id for item in found.items) == ["a.wav", "more//a.wav", "sub/a.wav"]
    assert found.skipped == {"not an audio extension": 1}
    decoded = decode_items(
        list(enumerate(found.items)), source=source, target=AudioTarget(sample_rate=16000, channels=1)
    )
    assert all(isinstance(item, DecodedItem) for item in decoded)


def test_the_demo_needs_nothing_and_is_the_same_everywhere() -> None:
    source = make_source(DemoSource())
    found = source.list()
    assert 24 <= len(found.items) <= 48
    assert 45 < sum(item.estimated_seconds for item in found.items) < 90
    assert len({item.id for item in found.items}) == len(found.items)
    assert {"tone-440-wav", "tone-440-flac", "tone-440-ogg", "tone-440-mp3"} <= {item.id for item in found.items}
    elsewhere = pickle.loads(pickle.dumps(make_source(DemoSource())))
    target = AudioTarget(sample_rate=24000, channels=1)
    for item in found.items:
        here, there = (next(decode_items([(0, item)], source=each, target=target)) for each in (source, elsewhere))
        assert isinstance(here, DecodedItem)
        assert isinstance(there, DecodedItem)
        np.testing.assert_array_equal(here.waveform, there.waveform)
        assert here.facts.duration_seconds == pytest.approx(item.estimated_seconds, abs=1e-3)
        assert here.facts.peak <= 1.0
    assert source.list() == found


class OneClip:
    """A source of one's own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def list(self) -> Listing:
        return Listing(items=(Item(id=self.name, source_uri=self.name),), skipped={})


def test_a_source_of_ones_own_gets_its_keys() -> None:
    config = PluginSource.model_validate({"kind": f"{__name__}:OneClip", "name": "x"})
    assert [item.id for item in make_source(config).list().items] == ["x"]
