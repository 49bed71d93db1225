"""The law of resuming a reader: stopped anywhere, on any ranks and workers, the rest is that of a whole run."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.test_token_dataset import IDS, LAYOUTS, UNITS
from tests.tokenizer_jobs.token_crews import Crew, as_worker, opened, told
from tests.tokenizer_jobs.token_outputs import write_output
from tokenizer_jobs.errors import ConfigError

REMAINDERS = st.sampled_from(["pad", "drop", "keep"])
PACKINGS = st.sampled_from([None, 17])
# Ranks and workers, and the steps that each takes before all are stopped.
STOPS = LAYOUTS.flatmap(lambda layout: st.tuples(st.just(layout), st.tuples(*[st.integers(0, 25)] * math.prod(layout))))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("resumed") / "out"
    write_output(folder, UNITS)
    return str(folder)


@given(LAYOUTS, REMAINDERS, PACKINGS, st.integers(1, 2), st.data())
@settings(max_examples=40, deadline=None)
def test_a_worker_goes_on_where_it_was(
    output: str,
    layout: tuple[int, int],
    remainder: str,
    pack_tokens: int | None,
    epochs: int,
    data: st.DataObject,
) -> None:
    rank, worker = (data.draw(st.integers(0, count - 1)) for count in layout)
    arguments: dict[str, Any] = {"rank": rank, "world_size": layout[0], "remainder": remainder, "epochs": epochs}
    dataset, resumed = (opened(output, pack_tokens=pack_tokens, **arguments) for _ in range(2))
    with as_worker(worker, layout[1], dataset):
        going = iter(dataset)
    next(islice(going, data.draw(st.integers(0, 25)), 0), None)
    resumed.load_state_dict(json.loads(json.dumps(dataset.state_dict())))
    with as_worker(worker, layout[1], resumed):
        assert [told(sample) for sample in resumed] == [told(sample) for sample in going]


@given(STOPS, STOPS, PACKINGS)
@example(((2, 1), (23, 11)), ((1, 1), (0,)), None)  # stopped before the epoch that one of those before was ahead in
@settings(max_examples=10, deadline=None)
def test_a_pass_over_epochs_is_resumed_by_others_anywhere(
    output: str,
    first: tuple[tuple[int, int], tuple[int, ...]],
    second: tuple[tuple[int, int], tuple[int, ...]],
    pack_tokens: int | None,
) -> None:
    arguments: dict[str, Any] = {"pack_tokens": pack_tokens, "remainder": "keep", "epochs": 2}
    whole = [told(sample) for sample in opened(output, **arguments)]
    state, taken = None, list[Any]()
    for layout, steps in (first, second):
        crew = Crew(output, *layout, **arguments, state=state)
        taken += crew.take(steps)  # some may be an epoch ahead of others
        state = json.loads(json.dumps(crew.state()))
    rest = Crew(output, *first[0], **arguments, state=state).rest()
    assert Counter(map(told, [*taken, *rest])) == Counter(whole)


@given(LAYOUTS, LAYOUTS, st.integers(0, 3 * len(IDS)), st.integers(0, 2))
@example((3, 1), (2, 1), 10, 1)  # of 22 rows the first rank takes one more than the others, which are a step ahead
@settings(max_examples=10, deadline=None)
def test_after_equal_steps_over_epochs_the_state_of_any_rank_does(
    output: str, before: tuple[int, int], after: tuple[int, int], steps: int, rank: int
) -> None:
    arguments: dict[str, Any] = {"remainder": "keep", "epochs": 3}
    crew = Crew(output, *before, **arguments)
    steps = min(steps, 3 * (len(IDS) // len(crew.passes)))
    taken = crew.take([steps] * len(crew.passes))
    states = [dataset.state_dict() for dataset, _ in crew.passes]
    state = crew.passes[0][0].merge_states([state for state in states if state["rank"] == rank % before[0]])
    rest = Crew(output, *after, **arguments, state=state).rest()
    whole = [told(sample) for sample in opened(output, **arguments)]
    assert Counter(map(told, [*taken, *rest])) == Counter(whole)


def test_ranks_that_go_on_from_the_state_of_one_are_merged(output: str) -> None:
    crew = Crew(output, 3, 1, remainder="keep", epochs=2)
    taken = crew.take([10] * 3)  # the first rank has 8 steps in an epoch, the others 7
    going_on = Crew(output, 3, 1, remainder="keep", epochs=2, state=crew.passes[1][0].state_dict())
    taken += going_on.take([2, 0, 1])
    rest = Crew(output, 1, 1, remainder="keep", epochs=2, state=going_on.state()).rest()
    assert Counter(sample["id"] for sample in [*taken, *rest]) == Counter(IDS * 2)


def test_ranks_that_have_loaded_a_state_save_it_again(output: str) -> None:
    crew = Crew(output, 2, 2)
    crew.take([3, 1, 2, 2])
    state = crew.state()
    ranks = [opened(output, rank=rank, world_size=3) for rank in range(3)]
    for dataset in ranks:
        dataset.load_state_dict(state)
    assert ranks[0].merge_states([dataset.state_dict() for dataset in ranks]) == state


def test_a_pass_without_end_refuses_a_rank_that_never_has_a_row(output: str) -> None:
    count = len(IDS) + 1
    spared, waiting = (
        opened(output, rank=len(IDS), world_size=count, remainder="keep", epochs=epochs) for epochs in (2, None)
    )
    assert list(spared) == []
    with pytest.raises(ConfigError, match="fewer workers"):
        next(iter(waiting))


@pytest.mark.filterwarnings("ignore:.set_vital. is deprecated")  # torchdata 0.11 beside torch 2.13
class TestStatefulLoaders:
    """The same in torchdata's StatefulDataLoader, whose workers are processes that read ahead."""

    @given(st.integers(0, 2), st.integers(1, 2), REMAINDERS, st.data())
    @settings(max_examples=8, deadline=None)
    def test_a_loader_goes_on_where_it_was(
        self, output: str, num_workers: int, world_size: int, remainder: str, data: st.DataObject
    ) -> None:
        rank = data.draw(st.integers(0, world_size - 1))
        arguments: dict[str, Any] = {"rank": rank, "world_size": world_size, "remainder": remainder}
        whole = list(self.loader(output, num_workers, **arguments))
        first = self.loader(output, num_workers, **arguments)
        taken = list(islice(first, data.draw(st.integers(0, len(whole)))))
        resumed = self.loader(output, num_workers, **arguments)
        resumed.load_state_dict(first.state_dict())
        assert self.samples([*taken, *resumed]) == self.samples(whole)

    @given(st.tuples(st.integers(1, 2), st.integers(0, 2)), st.tuples(st.integers(1, 2), st.integers(0, 2)), st.data())
    @settings(max_examples=8, deadline=None)
    def test_other_ranks_and_workers_go_on_where_these_were(
        self, output: str, before: tuple[int, int], after: tuple[int, int], data: st.DataObject
    ) -> None:
        whole = [told(sample) for sample in opened(output)]
        taken, merged = list[Any](), opened(output).state_dict()
        for world_size, num_workers in (before, after):
            loaders = [
                self.loader(output, num_workers, state=merged, rank=rank, world_size=world_size, remainder="keep")
                for rank in range(world_size)
            ]
            for loader in loaders:
                taken += self.samples(islice(loader, data.draw(st.integers(0, 4))))
            merged = opened(output).merge_states([loader.state_dict() for loader in loaders])
        last = opened(output)
        last.load_state_dict(merged)
        rest = [told(sample) for sample in last]
        assert Counter(taken + rest) == Counter(whole)
        assert rest == [sample for sample in whole if sample in rest]

    def loader(self, output: str, num_workers: int, *, state: Any = None, **arguments: Any) -> Any:
        loaders = pytest.importorskip("torchdata.stateful_dataloader")
        dataset = opened(output, **arguments)
        if state is not None:
            dataset.load_state_dict(state)
        return loaders.StatefulDataLoader(dataset, batch_size=2, num_workers=num_workers, collate_fn=list)

    def samples(self, batches: Iterable[Any]) -> list[Any]:
        return [told(sample) for batch in batches for sample in batch]
