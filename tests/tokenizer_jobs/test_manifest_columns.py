"""Laws of the columns of manifests: one type holds all values of a column, or an error names two lines."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tokenizer_jobs.manifests import CUT, NEMO, jsonl, listing, put, refusal
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.sources import Listing
from tokenizer_jobs.sources.manifest.columns import ColumnTypes, text_readers
from tokenizer_jobs.sources.manifest.lines import Line


def columns_of(tmp_path: Path, *values: Any, name: str = "m.jsonl", **options: Any) -> Listing:
    lines = [{"path": f"{n:06d}.wav", **({} if value == "absent" else {"x": value})} for n, value in enumerate(values)]
    return listing(put(tmp_path / name, jsonl(*lines)), **options)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, "absent", None, 2], pa.int64()),
        ([1, 2.5], pa.float64()),
        ([2.5, 1], pa.float64()),
        ([True, False], pa.bool_()),
        (["a", "ü"], pa.string()),
        ([[1], [], [2.5, None]], pa.list_(pa.float64())),
        ([[], None], pa.list_(pa.string())),
        (
            [{"a": 1}, {"b": [{"c": "x"}]}],
            pa.struct([("a", pa.int64()), ("b", pa.list_(pa.struct([("c", pa.string())])))]),
        ),
        ([None, "absent"], None),
    ],
)
@pytest.mark.parametrize("gap", [0, 5000])
def test_types_hold_every_value_of_the_file(tmp_path: Path, values: list[Any], kind: pa.DataType, gap: int) -> None:
    found = columns_of(tmp_path, values[0], *[None] * gap, *values[1:])
    assert found.user_schema == pa.schema([] if kind is None else [("x", kind)])
    read = [item.user_columns.get("x") for item in found.items if item.id < "000001.wav" or item.id > f"{gap:06d}.wav"]
    stored = pa.array([None if value == "absent" else value for value in values], type=kind)
    assert read == stored.to_pylist()


@pytest.mark.parametrize(
    "pair", [(1, "a"), ("a", 1), (True, 1), (1, True), ([1], 1), ({"a": 1}, {"a": "x"}), ([1], ["a"])]
)
@pytest.mark.parametrize("gap", [0, 5000])
def test_values_that_do_not_fit_together_are_named(tmp_path: Path, pair: tuple[Any, Any], gap: int) -> None:
    with pytest.raises(ConfigError) as caught:
        columns_of(tmp_path, None, pair[0], *[None] * gap, pair[1], pair[0])
    said = str(caught.value)
    assert "m.jsonl, line 2 " in said
    assert f"m.jsonl, line {gap + 3};" in said
    assert "'x'" in said
    assert len(columns_of(tmp_path, 1, "a", columns=()).user_schema) == 0


def test_integers_that_no_double_holds_beside_fractions_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2\\^53"):
        columns_of(tmp_path, 1.5, 2**60 + 1)
    with pytest.raises(ConfigError):
        columns_of(tmp_path, 1.5, *[None] * 5000, 2**60 + 1)


@pytest.mark.parametrize(
    ("texts", "kind", "values"),
    [
        (["1", "", "-20"], pa.int64(), [1, None, -20]),
        (["1", "2.50", "1e-3", ".5"], pa.float64(), [1.0, 2.5, 0.001, 0.5]),
        (["true", "False", "TRUE"], pa.bool_(), [True, False, True]),
        (["0042", "1"], pa.string(), ["0042", "1"]),
        (["12345678901234567890"], pa.string(), ["12345678901234567890"]),
        (["1", "x"], pa.string(), ["1", "x"]),
        (["true", "1"], pa.string(), ["true", "1"]),
        (["1e5", "nan", "1_0", "٣"], pa.string(), ["1e5", "nan", "1_0", "٣"]),
        (["", ""], None, [None, None]),
    ],
)
def test_types_of_text(tmp_path: Path, texts: list[str], kind: pa.DataType, values: list[Any]) -> None:
    found = listing(put(tmp_path / "m.csv", "path,x\n" + "".join(f"{n}.wav,{text}\n" for n, text in enumerate(texts))))
    assert found.user_schema == pa.schema([] if kind is None else [("x", kind)])
    assert [item.user_columns.get("x") for item in found.items] == values


@given(st.lists(st.integers(-(10**18) + 1, 10**18 - 1) | st.floats(allow_nan=False, allow_infinity=False), max_size=9))
def test_numbers_in_text_are_the_numbers(values: list[float]) -> None:
    types = ColumnTypes()
    for number, value in enumerate(values):
        types.see(Line("m", number, {}, True), {"x": repr(value)})
    schema = types.schema(wanted=None)
    if not values:
        assert len(schema) == 0
    elif schema.field("x").type == pa.string():  # a double would round the integers
        assert any(isinstance(value, float) for value in values)
        assert any(isinstance(value, int) and abs(value) > 10**15 for value in values)
    else:
        assert [text_readers(schema)["x"](repr(value)) for value in values] == values


def test_columns_of_several_manifests_are_united(tmp_path: Path) -> None:
    one_file = put(tmp_path / "a/m.jsonl", jsonl({"path": "1.wav", "n": 1, "code": "0x", "only": "here"}))
    other = put(tmp_path / "b/m.csv", "path,n,code,mood\n2.wav,2.5,17,calm\n")
    found = listing(one_file, other)
    assert found.user_schema == pa.schema(
        [("n", pa.float64()), ("code", pa.string()), ("only", pa.string()), ("mood", pa.string())]
    )
    assert [item.user_columns for item in found.items] == [
        {"n": 1.0, "code": "0x", "only": "here", "mood": None},
        {"n": 2.5, "code": "17", "only": None, "mood": "calm"},
    ]
    clash = put(tmp_path / "c/m.csv", "path,n\n3.wav,many\n")
    said = refusal(one_file, clash)
    assert "a/m.jsonl, line 1 " in said
    assert "c/m.csv, line 2;" in said


def test_columns_are_chosen(tmp_path: Path) -> None:
    manifest = put(tmp_path / "m.jsonl", jsonl({**NEMO, "sample_rate": 16000, "channel": 1, "null": None}))
    assert listing(manifest, columns=("text", "duration", "null")).user_schema == pa.schema(
        [("text", pa.string()), ("duration", pa.float64()), ("null", pa.string())]
    )
    assert listing(manifest).user_schema.names == ["text", "lang", "channel"]  # the plan refuses the last
    assert len(listing(manifest, columns=()).user_schema) == 0
    said = refusal(manifest, columns=("text", "mood"))
    assert "'mood'" in said
    assert "text" in said
    assert listing(put(tmp_path / "c.jsonl", jsonl(CUT)), columns=("speaker",)).user_schema.names == ["speaker"]


def test_objects_with_any_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without fields"):
        columns_of(tmp_path, {}, {"a": {}})
    with pytest.raises(ConfigError):
        columns_of(tmp_path, *[{f"word {n}": 1.0} for n in range(1500)])
    lines = jsonl(*[{"path": "a.wav", f"word {n}": 1.0} for n in range(1500)])
    assert "columns" in refusal(put(tmp_path / "n.jsonl", lines))
