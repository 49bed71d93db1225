"""Laws of selection: an item's fate depends on its id alone, samples are nested, of equal bytes the first stays."""

import io
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs import item_table
from tokenizer_jobs.config import Selection
from tokenizer_jobs.errors import ConfigError, ItemError, RejectReason, Stage
from tokenizer_jobs.globs import any_glob, glob_pattern
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import PlanFacts, plan_units, select_items, select_new, write_plan
from tokenizer_jobs.planning.deduplication import find_duplicates
from tokenizer_jobs.records import Item
from tokenizer_jobs.source_config import DemoSource
from tokenizer_jobs.storage import Storage

names = st.text("ab/.*x", min_size=1, max_size=8)
listings = st.lists(names, unique=True, max_size=60)


def table(ids: list[str]) -> ItemTable:
    return ItemTable.of([Item(id=name, source_uri=f"/{name}") for name in ids])


def selection(**fields: object) -> Selection:
    return Selection.model_validate({"source": DemoSource(), **fields})


def chosen(ids: list[str], **fields: object) -> list[str]:
    return [item.id for item in select_items(table(ids), selection=selection(**fields)).items]


def test_globs_cross_folders_only_where_they_say_so() -> None:
    assert any_glob(["books/**", "*.flac"]).fullmatch("books/a/b.wav")
    assert not any_glob(["books/*"]).fullmatch("books/a/b.wav")
    assert glob_pattern("**/x.wav").fullmatch("x.wav")
    assert glob_pattern("**/x.wav").fullmatch("a/b/x.wav")
    assert not any_glob(["*.flac"]).fullmatch("a/b.flac")
    assert any_glob(["[!a]?|(.wav"]).fullmatch("bc|(.wav")
    assert not any_glob([]).fullmatch("")


def test_included_and_not_excluded() -> None:
    ids = ["books/1.wav", "books/bad/2.wav", "music/3.wav"]
    assert chosen(ids, include=["books/**", "music/*"], exclude=["**/bad/*"]) == ["books/1.wav", "music/3.wav"]
    selected = select_items(table(ids), selection=selection(include=["books/**"], exclude=["**/bad/*"]))
    assert selected.left_out == {"not included": 1, "excluded": 1}


@settings(deadline=None)
@given(listings, st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 3))
def test_samples_are_nested(ids: list[str], one: float, other: float, seed: int) -> None:
    small, large = sorted([one, other])
    assert set(chosen(ids, sample=small, seed=seed)) <= set(chosen(ids, sample=large, seed=seed))
    assert len(chosen(ids, sample=1.0)) == len(ids)


@settings(deadline=None)
@given(listings, listings, st.floats(0.01, 1))
def test_a_sample_of_a_source_that_grew_is_the_sample_of_the_whole(
    before: list[str], added: list[str], share: float
) -> None:
    later = [name for name in added if name not in before]
    whole = chosen([*before, *later], sample=share)
    assert sorted(whole) == sorted([*chosen(before, sample=share), *chosen(later, sample=share)])


def test_a_sample_is_of_the_share_and_its_seed() -> None:
    ids = [f"{number:05d}" for number in range(20_000)]
    first, second = chosen(ids, sample=0.1, seed=0), chosen(ids, sample=0.1, seed=1)
    # 2,000 expected with a standard deviation of 42; two seeds share 200 of them, with one of 14.
    assert abs(len(first) - 2000) < 5 * 42
    assert abs(len(set(first) & set(second)) - 200) < 5 * 14


@settings(deadline=None)
@given(listings, st.integers(1, 20), st.integers(0, 20))
def test_the_limit_is_of_the_whole_output(ids: list[str], limit: int, num_known: int) -> None:
    selected = select_items(table(ids), selection=selection(limit=limit), num_known=num_known)
    kept = [item.id for item in selected.items]
    assert kept == [item.id for item in table(ids)][: len(kept)]
    assert len(kept) == min(len(ids), max(0, limit - num_known))
    assert len(kept) + sum(selected.left_out.values()) == len(ids)


@settings(deadline=None)
@given(listings, st.floats(0.01, 1), st.integers(1, 9))
def test_every_item_is_selected_or_counted(ids: list[str], share: float, limit: int) -> None:
    asked = selection(include=["a**", "b**"], exclude=["**x"], sample=share, limit=limit)
    selected = select_items(table(ids), selection=asked)
    assert len(selected.items) + sum(selected.left_out.values()) == len(ids)
    assert all(selected.left_out.values())


def test_a_selection_of_a_listing_on_disk_is_that_of_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"{number % 7}/{number:05d}" for number in range(3000)]
    asked = {"include": ["[0-4]/*"], "sample": 0.5, "limit": 700}
    in_memory = chosen(ids, **asked)
    monkeypatch.setattr(item_table, "BATCH_ITEMS", 64)
    monkeypatch.setattr(item_table, "RUN_ITEMS", 500)
    assert chosen(ids, **asked) == in_memory


def test_a_selection_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    asked = selection(include=["bokos/**"])
    with pytest.raises(ConfigError, match=r"none of 2 items \(not included 2\)"):
        select_new(table(["a", "b"]), selection=asked, num_known=0, storage=storage, generations=(), open_item=_gone)
    grown = select_new(
        table(["a", "b"]), selection=asked, num_known=1, storage=storage, generations=(), open_item=_gone
    )
    assert not grown.items


