"""Laws of mixtures: weights hold, each dataset is gone through once an epoch of its own, and any stop is resumed."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer_jobs.token_outputs import write_output
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.training.dataset import TokenDataset
from tokenizer_jobs.training.mixing import MixedTokenDataset
from tokenizer_jobs.training.patterns import ParallelPattern

Outputs = tuple[str, str]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp("mixed")
    write_output(folder / "large", [[12] * 400, [13] * 300])
    write_output(folder / "small", [[15] * 300])
    return str(folder / "large"), str(folder / "small")


def mixed(outputs: Outputs, weights: tuple[float, float] = (1, 3), **arguments: Any) -> MixedTokenDataset:
    parts = [(TokenDataset(output, crop_frames=10), weight) for output, weight in zip(outputs, weights, strict=True)]
    return MixedTokenDataset(parts, **{"num_samples": 200, "seed": 2} | arguments)


def told(sample: dict[str, Any]) -> tuple[Any, ...]:
    return sample["source"], sample["id"], sample["start_frame"], sample["codes"].numpy().tobytes()


def test_weights_hold_and_each_dataset_is_gone_through_evenly(outputs: Outputs) -> None:
    counts = Counter((sample["source"], sample["id"]) for sample in mixed(outputs, num_samples=1024 * 48))
    for source, rows, share in ((0, 700, 256), (1, 300, 768)):
        own = [count for (other, _), count in counts.items() if other == source]
        assert sum(own) == share * 48
        assert len(own) == rows
        assert max(own) - min(own) <= 3  # the columns of 300 rows are up to two epochs apart where a round ends


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 30), st.data())
@settings(max_examples=10, deadline=None)
def test_a_mixture_is_resumed_anywhere(
    outputs: Outputs, before: int, after: int, rounds: int, data: st.DataObject
) -> None:
    whole = [told(sample) for sample in mixed(outputs)]
    ranks = [mixed(outputs, rank=rank, world_size=before, remainder="keep") for rank in range(before)]
    taken = []
    for dataset in ranks:
        taken += [told(sample) for sample in islice(dataset, rounds + data.draw(st.integers(0, 3)))]
    state = ranks[0].merge_states([dataset.state_dict() for dataset in ranks])
    rest = []
    for rank in range(after):
        resumed = mixed(outputs, rank=rank, world_size=after, remainder="keep")
        resumed.load_state_dict(state)
        rest.append([told(sample) for sample in resumed])
    assert Counter(taken) + Counter(sample for own in rest for sample in own) == Counter(whole)


def test_epochs_of_a_mixture_follow_one_another(outputs: Outputs) -> None:
    long = [told(sample) for sample in mixed(outputs, num_samples=400)]
    found = [told(sample) for sample in mixed(outputs, epochs=2)]
    assert found == long


def test_unequal_recipes_are_refused_unless_said(outputs: Outputs, tmp_path: Path) -> None:
    write_output(tmp_path / "other", [[12, 13]], recorded={"weights_sha256": "cd" * 32})
    with pytest.raises(ConfigError, match=r"datasets 0 and 1 .*weights_sha256: .*allow_unequal=True"):
        mixed((outputs[0], str(tmp_path / "other")))
    assert len(list(mixed((outputs[0], str(tmp_path / "other")), allow_unequal=True))) == 200
    parts = [(TokenDataset(outputs[0], num_codebooks=4), 1.0), (TokenDataset(outputs[1]), 1.0)]
    with pytest.raises(ConfigError, match="num_codebooks: 4 and 8"):
        MixedTokenDataset(parts)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"pattern": ParallelPattern()}, "pattern"),
        ({"pack_tokens": 20}, "pack_tokens"),
        ({"columns": ["peak"]}, "columns"),
    ],
)
def test_samples_that_make_no_batch_together_are_refused(outputs: Outputs, arguments: Any, name: str) -> None:
    parts = [(TokenDataset(outputs[0]), 1.0), (TokenDataset(outputs[1], **arguments), 1.0)]
    with pytest.raises(ConfigError, match=f"unlike recipes or layouts .*{name}: .* and "):
        MixedTokenDataset(parts)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (1.0, -1.0), (1.0, 1e-6), (1.0, float("nan"))])
def test_weights_that_cannot_hold_are_refused(outputs: Outputs, weights: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="weights = "):
        mixed(outputs, weights)
