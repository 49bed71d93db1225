"""Paths inside tables: what grants access to them is neither stored nor told, and still opens them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokenizer_jobs.errors import ConfigError, TransientError
from tokenizer_jobs.source_config import ParquetSource
from tokenizer_jobs.sources import make_source


@pytest.mark.parametrize("url", ["https://a.invalid/x.wav?sig=SECRET", "https://me:SECRET@a.invalid/x.wav"])
def test_a_path_that_grants_access_is_refused_and_not_told(tmp_path: Path, url: str) -> None:
    pq.write_table(pa.table({"path": [url]}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match="may not be stored") as refused:
        make_source(ParquetSource(paths=(str(tmp_path),))).list()
    assert "SECRET" not in str(refused.value)


def test_the_password_of_the_root_opens_what_is_stored_without_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["x.wav"]}), tmp_path / "list.parquet")
    source = make_source(ParquetSource(paths=(str(tmp_path),), root="http://me:SECRET@127.0.0.1:9/clips?sig=SECRET"))
    (item,) = source.list().items
    assert item.source_uri == "http://127.0.0.1:9/clips/x.wav"
    with pytest.raises(TransientError) as unreachable:
        source.open(item).read()
    assert "SECRET" not in str(unreachable.value)
