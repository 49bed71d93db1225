"""What `report` counts, against counting it row by row."""

import json
import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.factories import (
    METADATA,
    NO_COLUMNS,
    RECIPE,
    finish_unit,
    make_facts,
    make_row,
    make_unit,
    plan_output,
)
from tests.tokenizer_jobs.token_outputs import write_output
from tokenizer_jobs.catalog import publish_snapshot
from tokenizer_jobs.commits import Attempt, publish_unit
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.lease import Lease
from tokenizer_jobs.planning import PlanFacts, write_plan
from tokenizer_jobs.recipe import METADATA_KEY, store_recipe
from tokenizer_jobs.report.codes import CodeCounter
from tokenizer_jobs.report.distributions import CategoryCounter, HistogramCounter
from tokenizer_jobs.report.statistics import measure
from tokenizer_jobs.schema import reject_schema, row_schema
from tokenizer_jobs.shards import ShardWriter, codes_column, read_rows, write_rejects
from tokenizer_jobs.storage import Storage

Codes = npt.NDArray[np.uint16]

rows_of_codes = st.integers(1, 3).flatmap(
    lambda books: st.lists(
        st.integers(0, 9).flatmap(
            lambda frames: st.lists(st.integers(0, 6), min_size=books * frames, max_size=books * frames).map(
                lambda codes: np.array(codes, dtype=np.uint16).reshape(books, -1)
            )
        ),
        min_size=1,
        max_size=6,
    )
)


def _counted(rows: list[Codes], *, codebook_size: int) -> tuple[list[Counter[int]], Counter[tuple[int, int]]]:
    """The same in plain Python."""
    books = [Counter[int]() for _ in range(max(len(row) for row in rows))]
    pairs = Counter[tuple[int, int]]()
    for row in rows:
        for book, codes in enumerate(row.tolist()):
            books[book].update(codes)
        first = row[0].tolist()
        pairs.update(pairwise(first))
    return books, pairs


def _entropy(counts: Counter[int] | Counter[tuple[int, int]]) -> float:
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values())


class TestCodes:
    @given(rows_of_codes, st.integers(1, 7))
    @settings(max_examples=60, deadline=None)
    def test_counts_are_those_of_plain_python_however_rows_are_cut_into_batches(
        self, rows: list[Codes], cut: int
    ) -> None:
        counter = CodeCounter(codebook_size=7)
        for start in range(0, len(rows), cut):
            counter.add(codes_column(rows[start : start + cut]))
        books, pairs = _counted(rows, codebook_size=7)
        uses = counter.uses(frame_rate=75.0)
        if not sum(books[0].values()):
            assert all(sum(use.counts) == 0 for use in uses)
            return
        for use, expected in zip(uses, books, strict=True):
            assert list(use.counts) == [expected[code] for code in range(7)]
            assert use.dead == sum(not expected[code] for code in range(7))
            assert use.entropy_bits == pytest.approx(_entropy(expected), abs=1e-9)
            assert use.perplexity == pytest.approx(2 ** _entropy(expected))
            assert use.ideal_kbps == pytest.approx(75 * _entropy(expected) / 1000, abs=1e-9)
        found = counter.transitions()
        assert (0 if found is None else found.pairs) == sum(pairs.values())
        if found is not None:
            repeats = sum(count for (one, other), count in pairs.items() if one == other)
            firsts = Counter[int]()
            for (one, _), count in pairs.items():
                firsts[one] += count
            assert found.repeat_share == pytest.approx(repeats / found.pairs)
            assert found.conditional_entropy_bits == pytest.approx(_entropy(pairs) - _entropy(firsts), abs=1e-9)
            assert sum(map(sum, found.table)) == found.pairs

    def test_batches_larger_than_what_is_counted_at_once(self) -> None:
        generator = np.random.default_rng(0)
        rows = [generator.integers(0, 1024, (8, frames), dtype=np.uint16) for frames in (30_000, 1, 70_000, 5)]
        counter = CodeCounter(codebook_size=1024)
        counter.add(codes_column(rows))
        joined = np.concatenate(rows, axis=1)
        for use, codes in zip(counter.uses(frame_rate=75.0), joined, strict=True):
            assert np.array_equal(use.counts, np.bincount(codes, minlength=1024))
        transitions = counter.transitions()
        assert transitions is not None
        assert transitions.pairs == sum(row.shape[1] - 1 for row in rows)

    def test_slices_of_batches_count_their_own_rows(self) -> None:
        rows = [np.full((2, 3), number, dtype=np.uint16) for number in range(5)]
        counter = CodeCounter(codebook_size=8)
        counter.add(codes_column(rows).slice(1, 2))
        assert counter.uses(frame_rate=1.0)[1].counts == (0, 3, 3, 0, 0, 0, 0, 0)

    def test_a_code_beyond_what_the_output_says_makes_room_for_itself(self) -> None:
        counter = CodeCounter(codebook_size=4)
        counter.add(codes_column([np.array([[0, 1]], dtype=np.uint16)]))
        counter.add(codes_column([np.array([[9, 1], [2, 2]], dtype=np.uint16)]))
        first, second = counter.uses(frame_rate=1.0)
        assert first.counts == (1, 2, 0, 0, 0, 0, 0, 0, 0, 1)
        assert sum(second.counts) == second.counts[2] == 2
        transitions = counter.transitions()
        assert transitions is not None
        assert transitions.pairs == 2

    def test_pairs_of_codebooks_too_large_for_a_table_are_not_counted(self) -> None:
        counter = CodeCounter(codebook_size=65536)
        counter.add(codes_column([np.array([[65535, 1, 2]], dtype=np.uint16)]))
        assert counter.transitions() is None
        assert counter.uses(frame_rate=1.0)[0].counts[65535] == 1


