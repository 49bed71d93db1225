"""Laws of conditions on rows: whatever is understood chooses the rows that DuckDB chooses; the rest is refused."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.row_filter import RowFilter

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("seconds", pa.float64()),
        ("peak", pa.float32()),
        ("num", pa.int16()),
        ("truncated", pa.bool_()),
        ("Speaker Name", pa.string()),
        ("day", pa.date32()),
        ("codes", pa.list_(pa.uint16())),
    ]
)
TEXTS = ["", "a", "A", "ab", "a%b", "a_b", "it's", "a\nb", "ü", "x.y"]
NUMBERS = ["0", "1", "-1", "0.5", "2", "1e2", "0.1", "-.5", "30000", "100000"]


def batch() -> pa.RecordBatch:
    generator = np.random.default_rng(0)
    size = 64

    def some(values: list[object]) -> list[object]:
        return [None if generator.random() < 0.2 else values[generator.integers(len(values))] for _ in range(size)]

    rows = {
        "id": some(list(TEXTS)),
        "seconds": some([0.0, 1.0, -1.0, 0.5, 0.1, 100.0]),
        "peak": some([0.0, 0.5, 1.0, 0.25, 0.1]),
        "num": some([0, 1, -1, 2, 30000]),
        "truncated": some([True, False]),
        "Speaker Name": some(list(TEXTS)),
        "day": some([1, 20000, 20500]),
        "codes": [[1]] * size,
    }
    return pa.RecordBatch.from_arrays([pa.array(rows[f.name], f.type) for f in SCHEMA], schema=SCHEMA)


BATCH = batch()
WITH_PLACE = pa.table(BATCH).append_column("place", pa.array(range(BATCH.num_rows)))


@pytest.fixture(scope="module")
def database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET threads TO 1")
    connection.register("rows", WITH_PLACE)
    connection.execute("CREATE TABLE stored AS SELECT * FROM rows")
    return connection


def chosen(sql: str) -> list[int]:
    return np.flatnonzero(RowFilter.parse(sql, schema=SCHEMA).mask(BATCH)).tolist()


def expected(database: duckdb.DuckDBPyConnection, sql: str) -> list[int]:
    found = database.execute(f"SELECT place FROM stored WHERE {sql} ORDER BY place").fetchall()
    return [place for (place,) in found]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


texts = st.sampled_from(TEXTS).map(quoted)
text_columns = st.sampled_from(["id", '"Speaker Name"', "ID"])
number_columns = st.sampled_from(["seconds", "peak", "num"])
numbers = st.sampled_from(NUMBERS)
signs = st.sampled_from(["=", "<>", "!=", "<", "<=", ">", ">="])
maybe_not = st.sampled_from(["", "NOT "])
patterns = st.lists(st.sampled_from(["%", "_", "a", "b", ".", "A", "\\", "ü"]), max_size=4).map(
    lambda p: quoted("".join(p))
)
tests = st.one_of(
    st.builds("{} {} {}".format, text_columns, signs, texts),
    st.builds("{} {} {}".format, number_columns, signs, numbers),
    st.builds("{} {} {}".format, numbers, signs, number_columns),
    st.builds("{} {} {}".format, number_columns, signs, st.sampled_from(["seconds", "num"])),
    st.builds("{} {}IN ({}, {})".format, text_columns, maybe_not, texts, texts),
    st.builds("{} {}in ({}, {}, NULL)".format, st.sampled_from(["seconds", "num"]), maybe_not, numbers, numbers),
    st.builds("{} {}LIKE {}".format, text_columns, maybe_not, patterns),
    st.builds("{} {}BETWEEN {} AND {}".format, number_columns, maybe_not, numbers, numbers),
    st.builds("{} IS {}NULL".format, st.one_of(text_columns, number_columns, st.just("truncated")), maybe_not),
    st.sampled_from(["truncated", "truncated = true", "truncated <> FALSE", "TRUE", "day < '2025-01-01'", "NULL"]),
)
conditions = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds("({})".format, inner),
        st.builds("NOT {}".format, inner.map("({})".format)),
        st.builds("{} AND {}".format, inner, inner),
        st.builds("{} or\n {}".format, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(sql=conditions)
def test_it_chooses_the_rows_that_duckdb_chooses(database: duckdb.DuckDBPyConnection, sql: str) -> None:
    assert chosen(sql) == expected(database, sql)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("", "found the end"),
        ("seconds", "a comparison"),
        ("seconds >", "a column or a literal"),
        ("seconds > 1; DROP TABLE rows", "';"),
        ("lower(id) = 'a'", "functions are not understood"),
        ("seconds + 1 > 2", "a comparison"),
        ("id = 1", "cannot be compared"),
        ("seconds > 'long'", "cannot be compared"),
        ("day < 'tomorrow'", "cannot be compared"),
        ('id = "a"', "texts are in single quotes"),
        ("codes = 1", "no column 'codes' that can be compared"),
        ("nothing = 1", "choose of id, seconds"),
        ("(id = 'a'", r"expected \)"),
        ("id = 'a' id", "AND, OR or the end"),
        ("id LIKE 1", "a text on both sides"),
        ("id IN (seconds)", "a literal"),
        ("(" * 200 + "truncated" + ")" * 200, "make it flatter"),
        ("id = 'open", "expected a condition"),
        ("EXISTS (SELECT 1)", "functions"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_place(sql: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        RowFilter.parse(sql, schema=SCHEMA)


def test_only_the_columns_that_it_names_are_read() -> None:
    found = RowFilter.parse("NOT (\"Speaker Name\" = 'a' OR Seconds > 1)", schema=SCHEMA)
    assert found.columns == ("Speaker Name", "seconds")
    assert found.mask(BATCH.select(["seconds", "Speaker Name"])).shape == (64,)
