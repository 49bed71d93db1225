"""Laws of `TokenDataset`: each row once, over any ranks and workers, wherever it was stopped in between."""

import pickle
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.tokenizer_jobs.token_crews import Crew, opened, told
from tests.tokenizer_jobs.token_outputs import codes_of, grow_output, write_output
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.storage import Storage
from tokenizer_jobs.training.dealing import Sample
from tokenizer_jobs.training.patterns import DelayPattern, FlattenPattern

UNITS = [[9, 30, 12, 40, 7], [25, 26, 27], [8, 50, 33, 21, 19, 11, 10], [16], [44, 45], [13, 14, 15, 17]]
FRAMES = {f"{i}-{j}": frames for i, unit in enumerate(UNITS) for j, frames in enumerate(unit)}
IDS = list(FRAMES)
LAYOUTS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokens") / "out"
    write_output(folder, UNITS)
    return str(folder)


@given(LAYOUTS, LAYOUTS, st.sampled_from([None, 17]), st.integers(0, 3), st.data())
@settings(max_examples=40, deadline=None)
def test_resumed_anywhere_the_global_sequence_is_the_uninterrupted_one(
    output: str,
    before: tuple[int, int],
    after: tuple[int, int],
    pack_tokens: int | None,
    epoch: int,
    data: st.DataObject,
) -> None:
    arguments: dict[str, Any] = {"pack_tokens": pack_tokens, "remainder": "keep"}
    alone = opened(output, **arguments)
    alone.set_epoch(epoch)
    whole = [told(sample) for sample in alone]
    crew = Crew(output, *before, **arguments, epoch=epoch)
    taken = list[Sample]()
    for layout in (after, before):
        steps = [data.draw(st.integers(0, 4)) for _ in crew.passes]
        taken += crew.take(steps)
        state = crew.state()
        crew = Crew(output, *layout, **arguments, state=pickle.loads(pickle.dumps(state)))
    rest = [told(sample) for sample in crew.rest()]
    assert Counter([*map(told, taken), *rest]) == Counter(whole)
    assert rest == [sample for sample in whole if sample in rest]


