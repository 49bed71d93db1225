"""The digest forgets order and grouping, and nothing else."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.digest import Digest, codes_sha256, row_digest
from tokenizer_jobs.errors import IntegrityError

RECIPE_ID = "ab" * 32
Rows = list[tuple[str, str]]
ROWS = st.lists(st.tuples(st.text(), st.binary().map(lambda content: hashlib.sha256(content).hexdigest())), max_size=8)


def digest(rows: Rows, recipe_id: str = RECIPE_ID) -> str:
    whole = Digest()
    for row_id, codes in rows:
        whole.add_row(row_id, codes_sha256=codes, recipe_id=recipe_id)
    return whole.hex


@given(rows=ROWS, data=st.data())
def test_order_and_grouping_make_no_difference(rows: Rows, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    shuffled = data.draw(st.permutations(rows))
    assert digest(rows) == digest(shuffled) == Digest.total([digest(rows[:cut]), digest(rows[cut:])]).hex


@given(rows=ROWS, other=ROWS)
def test_other_rows_give_another_digest(rows: Rows, other: Rows) -> None:
    assert (digest(rows) == digest(other)) == (sorted(rows) == sorted(other))


def test_a_row_counts_as_often_as_it_is_there() -> None:
    row = ("a", "cd" * 32)
    assert len({digest([row] * count) for count in range(4)}) == 4


def test_the_recipe_counts() -> None:
    rows = [("a", "cd" * 32)]
    assert digest(rows) != digest(rows, "ef" * 32)


def test_values_do_not_change_between_versions() -> None:
    assert digest([]) == "0" * 64
    expected = hashlib.sha256(f"{RECIPE_ID}{'cd' * 32}id".encode()).hexdigest()
    assert f"{row_digest('id', codes_sha256='cd' * 32, recipe_id=RECIPE_ID):064x}" == expected


def test_a_short_hash_is_refused() -> None:
    with pytest.raises(IntegrityError):
        row_digest("a", codes_sha256="cd", recipe_id=RECIPE_ID)


def test_codes_are_hashed_in_c_order_little_endian() -> None:
    codes = np.array([[1, 2, 3], [258, 5, 6]], dtype=np.uint16)
    expected = hashlib.sha256(bytes([1, 0, 2, 0, 3, 0, 2, 1, 5, 0, 6, 0])).hexdigest()
    assert codes_sha256(codes) == codes_sha256(np.asfortranarray(codes)) == expected
    assert codes_sha256(codes.astype(">u2")) == expected
