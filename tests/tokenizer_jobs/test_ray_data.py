"""`TokenizeBatches` as an actor of Ray Data, on a real Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from tests.tokenizer_jobs.clips import encode, speechlike
from tokenizer_jobs.integrations.datasets_map import TokenizeAudio
from tokenizer_jobs.integrations.ray_data import TokenizeBatches

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    # Ray Data 2.60 sets options of its own that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data"),
]

CLIPS = [
    encode(speechlike(length, channels=channels), container="WAV", coding="PCM_16")
    for length, channels in ((4000, 1), (900, 2), (12000, 1))
]
SAMPLES = [speechlike(length)[:, 0] for length in (4000, 900, 12000)]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    context = ray.data.DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    yield
    context.enable_progress_bars = before


def tokenized(dataset: Any, **format_: Any) -> Any:
    return dataset.map_batches(
        TokenizeBatches,
        fn_constructor_kwargs={"model": "demo"},
        batch_size=2,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
        **format_,
    )


def test_an_actor_adds_the_codes_of_the_service_to_tables(tmp_path: Path) -> None:
    table = pa.table({"audio": [{"bytes": clip, "path": None} for clip in CLIPS], "text": list("abc")})
    tokenized(ray.data.from_arrow(table), batch_format="pyarrow").write_parquet(str(tmp_path / "codes"))
    expected = TokenizeAudio("demo")(table).sort_by("text")
    found = pa.concat_tables(map(pq.read_table, (tmp_path / "codes").glob("*.parquet"))).sort_by("text")
    assert found.schema.field("codes").type == pa.list_(pa.list_(pa.uint16()))
    assert found.to_pylist() == expected.to_pylist()


def test_an_actor_adds_the_codes_of_the_service_to_arrays() -> None:
    rows = [
        {"audio": {"array": array, "sampling_rate": 16000}, "text": name}
        for array, name in zip(SAMPLES, "abc", strict=True)
    ]
    found = tokenized(ray.data.from_items(rows), batch_format="numpy").take_all()
    expected = TokenizeAudio("demo")({"audio": [row["audio"] for row in rows]})
    by_text = {row["text"]: row for row in found}
    assert sorted(by_text) == list("abc")
    for name, codes, sha256 in zip("abc", expected["codes"], expected["codes_sha256"], strict=True):
        assert np.asarray(by_text[name]["codes"]).dtype == np.uint16
        np.testing.assert_array_equal(by_text[name]["codes"], codes)
        assert by_text[name]["codes_sha256"] == sha256
