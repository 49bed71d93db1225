"""Laws of tables of items: a table is the sorted list of its items, however much of it was on disk on the way."""

import pickle
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.item_lists import item_lists
from tests.tokenizer_jobs.plain_planning import plain_order
from tokenizer_jobs import item_table
from tokenizer_jobs.item_columns import StoredItems, item_schema, to_batch, to_items
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item

NUM_ITEMS = 1000


@pytest.fixture(params=["in memory", "runs on disk"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "runs on disk":
        monkeypatch.setattr(item_table, "BATCH_ITEMS", 3)
        monkeypatch.setattr(item_table, "RUN_ITEMS", 7)


@pytest.mark.usefixtures("sizes")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(item_lists, st.randoms(use_true_random=False))
def test_a_table_is_the_sorted_list(planned: list[Item], random: "st.DataObject") -> None:
    shuffled = list(planned)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    table, ordered = ItemTable.of(shuffled), plain_order(planned)
    assert list(table) == ordered
    assert len(table) == len(ordered)
    assert table[1:7:2] == tuple(ordered[1:7:2])
    assert [table[place] for place in (0, -1) if ordered] == [ordered[place] for place in (0, -1) if ordered]
    assert table == ItemTable.of(planned)


@pytest.mark.usefixtures("sizes")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(item_lists, st.integers(0, 2**30), st.integers(0, 2**30))
def test_a_choice_of_a_choice_is_a_choice(planned: list[Item], first: int, second: int) -> None:
    table, ordered = ItemTable.of(planned), plain_order(planned)
    kept = np.array([bool(first >> place & 1) for place in range(len(ordered))], np.bool_)
    some = [item for item, is_kept in zip(ordered, kept, strict=True) if is_kept]
    again = np.array([bool(second >> place & 1) for place in range(len(some))], np.bool_)
    assert list(table.where(kept)) == some
    chosen = table.where(kept).where(again)
    assert list(chosen) == [item for item, is_kept in zip(some, again, strict=True) if is_kept]
    assert len(chosen) == again.sum()
    seconds = np.arange(len(some), dtype=np.float64)
    assert [item.estimated_seconds for item in table.where(kept).with_seconds(seconds)] == seconds.tolist()


def num_open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_what_is_on_disk_has_no_name_and_goes_with_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(item_table, "BATCH_ITEMS", 10)
    monkeypatch.setattr(item_table, "RUN_ITEMS", 100)
    before = num_open_files()
    table = ItemTable.of(Item(id=str(number), source_uri=f"/{number % 7}") for number in range(NUM_ITEMS))
    assert num_open_files() == before + 1
    assert list(tmp_path.iterdir()) == []
    assert len({item.id for item in table}) == NUM_ITEMS
    del table
    assert num_open_files() == before


def test_a_unit_travels_without_its_neighbours() -> None:
    items = tuple(Item(id=f"{number:09}", source_uri=f"/a/{number:09}") for number in range(NUM_ITEMS))
    batch = to_batch(items, schema=item_schema())
    stored = StoredItems(batch.slice(500, 2))
    assert stored == items[500:502]
    assert pickle.loads(pickle.dumps(stored)) == stored
    assert len(pickle.dumps(stored)) < 3000
    assert list(to_items(batch)) == list(items)