class TestDistributions:
    @given(st.lists(st.one_of(st.none(), st.floats(-5, 15, width=32), st.just(-math.inf)), max_size=40))
    @settings(max_examples=60, deadline=None)
    def test_a_histogram_is_numpys_with_outsiders_in_the_outer_bins(self, values: list[float | None]) -> None:
        edges = (0.0, 1.0, 2.5, 10.0)
        counter = HistogramCounter(edges)
        for start in range(0, len(values), 7):
            counter.add(pa.array(values[start : start + 7], type=pa.float32()))
        found = counter.histogram()
        finite = [value for value in values if value is not None and math.isfinite(value)]
        assert found.absent == len(values) - len(finite)
        assert found.counts == tuple(np.histogram(np.clip(finite, 0.0, 10.0), edges)[0])
        if finite:
            assert (found.minimum, found.maximum) == (min(finite), max(finite))
            assert found.mean == pytest.approx(np.mean(finite), abs=1e-6)
            assert found.quantiles["p05"] <= found.quantiles["p50"] <= found.quantiles["p95"]

    def test_quantiles_of_many_values_are_near_the_true_ones(self) -> None:
        values = np.random.default_rng(0).lognormal(1.0, 0.8, 5000)
        counter = HistogramCounter(tuple((10.0 ** np.arange(-2, 6.01, 1 / 16)).tolist()))
        counter.add(pa.array(values))
        for name, value in counter.histogram().quantiles.items():
            assert value == pytest.approx(np.quantile(values, int(name[1:]) / 100), rel=0.08)

    def test_kinds_that_never_end_are_put_together(self) -> None:
        counter = CategoryCounter()
        for number in range(1100):
            counter.add(pa.array([f"kind-{number}", None]), seconds=pa.array([3600.0, 0.0]))
        found = counter.categories()
        assert len(found) <= 1002
        assert sum(kind.rows for kind in found.values()) == 2200
        assert found["unknown"].rows == 1100
        assert sum(kind.hours for kind in found.values()) == pytest.approx(1100)


def _brute(storage: Storage) -> tuple[list[Codes], list[dict[str, object]]]:
    stored = [row for file in storage.list("codes") for row in read_rows(storage, file.path)]
    return [row.encoded.codes for row in stored], [dict(row.columns) for row in stored]


@pytest.mark.parametrize("shard_format", ["parquet", "arrow"])
def test_statistics_of_an_output_are_those_of_its_rows(tmp_path: Path, shard_format: str) -> None:
    lengths = [[5, 75, 1], [300], [40, 41]]
    storage = write_output(tmp_path / "out", lengths, shard_format=shard_format)  # type: ignore[arg-type]
    found = measure(storage)
    codes, columns = _brute(storage)
    content = found.content
    assert content is not None
    assert not found.problems
    assert not content.is_sampled
    assert (content.rows, content.frames) == (6, 462)
    assert (found.counts.rows, found.counts.items, found.counts.units) == (6, 6, 3)
    assert found.counts.state == "done"
    books, _ = _counted(codes, codebook_size=1024)
    for use, expected in zip(content.codebooks, books, strict=True):
        assert list(use.counts) == [expected[code] for code in range(1024)]
    durations = [float(str(row["duration_seconds"])) for row in columns]
    assert content.measures["duration_seconds"].minimum == min(durations)
    assert content.measures["duration_seconds"].mean == pytest.approx(np.mean(durations))
    assert content.kinds["source_format"]["WAV/PCM_16"].rows == 6
    assert content.kinds["source_sample_rate"]["44100"].hours == pytest.approx(sum(durations) / 3600)
    assert found.codec.frame_rate == 75.0
    assert found.provenance is not None
    assert [one.number for one in found.provenance.snapshots] == [1]