@given(LAYOUTS, LAYOUTS, st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_stopped_after_whole_rounds_the_state_of_one_rank_does(
    output: str, before: tuple[int, int], after: tuple[int, int], rounds: int
) -> None:
    whole = [told(sample) for sample in opened(output)]
    crew = Crew(output, *before, remainder="keep")
    rounds = min(rounds, len(whole) // len(crew.passes))
    taken = crew.take([rounds] * len(crew.passes))
    own = [dataset.state_dict() for dataset, _ in crew.passes]
    merged = crew.passes[0][0].merge_states([state for state in own if state["rank"] == 0])
    rest = Crew(output, *after, remainder="keep", state=merged).rest()
    assert [told(sample) for sample in rest] == whole[len(taken) :]


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_each_row_once_an_epoch(output: str, world_size: int, num_workers: int) -> None:
    taken = Crew(output, world_size, num_workers, remainder="keep").rest()
    assert Counter(sample["id"] for sample in taken) == Counter(IDS)


@pytest.mark.parametrize(("remainder", "steps"), [("pad", 6), ("drop", 5)])
def test_steps_are_equal_over_all_workers(output: str, remainder: str, steps: int) -> None:
    crew = Crew(output, 2, 2, remainder=remainder)  # 22 rows
    lengths = [len(list(own)) for _, own in crew.passes]
    assert lengths == [steps] * 4


def test_padding_begins_the_epoch_again(output: str) -> None:
    whole = [sample["id"] for sample in opened(output)]
    padded = [sample["id"] for sample in Crew(output, 4, 1).rest()]
    assert padded == whole + whole[:2]


def test_an_endless_pass_goes_on_over_epochs_after_a_stop(output: str) -> None:
    epochs = []
    for epoch in range(4):
        dataset = opened(output)
        dataset.set_epoch(epoch)
        epochs += [told(sample) for sample in dataset]
    crew = Crew(output, 2, 1, epochs=None)
    taken = crew.take([13, 9])  # one is in epoch 1, the other in epoch 0; an epoch has 11 steps
    state = crew.state()
    resumed = Crew(output, 1, 1, epochs=None, state=state)
    rest = [told(sample) for sample in resumed.take([88 - 22])]
    assert Counter([*map(told, taken), *rest]) == Counter(epochs)


def test_a_state_is_where_the_last_sample_given_out_was(output: str) -> None:
    whole = [told(sample) for sample in opened(output)]
    dataset = opened(output)
    going = iter(dataset)
    for count in range(len(whole) + 1):
        resumed = opened(output)
        resumed.load_state_dict(dataset.state_dict())
        assert [told(sample) for sample in resumed] == whole[count:]
        assert [told(sample) for sample in resumed] == whole, "the pass after begins anew"
        next(going, None)


def test_set_epoch_of_the_same_epoch_keeps_what_was_loaded(output: str) -> None:
    dataset = opened(output)
    next(iter(dataset))
    resumed = opened(output)
    resumed.load_state_dict(dataset.state_dict())
    resumed.set_epoch(0)
    assert len(list(resumed)) == 21
    resumed.load_state_dict(dataset.state_dict())
    resumed.set_epoch(1)
    assert len(list(resumed)) == 22


def test_after_a_pass_the_state_is_of_the_epoch_that_was_set(output: str) -> None:
    dataset, resumed = opened(output), opened(output)
    list(dataset)
    dataset.set_epoch(1)
    resumed.load_state_dict(dataset.state_dict())
    assert [told(sample) for sample in resumed] == [told(sample) for sample in dataset]
    stopped = opened(output)
    next(going := iter(stopped))
    stopped.set_epoch(1)  # of the pass after this one
    resumed.load_state_dict(stopped.state_dict())
    assert [told(sample) for sample in resumed] == [told(sample) for sample in going]


def test_epochs_differ_and_seeds_do_and_nothing_else(output: str) -> None:
    def ids(epoch: int, **arguments: Any) -> tuple[str, ...]:
        dataset = opened(output, **arguments)
        dataset.set_epoch(epoch)
        return tuple(sample["id"] for sample in dataset)

    assert ids(0) == ids(0) == ids(0, num_codebooks=2) == ids(0, pattern=DelayPattern())
    assert len({ids(0), ids(1), ids(0, seed=6)}) == 3


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_the_workers_of_a_loader_give_every_row_once(output: str, context: str) -> None:
    dataset = opened(output, remainder="keep")
    loader: Any = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context=context, collate_fn=dataset.collate
    )
    ids = [row_id for batch in loader for row_id in batch["id"]]
    assert Counter(ids) == Counter(IDS)


def test_set_epoch_reaches_workers_that_live_on(output: str) -> None:
    dataset = opened(output, remainder="keep")
    loader: Any = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    found = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        found.append([sample["id"] for sample in loader])
        assert found[-1] == [sample["id"] for sample in dataset]
    assert found[0] != found[1]


def test_a_pickled_dataset_is_small_and_the_same(output: str) -> None:
    dataset = opened(output)
    next(iter(dataset))
    content = pickle.dumps(dataset)
    assert len(content) < 8000
    assert [told(sample) for sample in pickle.loads(content)] == [told(sample) for sample in opened(output)]


def test_crops_are_inside_and_drawn_for_each_row_and_epoch(output: str) -> None:
    starts = dict[str, set[int]]()
    for epoch in range(30):
        dataset = opened(output)
        dataset.set_epoch(epoch)
        for sample in dataset:
            frames = FRAMES[sample["id"]]
            start, length = sample["start_frame"], sample["codes"].shape[1]
            assert length == min(12, frames)
            assert 0 <= start <= frames - length
            expected = codes_of(sample["id"], frames)[:, start : start + length]
            assert sample["codes"].dtype == torch.uint16
            assert np.array_equal(sample["codes"].numpy(), expected)
            starts.setdefault(sample["id"], set()).add(start)
    assert {row_id for row_id, found in starts.items() if len(found) == 1} == {
        row_id for row_id, frames in FRAMES.items() if frames <= 12
    }


def test_short_rows_are_dropped_padded_or_packed(output: str) -> None:
    assert {s["id"] for s in opened(output, short="drop")} == {i for i, n in FRAMES.items() if n >= 12}
    assert {s["id"] for s in opened(output, short="pad")} == set(FRAMES)
    packed = list(opened(output, short="pack", num_strands=1))
    assert {s["codes"].shape[1] for s in packed[:-1]} == {12}
    assert sum(s["codes"].shape[1] for s in packed) == sum(min(n, 12) for n in FRAMES.values())


@pytest.mark.parametrize("pattern", [None, DelayPattern(), FlattenPattern(num_codebooks=8)])
def test_packing_conserves_every_token(output: str, pattern: Any) -> None:
    dataset = opened(output, crop_frames=None, pack_tokens=23, pattern=pattern)
    found = dict[str, dict[int, Any]]()
    for sample in dataset:
        tokens = sample["codes" if pattern is None else "tokens"].numpy()
        bounds = sample["cu_seqlens"].tolist()
        assert bounds[-1] == tokens.shape[-1] <= 23
        for part, start, end in zip(sample["documents"], bounds[:-1], bounds[1:], strict=True):
            found.setdefault(part["id"], {})[part["start_token"]] = tokens[..., start:end]
            assert sample["positions"][start:end].tolist() == list(range(end - start))
    for row_id, frames in FRAMES.items():
        codes = codes_of(row_id, frames)
        expected = codes if pattern is None else pattern.apply(codes)
        parts = [part for _, part in sorted(found[row_id].items())]
        assert np.array_equal(np.concatenate(parts, axis=-1), expected)


def test_lower_bandwidths_are_prefixes(output: str) -> None:
    whole = {sample["id"]: sample["codes"] for sample in opened(output)}
    for kbps, count in ((1.5, 2), (3.0, 4), (6.0, 8)):
        for arguments in ({"bandwidth_kbps": kbps}, {"num_codebooks": count}):
            for sample in opened(output, **arguments):
                assert torch.equal(sample["codes"], whole[sample["id"]][:count])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bandwidth_kbps": 5.0}, r"bandwidth_kbps = 5 .* choose one of 1\.5, 3, 6$"),
        ({"bandwidth_kbps": 12.0}, r"choose one of 1\.5, 3, 6$"),
        ({"num_codebooks": 9}, "choose 1 to 8"),
        ({"num_codebooks": 2, "bandwidth_kbps": 1.5}, "give one"),
        ({"short": "drop", "crop_frames": None}, "crop_frames, which is not given"),
        ({"crop_frames": 0}, "crop_frames = 0"),
        ({"rank": 2, "world_size": 2}, "rank from 0 to 1"),
        ({"rank": 1}, "give both"),
        ({"columns": ["speaker"]}, "columns speaker .* choose of"),
        ({"columns": ["scales"]}, "belong to whole rows"),
        ({"where": "num_frames > 1000"}, "no row of .* is chosen"),
        ({"where": "loudness > 1"}, "no column 'loudness'"),
        ({"where": pc.field("loudness") > 1}, "cannot be evaluated"),
        ({"remainder": "wrap"}, "choose one of pad, drop, keep"),
        ({"snapshot": 4}, "snapshot 4 is not in output"),
    ],
)
def test_what_cannot_be_given_is_refused(output: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(output, **arguments)


@pytest.mark.parametrize(
    "where", ["num_frames BETWEEN 10 AND 20", (pc.field("num_frames") >= 10) & (pc.field("num_frames") <= 20)]
)
def test_rows_are_chosen_by_their_columns_and_no_code_is_read(
    output: str, where: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenizer_jobs.training import reading

    read = list[str]()
    read_columns = reading.read_columns

    def watched(storage: Storage, place: Any, *, columns: Sequence[str]) -> Any:
        read.extend(columns)
        return read_columns(storage, place, columns=columns)

    monkeypatch.setattr("tokenizer_jobs.training.opening.read_columns", watched)
    dataset = opened(output, where=where)
    assert "num_frames" in read
    assert "codes" not in read
    assert {sample["id"] for sample in dataset} == {i for i, n in FRAMES.items() if 10 <= n <= 20}


def test_a_resumed_reader_reads_only_the_row_groups_that_it_needs(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizer_jobs.training import reading, windows

    read = list[str]()
    read_group = reading.read_group

    def watched(storage: Storage, place: Any, *, columns: Sequence[str]) -> Any:
        read.append(place.path)
        return read_group(storage, place, columns=columns)

    monkeypatch.setattr(windows, "read_group", watched)
    dataset = opened(output, num_strands=1)
    whole = list(islice(dataset, 21))
    assert len(read) == len(UNITS)
    resumed = opened(output, num_strands=1)
    resumed.load_state_dict(dataset.state_dict())
    read.clear()
    (last,) = list(resumed)
    assert len(read) <= 2
    assert last["id"] not in {sample["id"] for sample in whole}


def test_growth_leaves_an_open_dataset_and_its_states_alone(tmp_path: Path) -> None:
    storage = write_output(tmp_path / "out", UNITS)
    dataset = opened(str(tmp_path / "out"))
    before = [told(sample) for sample in dataset]
    going = iter(dataset)
    next(going)
    grow_output(storage, [20, 30])
    assert [told(sample) for sample in pickle.loads(pickle.dumps(dataset))] == before
    grown = opened(str(tmp_path / "out"))
    assert len(list(grown)) == 24
    with pytest.raises(ConfigError, match="snapshot: 1 saved, 2 here"):
        grown.load_state_dict(dataset.state_dict())
    old = opened(str(tmp_path / "out"), snapshot=1)
    old.load_state_dict(dataset.state_dict())
    assert [told(sample) for sample in old] == before[1:]


def test_a_state_of_another_seed_or_crop_is_refused(output: str) -> None:
    state = opened(output).state_dict()
    for arguments in ({"seed": 6}, {"crop_frames": 13}, {"where": "num_frames > 9"}, {"buffer_rows": 3}):
        with pytest.raises(ConfigError, match=next(iter(arguments))):
            opened(output, **arguments).load_state_dict(state)
    with pytest.raises(ConfigError, match="no state"):
        opened(output).load_state_dict({"epoch": 3})


def test_states_of_some_ranks_only_are_refused(output: str) -> None:
    crew = Crew(output, 3, 1)
    crew.take([2, 2, 2])
    states = [dataset.state_dict() for dataset, _ in crew.passes]
    with pytest.raises(ConfigError, match="give those of every rank, or of one"):
        crew.passes[0][0].merge_states(states[:2])
