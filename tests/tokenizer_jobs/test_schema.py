"""The columns are the documented ones, and a source's own columns keep their names and types."""

import pyarrow as pa
import pytest

from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.schema import RESERVED_NAMES, reject_schema, row_schema

USER = pa.schema(
    [("text", pa.large_string()), ("speaker", pa.dictionary(pa.int8(), pa.string())), ("tags", pa.list_(pa.int16()))]
)


def test_user_columns_come_last_with_their_types() -> None:
    for build in (row_schema, reject_schema):
        schema = build(USER)
        assert schema.names[-3:] == ["text", "speaker", "tags"]
        assert [schema.field(name).type for name in USER.names] == [
            pa.large_string(),
            pa.string(),  # a dictionary is an encoding, not a type
            pa.list_(pa.int16()),
        ]


def test_types_of_the_documented_columns() -> None:
    schema = row_schema(pa.schema([]))
    assert schema.field("codes").type == pa.list_(pa.list_(pa.uint16()))
    assert schema.names[:6] == ["id", "codes", "num_frames", "num_codebooks", "scales", "window_frames"]
    assert len(schema) == 27
    rejects = ["id", "source_uri", "source_member", "source_row", "stage", "reason", "message", "attempts"]
    assert reject_schema(pa.schema([])).names == rejects


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_reserved_name_is_refused_by_name(name: str) -> None:
    for build in (row_schema, reject_schema):
        with pytest.raises(ConfigError, match=f"columns {name} of the source .*rename"):
            build(pa.schema([("text", pa.string()), (name, pa.string())]))


def test_a_doubled_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"columns text of the source .*more than once"):
        row_schema(pa.schema([("text", pa.string()), ("text", pa.int8())]))
