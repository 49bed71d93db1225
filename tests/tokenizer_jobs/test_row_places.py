"""Stored rows lead back to their items, and what is missing of an item is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.records import RowPlace
from tokenizer_jobs.row_places import PlacedRow, PlacedRows, placed_row


@given(item_id=st.text(max_size=6), channel=st.integers(0, 7), start=st.integers(0, 9), count=st.integers(1, 3))
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_rows_columns_lead_back_to_its_item(
    per_channel: bool, item_id: str, channel: int, start: int, count: int
) -> None:
    place = RowPlace(channel=channel if per_channel else None, slice_index=count - 1, start_sample=start)
    row_id = place.row_id(item_id, slice_count=count)
    columns = {
        "id": row_id,
        "channel": channel,
        "slice_index": place.slice_index,
        "slice_count": count,
        "start_sample": start,
    }
    found = placed_row(columns, per_channel=per_channel)
    assert (found.item_id, found.place, found.slice_count) == (item_id, place, count)


@pytest.mark.parametrize(
    ("slices", "problem"),
    [
        ([(0, 0, 3), (1, 320, 3), (2, 640, 3)], None),
        ([(0, 0, 3), (2, 640, 3)], "has the slices 0, 2, its rows say that there are 3"),
        ([(0, 0, 2), (1, 320, 3)], "its rows say that there are 2 or 3"),
        ([(0, 0, 2), (0, 0, 2)], "has the slices 0, 0"),
        ([(0, 320, 2), (1, 0, 2)], "beginning at samples 320, 0"),
    ],
)
def test_slices_that_are_missing_or_out_of_order_are_told(
    slices: list[tuple[int, int, int]], problem: str | None
) -> None:
    rows = PlacedRows()
    for index, start, count in reversed(slices):
        place = RowPlace(slice_index=index, start_sample=start)
        rows.add(PlacedRow(id=f"a{index}", item_id="a", place=place, slice_count=count))
    problems = list(rows.problems())
    assert len(problems) == (problem is not None)
    assert problem is None or problem in problems[0]
