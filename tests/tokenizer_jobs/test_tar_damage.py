"""Archives that are cut, damaged, gone or no archives: what is whole comes back, and the rest is told."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.tar_files import MODES, archive, clip, listing, put, read, source_of
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.sources.archives.index import TarIndex

CUT = {f"{number}.{end}": content for number in range(6) for end, content in (("wav", clip()), ("json", b'{"n": 1}'))}


@pytest.mark.parametrize("ending", MODES)
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), at_block=st.booleans())
def test_of_a_cut_archive_the_beginning_is_there_and_the_cut_is_told(
    tmp_path_factory: pytest.TempPathFactory, ending: str, share: float, at_block: bool
) -> None:
    whole = archive(CUT, ending=ending)
    size = int(share * len(whole))
    size -= size % 512 if at_block else 0
    folder = tmp_path_factory.mktemp("cut")
    path = folder / f"x.{ending}"
    path.write_bytes(whole[:size])
    put(folder / "clean.tar", {"a.wav": clip()})
    source = source_of(folder)
    found = source.list()
    items = [item for item in found.items if item.source_uri == str(path)]
    if ending == "tar":
        places = [item.source_row for item in ItemTable.of(source_items(whole)) if (item.source_row or 0) <= size]
        assert [item.source_row for item in items] == places
        is_told = size >= len(whole) - 10_240 and bytes(512) in whole[size - 512 : size]
    else:
        is_told = False
    faults = {"truncated archive", "file that is no archive", "damaged archive"} & found.skipped.keys()
    assert bool(faults) or is_told
    for item in items:
        try:
            assert read(source, item) == clip()
        except ItemError as error:
            assert error.reason is RejectReason.TRUNCATED  # noqa: PT017  # either is right
            assert (item.source_row or 0) + len(clip()) > size or ending != "tar"


def source_items(content: bytes) -> list[Item]:
    index = TarIndex(file=io.BytesIO(content), is_packed=False, name="x")
    return [
        Item(id=member.name, source_uri="x", source_member=member.name, source_row=member.offset)
        for sample in index.samples()
        for member in sample.audio
    ]


@pytest.mark.parametrize("ending", MODES)
@settings(max_examples=60, deadline=None)
@given(flips=st.lists(st.tuples(st.integers(0, 1 << 30), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_is_never_more_than_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, ending: str, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(archive(CUT, ending=ending))
    for place, value in flips:
        content[place % len(content)] ^= value
    path = tmp_path_factory.mktemp("flips") / f"x.{ending}"
    path.write_bytes(content)
    source = source_of(path)
    try:
        found = source.list()
    except ConfigError:
        return
    for item in found.items:
        try:
            assert len(read(source, item)) == item.source_size
        except ItemError as error:
            assert error.reason in (RejectReason.TRUNCATED, RejectReason.CORRUPT)  # noqa: PT017  # either is right


def test_a_damaged_header_and_what_is_no_archive_are_counted(tmp_path: Path) -> None:
    content = bytearray(archive(CUT))
    place = content.index(b"3.wav")
    content[place] ^= 1
    (tmp_path / "damaged.tar").write_bytes(content)
    (tmp_path / "page.tar").write_bytes(b"<html>" * 500)
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "two.tar").write_bytes(archive(CUT) + archive({"later.wav": clip()}))
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "notes.json.gz").write_bytes(b"")
    found = listing(tmp_path)
    assert len(found.items) == 3 + 6
    assert found.skipped == {
        "damaged archive": 1,
        "file that is no archive": 2,
        "data behind the end of an archive": 1,
        "not the extension of an archive": 2,
    }


def test_a_negative_size_does_not_lead_back_for_ever(tmp_path: Path) -> None:
    facts = tarfile.TarInfo("a.wav")
    facts.size = -1024
    block = facts.tobuf(format=tarfile.GNU_FORMAT)
    (tmp_path / "x.tar").write_bytes(archive({"b.wav": clip()})[:2560] + block + bytes(10_240))
    assert "damaged archive" in listing(tmp_path).skipped


def test_an_archive_that_is_gone_or_another_is_told(tmp_path: Path) -> None:
    for name in ("x.tar", "y.tar.gz"):
        path = put(tmp_path / name, {"a.wav": clip(), "b.wav": clip()})
        source = source_of(path)
        first, second = source.list().items
        assert read(source, first) == clip()
        os.utime(path, ns=(1, 1))
        with pytest.raises(ItemError) as caught:
            source.open(second)
        assert caught.value.reason is RejectReason.CHANGED
        path.unlink()
        with pytest.raises(FileNotFoundError):
            source.open(second)
