"""Laws of the order of an epoch, and of how its positions are dealt."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs.training.order import EpochOrder, Interleaving, permutation
from tokenizer_jobs.training.packing import StrandPacking
from tokenizer_jobs.training.positions import Consumer, Left, merged_left, num_steps

group_rows = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(lambda rows: sum(rows) > 0)


def ordered(rows: list[int], *, seed: int = 0, epoch: int = 0, shuffle: bool = True, strands: int = 3) -> EpochOrder:
    return EpochOrder.of(
        np.array(rows), seed=seed, epoch=epoch, shuffle=shuffle, num_strands=strands, buffer_rows=strands * 4
    )


def sequence(order: EpochOrder) -> list[tuple[int, int]]:
    """(row group, row) at each position."""
    interleaving = Interleaving(order.strand_rows)
    rows = []
    for position in range(interleaving.count):
        strand, step = interleaving.locate(position)
        number, place = divmod(step, order.window_rows)
        window = order.window(strand, number)
        rows.append((int(window.groups[place]), int(window.places[place])))
    return rows


@given(group_rows, st.integers(0, 2**64), st.integers(0, 5), st.booleans(), st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_every_row_has_one_position(rows: list[int], seed: int, epoch: int, shuffle: bool, strands: int) -> None:
    found = sequence(ordered(rows, seed=seed, epoch=epoch, shuffle=shuffle, strands=strands))
    assert sorted(found) == [(group, row) for group, count in enumerate(rows) for row in range(count)]


@given(group_rows, st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_a_row_group_belongs_to_one_strand(rows: list[int], strands: int) -> None:
    order = ordered(rows, strands=strands)
    homes: dict[int, int] = {}
    for strand, count in enumerate(order.strand_rows.tolist()):
        assert count > 0
        for number in range(-(-count // order.window_rows)):
            for group in order.window(strand, number).groups.tolist():
                assert homes.setdefault(group, strand) == strand


def test_without_shuffle_the_order_is_the_snapshots() -> None:
    assert sequence(ordered([2, 0, 3], shuffle=False)) == [(0, 0), (0, 1), (2, 0), (2, 1), (2, 2)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    rows = [8] * 6
    orders = {tuple(sequence(ordered(rows, seed=seed, epoch=epoch))) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_the_order_is_the_same_on_any_machine() -> None:
    # Worked out once by Python's integers; a library's generator may change with its version, these may not.
    assert permutation(7, 10).tolist() == _by_python(7, 10)
    assert sequence(ordered([3, 4, 2], seed=1, epoch=2))[:4] == [(0, 1), (1, 2), (2, 1), (0, 0)]


def _by_python(key: int, count: int) -> list[int]:
    def drawn(index: int) -> int:
        state = ((index + 1) * 0x9E3779B97F4A7C15 + key) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        return state ^ state >> 31

    return sorted(range(count), key=drawn)


def test_permutations_are_even() -> None:
    # 4,000 draws of 5 places: 800 expected, 25 standard deviation; 5 of them are never seen by chance.
    firsts = np.bincount([int(permutation(key, 5)[0]) for key in range(4000)], minlength=5)
    assert abs(firsts - 800).max() < 130


def test_rows_near_one_another_come_from_many_row_groups() -> None:
    found = sequence(ordered([50] * 40, strands=20))
    assert len({group for group, _ in found[:20]}) == 20


def test_consumers_that_divide_the_strands_share_no_row_group() -> None:
    found = sequence(ordered([6] * 24, strands=12))
    for count in (2, 3, 4, 6, 12):
        homes = [{group for group, _ in found[number::count]} for number in range(count)]
        assert sum(map(len, homes)) == 24


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_interleaving_goes_through_every_strand_in_order(lengths: list[int]) -> None:
    interleaving = Interleaving(np.array(lengths))
    found = [interleaving.locate(position) for position in range(interleaving.count)]
    for strand, length in enumerate(lengths):
        assert [step for other, step in found if other == strand] == list(range(length))


@given(st.integers(1, 30), st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_left_is_what_nobody_took(num_samples: int, count: int, data: st.DataObject) -> None:
    left, taken = Left(), set[int]()
    for _ in range(3):
        num_left = left.num_of(num_samples)
        assert [left.at(index, num_samples=num_samples) for index in range(num_left)] == [
            position for position in range(num_samples) if position not in taken
        ]
        limit = num_left // count
        steps = [data.draw(st.integers(0, limit)) for _ in range(count)]
        for number, own in enumerate(steps):
            taken.update(left.at(number + step * count, num_samples=num_samples) for step in range(own))
        left = merged_left(left, num_samples=num_samples, steps=steps)


def consumers_of(world_size: int, num_workers: int) -> list[Consumer]:
    return [
        Consumer(rank=rank, world_size=world_size, worker=worker, num_workers=num_workers)
        for rank in range(world_size)
        for worker in range(num_workers)
    ]


@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 4))
def test_steps_are_equal_unless_kept(num_left: int, world_size: int, num_workers: int) -> None:
    consumers = consumers_of(world_size, num_workers)
    assert sorted(consumer.number for consumer in consumers) == list(range(world_size * num_workers))
    total = {}
    for remainder in ("pad", "drop", "keep"):
        steps = [num_steps(num_left, consumer=consumer, remainder=remainder) for consumer in consumers]
        assert max(steps) - min(steps) <= (remainder == "keep")
        total[remainder] = sum(steps)
    assert total["drop"] <= total["keep"] == num_left <= total["pad"]
    assert total["pad"] - total["drop"] <= len(consumers)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), st.data())
@settings(max_examples=100, deadline=None)
def test_ranks_and_workers_take_each_position_once(
    num_samples: int, world_size: int, num_workers: int, data: st.DataObject
) -> None:
    taken = data.draw(st.sets(st.integers(0, num_samples - 1), max_size=num_samples - 1))
    left = Left(taken=tuple(sorted(taken)))
    free = [position for position in range(num_samples) if position not in taken]
    for remainder in ("keep", "drop", "pad"):
        dealt = [
            left.at(consumer.number + step * consumer.count, num_samples=num_samples)
            for consumer in consumers_of(world_size, num_workers)
            for step in range(num_steps(len(free), consumer=consumer, remainder=remainder))
        ]
        expected = {
            "keep": free,
            "drop": free[: len(dealt)],
            "pad": free + [position % num_samples for position in range(len(dealt) - len(free))],
        }
        assert sorted(dealt) == sorted(expected[remainder])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 8))
@settings(max_examples=80, deadline=None)
def test_packing_has_every_token_once_and_in_order(row_tokens: list[int], sequence_tokens: int) -> None:
    order = ordered([len(row_tokens)], strands=1, shuffle=True)
    tokens = np.array(row_tokens)
    packing = StrandPacking(order, strand=0, row_tokens=tokens, sequence_tokens=sequence_tokens)
    laid = list[tuple[int, int]]()
    for number in range(packing.num_sequences):
        found = list(packing.fragments(number, tokens_of=lambda window: tokens[order.window(0, window).places]))
        length = sum(fragment.end - fragment.start for fragment in found)
        assert length == sequence_tokens or number == packing.num_sequences - 1
        for part in found:
            row = int(order.window(0, part.window).places[part.place])
            laid.extend((row, token) for token in range(part.start, part.end))
    rows = [row for _, row in sequence(order)]
    assert laid == [(row, token) for row in rows for token in range(row_tokens[row])]


def test_taking_more_than_all_begins_again() -> None:
    left = Left(position=2, taken=(3,))
    assert [left.at(index, num_samples=5) for index in range(5)] == [2, 4, 0, 1, 2]


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_a_permutation_is_one(count: int) -> None:
    assert sorted(permutation(3, count).tolist()) == list(range(count))