def _gone(item: Item) -> IO[bytes]:
    raise FileNotFoundError(item.id)


class Shelf:
    """Bytes by URI, opened as a source does, and counted."""

    def __init__(self, contents: Mapping[str, bytes]) -> None:
        self.contents = contents
        self.opened: list[str] = []
        self._lock = threading.Lock()

    def open(self, item: Item) -> IO[bytes]:
        with self._lock:
            self.opened.append(item.source_uri)
        if item.source_uri not in self.contents:
            raise FileNotFoundError(item.source_uri)
        if item.source_etag == "old":
            raise ItemError("changed", stage=Stage.READ, reason=RejectReason.CHANGED)
        return io.BytesIO(self.contents[item.source_uri])


def on_shelf(contents: Mapping[str, bytes], **fields: object) -> list[Item]:
    return [replace(Item(id=u, source_uri=u, source_size=len(c)), **fields) for u, c in contents.items()]  # type: ignore[arg-type]


def duplicates(items: list[Item], shelf: Shelf, known: list[Item] | None = None) -> dict[str, str]:
    new = ItemTable.of(items)
    found = find_duplicates(new, known=lambda: ItemTable.of(known or []).batches(), open_item=shelf.open)
    return {new[place].id: original for place, original in found.items()}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(min_size=0, max_size=2), max_size=12), st.lists(st.booleans(), min_size=12, max_size=12))
def test_of_equal_bytes_the_first_stays(contents: list[bytes], sizes_known: list[bool]) -> None:
    shelf = Shelf({f"{number:02d}": content for number, content in enumerate(contents)})
    items = [
        item if is_known else replace(item, source_size=None)
        for item, is_known in zip(on_shelf(shelf.contents), sizes_known, strict=False)
    ]
    expected = {
        f"{number:02d}": f"{contents.index(content):02d}"
        for number, content in enumerate(contents)
        if contents.index(content) < number
    }
    assert duplicates(items, shelf) == expected


def test_only_items_of_equal_size_are_read() -> None:
    shelf = Shelf({"a": b"1", "b": b"22", "c": b"23", "d": b"444"})
    assert duplicates(on_shelf(shelf.contents), shelf) == {}
    assert sorted(shelf.opened) == ["b", "c"]


def test_what_the_output_has_stands_for_what_is_new() -> None:
    shelf = Shelf({"a": b"1", "b": b"1", "z": b"1", "y": b"2"})
    new, known = on_shelf({"a": b"1", "b": b"1"}), on_shelf({"y": b"2", "z": b"1"})
    assert duplicates(new, shelf, known) == {"a": "z", "b": "z"}
    assert duplicates(new, shelf, [replace(known[1], duplicate_of="x")]) == {"a": "x", "b": "x"}
    assert duplicates(new, shelf, [replace(known[1], source_etag="old")]) == {"b": "a"}


def test_what_cannot_be_read_is_no_duplicate() -> None:
    shelf = Shelf({"b": b"1", "c": b"1"})
    assert duplicates(on_shelf({"a": b"1", "b": b"1", "c": b"1"}), shelf) == {"c": "b"}


def test_a_new_version_is_no_duplicate_of_its_old_one() -> None:
    shelf = Shelf({"a": b"1"})
    assert duplicates(on_shelf({"a": b"1"}), shelf, on_shelf({"a": b"1"})) == {}


def test_cuts_are_equal_where_bytes_and_bounds_are() -> None:
    shelf = Shelf({"a": b"1", "b": b"1"})
    cuts = [
        Item(id=f"{uri}+{start}c{channel}", source_uri=uri, source_size=size, start_seconds=start,
             duration_seconds=5.0, channel=channel)
        for uri, size in (("a", 1), ("b", None))
        for start in (0.0, 5.0)
        for channel in (None, 1)
    ]  # fmt: skip
    assert duplicates(cuts, shelf) == {
        "b+0.0cNone": "a+0.0cNone", "b+0.0c1": "a+0.0c1", "b+5.0cNone": "a+5.0cNone", "b+5.0c1": "a+5.0c1",
    }  # fmt: skip
    assert sorted(shelf.opened) == ["a", "b"]  # each recording once, not once for each of its cuts


def test_duplicates_stay_planned_items(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    shelf = Shelf({"a": b"1", "b": b"1", "c": b"2"})
    asked = selection(deduplicate=True)

    def plan(uris: str, generation: int) -> list[tuple[str, str | None]]:
        new = ItemTable.of(on_shelf({uri: shelf.contents[uri] for uri in uris}))
        num_known = 0 if generation == 1 else 2
        selected = select_new(
            new, selection=asked, num_known=num_known, storage=storage,
            generations=tuple(range(1, generation)), open_item=shelf.open,
        )  # fmt: skip
        units = plan_units(selected.items, generation=generation, recipe_id="ab", unit_minutes=1.0)
        write_plan(storage, units, facts=PlanFacts(generation=generation, recipe_id="ab", selection={}))
        return [(item.id, item.duplicate_of) for item in selected.items]

    assert plan("bc", 1) == [("b", None), ("c", None)]
    assert plan("a", 2) == [("a", "b")]
