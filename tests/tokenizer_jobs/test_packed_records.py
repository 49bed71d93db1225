"""Packed records are a dictionary of bytes, and small."""

from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.packed_records import PackedRecords

NAMES = st.sampled_from("abcdef")
STEPS = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=9000)), max_size=30)


@given(STEPS)
def test_they_hold_what_a_dictionary_holds(steps: list[tuple[str, bytes | None]]) -> None:
    packed, plain = PackedRecords(), dict[str, bytes]()
    for name, record in steps:
        if record is None:
            assert packed.pop(name, None) == plain.pop(name, None)
        else:
            packed[name] = plain[name] = record
        assert (name in packed, len(packed), list(packed)) == (name in plain, len(plain), list(plain))
    assert dict(packed) == plain
    assert dict(PackedRecords(plain.items())) == plain


def test_records_alike_take_a_fraction() -> None:
    records = {
        f"{number}": (f'{{"unit_id": "{number:016x}", "rows": 17, "host": "node"}}' * 10).encode()
        for number in range(50)
    }
    packed = PackedRecords(records.items())
    assert sum(map(len, packed._packed.values())) < sum(map(len, records.values())) / 5
