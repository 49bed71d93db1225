"""Our metadata for `datasets` is that of `datasets`, to the byte."""

import subprocess
import sys

import pyarrow as pa
import pytest
from datasets import Features
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.hub_features import METADATA_KEY, features_metadata
from tokenizer_jobs.schema import row_schema

SCALARS = [
    *(pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()),
    *(pa.string(), pa.large_string(), pa.binary(), pa.large_binary()),
    *(pa.timestamp("us"), pa.timestamp("ms", tz="UTC"), pa.date32(), pa.duration("s"), pa.decimal128(10, 2)),
    pa.dictionary(pa.int32(), pa.string()),
]
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4)


def fields_of(kinds: st.SearchStrategy[pa.DataType], *, least: int) -> st.SearchStrategy[list[pa.Field]]:
    pairs = st.dictionaries(names, kinds, min_size=least, max_size=3)
    return pairs.map(lambda found: [pa.field(name, kind) for name, kind in found.items()])


types = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.one_of(
        inner.map(pa.list_),
        inner.map(pa.large_list),
        inner.map(lambda kind: pa.list_(kind, 3)),
        fields_of(inner, least=1).map(pa.struct),
    ),
    max_leaves=4,
)


@given(fields_of(types, least=0))
def test_any_columns(fields: list[pa.Field]) -> None:
    schema = pa.schema(fields)
    assert features_metadata(schema) == Features.from_arrow_schema(schema).arrow_schema.metadata[METADATA_KEY]


def test_the_columns_of_a_shard_need_no_import_of_datasets() -> None:
    schema = row_schema(pa.schema([("text", pa.string()), ("words", pa.list_(pa.struct([("text", pa.string())])))]))
    assert features_metadata(schema) == Features.from_arrow_schema(schema).arrow_schema.metadata[METADATA_KEY]
    code = (
        "import sys; from tokenizer_jobs.hub_features import features_metadata;"
        "from tokenizer_jobs.schema import ROW_COLUMNS; features_metadata(ROW_COLUMNS);"
        "assert 'datasets' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_type_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="datasets does not know"):
        features_metadata(pa.schema([("x", pa.month_day_nano_interval())]))
