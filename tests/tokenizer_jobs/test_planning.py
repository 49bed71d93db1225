"""Laws of planning: order does not matter, every item is in one unit, what is stored is what was planned."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.item_lists import item_lists
from tests.tokenizer_jobs.plain_planning import Version, plain_comparison, plain_order, plain_units
from tokenizer_jobs import item_table
from tokenizer_jobs.errors import ConfigError, IntegrityError, OutputBusyError
from tokenizer_jobs.item_columns import item_schema, to_batch
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.planning import (
    KnownItems,
    PlanFacts,
    compare_with_known,
    known_items,
    list_generations,
    plan_units,
    read_plan_summary,
    read_units,
    write_plan,
)
from tokenizer_jobs.records import Item, WorkUnit
from tokenizer_jobs.storage import Storage

unit_sizes = st.just("auto") | st.floats(0.01, 2000)


def items(count: int, *, seconds: float = 10.0, etag: str = "1") -> list[Item]:
    return [
        Item(id=f"{n:05d}", source_uri=f"/a/{n:05d}.wav", source_etag=etag, source_size=n, estimated_seconds=seconds)
        for n in range(count)
    ]


def cut(planned: list[Item], unit_minutes: float | str = 1.0, *, generation: int = 1) -> list[WorkUnit]:
    table = ItemTable.of(planned)
    return list(plan_units(table, generation=generation, recipe_id="ab", unit_minutes=unit_minutes))


def known_as(versions: dict[str, Version]) -> KnownItems:
    listed = [
        Item(id=item_id, source_uri="", source_size=size, source_etag=etag)
        for item_id, (size, etag) in versions.items()
    ]
    return KnownItems.collect([to_batch(listed, schema=item_schema())])


def versions_of(planned: list[Item]) -> dict[str, Version]:
    return {item.id: (item.source_size, item.source_etag) for item in planned}


def same(one: KnownItems, other: KnownItems) -> bool:
    return all(
        np.array_equal(mine, theirs)
        for mine, theirs in (
            (one.heads, other.heads),
            (one.tails, other.tails),
            (one.sizes, other.sizes),
            (one.etags, other.etags),
        )
    )


def sum_of_finite(unit: WorkUnit) -> float:
    return sum(item.estimated_seconds for item in unit.items if math.isfinite(item.estimated_seconds))


def facts(generation: int = 1) -> PlanFacts:
    return PlanFacts(generation=generation, recipe_id="ab", selection={"source": {"kind": "demo"}})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "out"))


@settings(deadline=None)
@given(item_lists, unit_sizes, st.randoms(use_true_random=False))
def test_the_plan_does_not_depend_on_the_order_of_the_listing(
    planned: list[Item], size: float | str, random: "st.DataObject"
) -> None:
    shuffled = list(planned)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert cut(shuffled, size) == cut(planned, size)


@settings(deadline=None)
@given(item_lists, unit_sizes)
def test_the_plan_is_the_plain_plan(planned: list[Item], size: float | str) -> None:
    assert cut(planned, size) == plain_units(planned, recipe_id="ab", unit_minutes=size)


def test_the_plan_of_a_listing_on_disk_is_the_plain_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_table, "BATCH_ITEMS", 64)
    monkeypatch.setattr(item_table, "RUN_ITEMS", 500)
    planned = items(3000)
    planned = [planned[(place * 1789) % 3000] for place in range(3000)]
    assert cut(planned) == plain_units(planned, recipe_id="ab", unit_minutes=1.0)


@settings(deadline=None)
@given(item_lists, unit_sizes)
def test_items_of_one_recording_are_in_one_unit(planned: list[Item], size: float | str) -> None:
    units_of: dict[tuple[str, str, int], set[int]] = {}
    for unit in cut(planned, size):
        for item in unit.items:
            recording = item.source_uri, item.source_member or "", item.source_row or 0
            units_of.setdefault(recording, set()).add(unit.index)
    assert all(len(units) == 1 for units in units_of.values())


@settings(deadline=None)
@given(item_lists, unit_sizes)
def test_every_item_is_in_one_unit(planned: list[Item], size: float | str) -> None:
    units = cut(planned, size)
    assert sorted(item.id for unit in units for item in unit.items) == sorted(item.id for item in planned)
    assert [unit.index for unit in units] == list(range(len(units)))
    assert len({unit.unit_id for unit in units}) == len(units)
    assert all(unit.items for unit in units)


@settings(deadline=None)
@given(item_lists, st.floats(0.01, 2000))
def test_no_unit_is_larger_than_its_target_unless_one_item_is(planned: list[Item], minutes: float) -> None:
    for unit in cut(planned, minutes):
        recordings = {(item.source_uri, item.source_member or "", item.source_row or 0) for item in unit.items}
        assert len(recordings) == 1 or sum_of_finite(unit) <= minutes * 60 * (1 + 1e-9)


def test_a_long_item_is_a_unit_of_its_own() -> None:
    planned = items(5)
    planned[2] = Item(id="long", source_uri="/a/00002.wav", estimated_seconds=3600)
    assert [[item.id for item in unit.items] for unit in cut(planned)] == [
        ["00000", "00001"],
        ["long"],
        ["00003", "00004"],
    ]


@pytest.mark.parametrize(
    ("count", "seconds", "unit_seconds"),
    [(100, 10.0, 120), (1024 * 10, 60.0, 600), (3000, 3600.0 * 24, 24 * 3600), (10_000, 3600.0 * 12, 24 * 3600)],
)
def test_auto_is_a_thousandth_within_bounds(count: int, seconds: float, unit_seconds: float) -> None:
    assert max(unit.estimated_seconds for unit in cut(items(count, seconds=seconds), "auto")) == unit_seconds


def test_items_of_unknown_length_do_not_pile_up_in_one_unit() -> None:
    assert max(len(unit.items) for unit in cut(items(10_000, seconds=0.0), 1.0)) <= 600


def test_a_units_id_is_of_its_contents_and_the_recipe() -> None:
    unit = cut(items(3))[0]
    assert cut(items(3), generation=2)[0].unit_id == unit.unit_id
    assert cut(items(2))[0].unit_id != unit.unit_id
    assert cut(items(3, etag="2"))[0].unit_id != unit.unit_id
    assert (
        next(plan_units(ItemTable.of(items(3)), generation=1, recipe_id="cd", unit_minutes=1.0)).unit_id != unit.unit_id
    )
    assert len(unit.unit_id) == 16


def test_ids_that_are_not_unique_are_named() -> None:
    twice = [*items(3), Item(id="00001", source_uri="/b.wav")]
    with pytest.raises(ConfigError, match="'00001'"):
        cut(twice)
    with pytest.raises(ConfigError, match="'00001'"):
        compare_with_known(ItemTable.of(twice), known_as({}))


@settings(deadline=None)
@given(item_lists, item_lists)
def test_new_changed_and_unchanged_are_the_listing(before: list[Item], now: list[Item]) -> None:
    compared = compare_with_known(ItemTable.of(now), known_as(versions_of(before)))
    new, changed, unchanged, vanished = plain_comparison(now, versions_of(before))
    assert list(compared.new) == new
    assert list(compared.changed) == changed
    assert list(compared.unchanged) == unchanged
    assert compared.num_vanished == len(vanished)
    same_again = compare_with_known(ItemTable.of(before), known_as(versions_of(before)))
    assert list(same_again.unchanged) == plain_order(before)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5)))
def test_ids_are_told_apart_by_their_whole_hash(known: list[int], asked: list[int]) -> None:
    """Hashes of which the first 64 bits are equal, which no test could wait for."""
    pairs = sorted({(number // 3, number % 3) for number in known})
    table = KnownItems(
        heads=np.array([head for head, _ in pairs], np.uint64),
        tails=np.array([tail for _, tail in pairs], np.uint32),
        sizes=np.zeros(len(pairs), np.int64),
        etags=np.zeros(len(pairs), np.uint32),
    )
    wanted = [(number // 3, number % 3) for number in asked]
    heads, tails = np.array(wanted, np.int64).reshape(-1, 2).T
    found = table.places_of(heads.astype(np.uint64), tails.astype(np.uint32)).tolist()
    assert found == [pairs.index(pair) if pair in pairs else -1 for pair in wanted]


def test_another_size_or_etag_is_a_change() -> None:
    known: dict[str, Version] = {"a": (10, "x"), "b": (10, "x"), "c": (10, "x"), "d": (None, None)}
    now = [
        Item(id="a", source_uri="a", source_size=11, source_etag="x"),
        Item(id="b", source_uri="b", source_size=10, source_etag="y"),
        Item(id="c", source_uri="c", source_size=None, source_etag="x"),
        Item(id="d", source_uri="d", source_size=10, source_etag="y"),
    ]
    compared = compare_with_known(ItemTable.of(now), known_as(known))
    assert [item.id for item in compared.changed] == ["a", "b"]
    assert [item.id for item in compared.unchanged] == ["c", "d"]


@settings(max_examples=20, deadline=None)
@given(item_lists, unit_sizes)
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, planned: list[Item], size: float | str
) -> None:
    storage = Storage.open(str(tmp_path_factory.mktemp("out")))
    units = cut(planned, size)
    summary = write_plan(storage, units, facts=facts())
    assert list(read_units(storage, 1)) == units
    assert read_plan_summary(storage, 1) == summary
    assert (summary.num_items, summary.num_units) == (len(planned), len(units))
    assert same(known_items(storage), known_as(versions_of(planned)))


def test_user_columns_come_back_with_their_types(storage: Storage) -> None:
    schema = pa.schema([("text", pa.string()), ("speaker", pa.int16()), ("tags", pa.list_(pa.string()))])
    columns = {"text": "héllo\n", "speaker": 3, "tags": ["a", "b"]}
    planned = [Item(id="a", source_uri="a", user_columns=columns)]
    table = ItemTable.of(planned, user_schema=schema)
    units = plan_units(table, generation=1, recipe_id="ab", unit_minutes=1.0)
    write_plan(storage, units, facts=facts(), user_schema=schema)
    (unit,) = read_units(storage, 1)
    assert unit.items[0].user_columns == columns


def test_columns_that_do_not_fit_their_types_are_the_users() -> None:
    planned = [Item(id="a", source_uri="a", user_columns={"n": "many"})]
    with pytest.raises(ConfigError, match="types"):
        ItemTable.of(planned, user_schema=pa.schema([("n", pa.int16())]))


def test_a_large_plan_is_read_by_row_groups_that_hold_whole_units(storage: Storage) -> None:
    units = cut(items(25_000))
    write_plan(storage, iter(units), facts=facts())
    with storage.open_file("plans/000001.parquet") as file, pq.ParquetFile(file) as parquet:
        assert parquet.num_row_groups == 3
    assert list(read_units(storage, 1)) == units


def test_a_generation_exists_when_its_json_does(storage: Storage) -> None:
    assert list_generations(storage) == ()
    write_plan(storage, cut(items(3)), facts=facts())
    write_plan(storage, cut(items(4, etag="2"), generation=2), facts=facts(2))
    storage.delete("plans/000002.json")
    assert list_generations(storage) == (1,)
    assert same(known_items(storage), known_as(versions_of(items(3))))
    write_plan(storage, cut(items(4, etag="2"), generation=2), facts=facts(2))
    assert list_generations(storage) == (1, 2)
    assert same(known_items(storage), known_as(versions_of(items(4, etag="2"))))


def test_a_generation_is_planned_once(storage: Storage) -> None:
    write_plan(storage, cut(items(3)), facts=facts())
    with pytest.raises(OutputBusyError, match="generation 1"):
        write_plan(storage, cut(items(4)), facts=facts())
    assert len(known_items(storage)) == 3


def test_a_plan_that_is_not_its_summarys_is_noticed(storage: Storage) -> None:
    write_plan(storage, cut(items(3)), facts=facts())
    write_plan(storage, cut(items(4), generation=2), facts=facts(2))
    storage.replace("plans/000001.parquet", storage.read_bytes("plans/000002.parquet"))
    with pytest.raises(IntegrityError, match="two runs"):
        list(read_units(storage, 1))
    storage.replace("plans/000001.json", b"{}")
    with pytest.raises(IntegrityError, match="no plan summary"):
        read_plan_summary(storage, 1)
