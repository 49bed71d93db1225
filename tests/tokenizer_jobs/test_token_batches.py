"""What comes out of a dataset: batches, drawn patterns, Arrow shards; and `TokenTable`, which finds single rows."""

import pickle
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tokenizer_jobs.test_token_dataset import FRAMES, UNITS
from tests.tokenizer_jobs.token_crews import opened, told
from tests.tokenizer_jobs.token_outputs import codes_of, write_output
from tokenizer_jobs.errors import IntegrityError
from tokenizer_jobs.training.patterns import DelayPattern, ValleNarPattern
from tokenizer_jobs.training.table import TokenTable


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("batches") / "out"
    write_output(folder, UNITS)
    return str(folder)


def test_a_batch_is_padded_outside_the_codes(output: str) -> None:
    dataset = opened(output, crop_frames=None, columns=["duration_seconds"])
    batch = dataset.collate(list(islice(dataset, 5)))
    assert batch["codes"].dtype == torch.int64
    assert batch["lengths"].tolist() == [FRAMES[row_id] for row_id in batch["id"]]
    assert (batch["codes"] == 1024).any(1).equal(~batch["mask"])
    assert len(batch["duration_seconds"]) == 5
    tokens = opened(output, pattern=DelayPattern(pad_id=1030), crop_frames=None)
    batch = tokens.collate(list(islice(tokens, 5)))
    assert batch["tokens"].dtype == torch.int64
    assert batch["tokens"].shape[-1] == max(FRAMES[row_id] for row_id in batch["id"]) + 8
    assert (batch["tokens"][:, 0][~batch["mask"]] == 1030).all()


def test_a_packed_batch_bounds_its_documents_and_its_padding(output: str) -> None:
    dataset = opened(output, crop_frames=None, pack_tokens=100, num_strands=1)
    samples = list(dataset)
    batch = dataset.collate(samples[-2:])
    bounds = batch["cu_seqlens"].tolist()
    assert bounds[-1] == 200
    flat = batch["document_ids"].flatten()
    assert all(len(set(flat[start:end].tolist())) == 1 for start, end in pairwise(bounds))
    assert (flat[~batch["mask"].flatten()] == -1).all()


def test_a_pattern_that_draws_does_so_for_each_row_and_epoch(output: str) -> None:
    pattern = ValleNarPattern()
    levels = []
    for epoch in (0, 0, 1):
        dataset = opened(output, pattern=pattern)
        dataset.set_epoch(epoch)
        levels.append({sample["id"]: int(pattern.levels(sample["tokens"])) for sample in dataset})
    assert levels[0] == levels[1] != levels[2]
    assert len(set(levels[0].values())) > 2


def test_arrow_shards_give_what_parquet_shards_do(output: str, tmp_path: Path) -> None:
    write_output(tmp_path / "out", UNITS, shard_format="arrow")
    arrow = opened(str(tmp_path / "out"), short="drop", columns=["num_samples"])
    parquet = opened(output, short="drop", columns=["num_samples"])
    assert sorted(map(told, arrow)) == sorted(map(told, parquet))


def test_a_table_finds_rows_by_place_and_by_id(output: str) -> None:
    table = TokenTable(output, num_codebooks=3)
    assert len(table) == len(FRAMES)
    assert [table[index]["id"] for index in range(len(table))] == list(FRAMES)
    assert table[-1]["id"] == list(FRAMES)[-1]
    for row_id, frames in FRAMES.items():
        assert np.array_equal(table.by_id(row_id)["codes"].numpy(), codes_of(row_id, frames)[:3])
    with pytest.raises(KeyError, match="'absent'"):
        table.by_id("absent")
    with pytest.raises(IndexError):
        table[len(FRAMES)]
    assert pickle.loads(pickle.dumps(table))[4]["id"] == "0-4"


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", UNITS)
    dataset = opened(str(tmp_path / "out"))
    for file in storage.list("codes"):
        storage.delete(file.path)
    with pytest.raises(IntegrityError, match=r"codes/part-.* is not in"):
        next(iter(dataset))