def test_statistics_are_stored_and_read_again_unchanged(tmp_path: Path) -> None:
    found = measure(write_output(tmp_path / "out", [[5, 75]]))
    text = found.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert type(found).model_validate_json(text) == found


def test_a_pass_that_runs_out_of_time_speaks_for_a_sample(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [[5]] * 6)
    content = measure(storage, budget_seconds=0.0).content
    assert content is not None
    assert content.is_sampled
    assert (content.shards_read, content.shards, content.rows) == (1, 6, 1)


def test_a_running_job_is_told_from_a_stopped_one(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    first, _ = plan_output(storage, [["a", "b"], ["c"]])
    finish_unit(storage, first)
    assert measure(storage).counts.state == "stopped"
    with Lease(storage, "some-run"):
        found = measure(storage)
    assert found.counts.state == "running"
    assert (found.counts.units_committed, found.counts.units, found.counts.rows) == (1, 2, 2)
    assert found.snapshot is None
    assert found.content is not None
    assert found.content.rows == 2


def test_an_output_without_a_plan_is_empty(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    store_recipe(storage, RECIPE)
    found = measure(storage)
    assert (found.counts.state, found.work, found.content, found.rejects) == ("empty", None, None, ())


def test_an_output_of_rejects_alone_has_reasons_and_no_content(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    (unit,) = plan_output(storage, [["a", "b"]])
    finish_unit(storage, unit, rejected=[0, 1])
    publish_snapshot(storage, recipe_id=RECIPE.recipe_id)
    found = measure(storage)
    assert found.content is None
    assert found.rejects is not None
    (reason,) = found.rejects
    assert reason.items == 2
    assert [example.id for example in reason.examples] == ["a", "b"]


def test_a_folder_that_is_no_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no output"):
        measure(Storage.at(str(tmp_path)))


def test_a_damaged_shard_is_a_problem_and_the_rest_is_counted(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", [[5], [7], [9]])
    paths = [file.path for file in storage.list("codes")]
    (tmp_path / "out" / paths[0]).write_bytes(b"PAR1 and no more")
    (tmp_path / "out" / paths[1]).unlink()
    found = measure(storage)
    assert found.content is not None
    assert (found.content.shards_read, found.content.rows) == (1, 1)
    assert sorted(problem.split()[0] for problem in found.problems) == sorted(paths[:2])


def test_windows_and_silence_of_a_48_khz_output(tmp_path: Path) -> None:
    storage = Storage.open(tmp_path / "out")
    store_recipe(storage, RECIPE)
    unit = make_unit(["a", "b"])
    said = {**json.loads(METADATA[METADATA_KEY]), "frame_rate": 150.0, "sample_rate": 48000, "windowed": True, "n_q": 4}
    metadata = {b"huggingface": b"{}", METADATA_KEY: json.dumps(said).encode()}
    in_plan = {key.decode(): value.decode() for key, value in metadata.items()}
    write_plan(
        storage,
        [unit],
        facts=PlanFacts(generation=1, recipe_id=RECIPE.recipe_id, selection={}, file_metadata=in_plan),
    )
    rows = [make_row(item, num_codebooks=4, num_frames=200, windows=[150, 50]) for item in unit.items]
    rows[1] = replace(rows[1], facts=make_facts(200, sample_rate=48000, rms_db=-math.inf, peak=0.0))
    with ShardWriter(
        storage, unit=unit, schema=row_schema(NO_COLUMNS), metadata=metadata, shard_format="parquet"
    ) as writer:
        writer.append(rows)
        shard = writer.close()
    rejects = write_rejects(
        storage,
        unit=unit,
        rejected=[],
        schema=reject_schema(NO_COLUMNS),
        metadata=metadata,
        shard_format="parquet",
    )
    attempt = Attempt(number=1, device="cpu", started_at=datetime.now(UTC), stage_seconds={})
    publish_unit(storage, unit=unit, recipe_id=RECIPE.recipe_id, shard=shard, rejects=rejects, attempt=attempt)
    found = measure(storage)
    assert found.content is not None
    assert found.codec.windowed
    assert len(found.content.codebooks) == 4
    entropy = found.content.codebooks[0].entropy_bits
    assert found.content.codebooks[0].ideal_kbps == pytest.approx(0.15 * entropy)
    loudness = found.content.measures["rms_db"]
    assert (loudness.values, loudness.absent) == (1, 1)
    json.loads(found.model_dump_json(), parse_constant=lambda name: pytest.fail(name))
