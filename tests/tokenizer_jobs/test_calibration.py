"""Predictions: costs are found again where they are known, samples stand for the whole, a real job is met."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs.config import JobConfig
from tokenizer_jobs.dry_run import PriceList, plan
from tokenizer_jobs.dry_run.costs import (
    Machine,
    MeasuredUnit,
    UnitWork,
    fit_stages,
    fit_with_first,
    job_seconds,
    stage_seconds,
)
from tokenizer_jobs.dry_run.pricing import machine_costs
from tokenizer_jobs.dry_run.sampling import SampledItems, sample_items
from tokenizer_jobs.dry_run.timing import command_spent, cpu_clock
from tokenizer_jobs.errors import ConfigError
from tokenizer_jobs.item_table import ItemTable
from tokenizer_jobs.records import Item
from tokenizer_jobs.results import StageCost

REPOSITORY = Path(__file__).parents[2]
COSTS = {
    "decode_wait": StageCost(per_item=0.004, per_audio_second=0.001, per_unit=0.0),
    "encode": StageCost(per_item=0.001, per_audio_second=0.02, per_unit=0.0),
    "commit": StageCost(per_item=0.0, per_audio_second=0.0, per_unit=0.03),
}
work = st.builds(UnitWork, items=st.integers(1, 500), audio_seconds=st.floats(1, 5000))


def measured(unit: UnitWork, *, factor: float = 1.0) -> MeasuredUnit:
    seconds = {name: factor * value for name, value in stage_seconds([unit], COSTS).items()}
    return MeasuredUnit(items=unit.items, audio_seconds=unit.audio_seconds, stages=seconds)


def units(count: int, *, seed: int = 0) -> list[UnitWork]:
    generator = np.random.default_rng(seed)
    return [
        UnitWork(items=int(generator.integers(1, 300)), audio_seconds=float(generator.uniform(10, 200)))
        for _ in range(count)
    ]


def test_costs_are_found_again() -> None:
    fitted = fit_stages([measured(unit) for unit in units(20)])
    for name, cost in COSTS.items():
        assert fitted[name].model_dump() == pytest.approx(cost.model_dump(), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(work, st.floats(0.2, 5)), min_size=1, max_size=12))
def test_no_cost_is_negative_and_the_samples_own_time_is_met(noisy: list[tuple[UnitWork, float]]) -> None:
    sample = [measured(unit, factor=factor) for unit, factor in noisy]
    fitted = fit_stages(sample)
    assert all(value >= 0 for cost in fitted.values() for value in cost.model_dump().values())
    for name, seconds in stage_seconds(sample, fitted).items():
        assert seconds == pytest.approx(sum(unit.stages[name] for unit in sample))


def test_short_items_are_dearer_by_the_second() -> None:
    sample = [measured(UnitWork(items=n, audio_seconds=60.0)) for n in (1, 10, 100, 200)]
    whole = [UnitWork(items=10_000, audio_seconds=6000.0)]
    assert stage_seconds(whole, fit_stages(sample))["decode_wait"] == pytest.approx(10_000 * 0.004 + 6.0)


def test_what_a_lane_begins_with_is_counted_once() -> None:
    sample = [measured(unit) for unit in units(12)]
    late = {**sample[0].stages, "decode_wait": sample[0].stages["decode_wait"] + 5.0}
    first = MeasuredUnit(items=sample[0].items, audio_seconds=sample[0].audio_seconds, stages=late)
    costs, seconds = fit_with_first([first, *sample[1:]], lanes=2)
    assert seconds == pytest.approx(2.5)
    assert costs["decode_wait"].per_unit == pytest.approx(0.0, abs=1e-9)


@settings(deadline=None)
@given(st.lists(work, min_size=1, max_size=30), st.integers(1, 16))
def test_more_lanes_take_no_longer_and_never_less_than_their_share(planned: list[UnitWork], lanes: int) -> None:
    def seconds(number: int) -> float:
        return job_seconds(planned, COSTS, machine=Machine(lanes=number), startup_seconds=3.0)

    whole = sum(stage_seconds(planned, COSTS).values())
    longest = max(sum(stage_seconds([unit], COSTS).values()) for unit in planned)
    assert seconds(1) == pytest.approx(3.0 + whole)
    assert seconds(lanes) <= seconds(1) * (1 + 1e-9)
    # A lane that takes the next unit as soon as it is free ends within one unit of the even share.
    assert 3.0 + whole / lanes <= seconds(lanes) * (1 + 1e-9)
    assert seconds(lanes) <= (3.0 + whole / lanes + longest) * (1 + 1e-9)


def test_gpus_help_until_the_cores_are_the_slower_side() -> None:
    planned = units(200)

    def seconds(gpus: int, lanes: int = 4) -> float:
        return job_seconds(planned, COSTS, machine=Machine(lanes=lanes, gpus=gpus), startup_seconds=0.0)

    stages = stage_seconds(planned, COSTS)
    assert seconds(1) == pytest.approx(stages["encode"], rel=0.01)
    assert seconds(2) == pytest.approx(stages["encode"] / 2, rel=0.01)
    assert seconds(64) == pytest.approx((stages["decode_wait"] + stages["commit"]) / 4, rel=0.01)
    assert seconds(64, lanes=8) == pytest.approx(seconds(64) / 2, rel=0.01)


def listing(seconds: list[float]) -> ItemTable:
    return ItemTable.of(
        [Item(id=f"{n:05d}", source_uri=f"/{n:05d}", estimated_seconds=length) for n, length in enumerate(seconds)]
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 5), st.integers(200, 2000))
def test_a_sample_has_the_lengths_of_the_whole(seed: int, count: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(1.0, 0.7, count)
    sample = sample_items(listing(lengths.tolist()), audio_seconds=300.0, seed=seed)
    mean = sum(item.estimated_seconds for item in sample) / len(sample)
    assert len({item.id for item in sample}) == len(sample)
    assert mean == pytest.approx(float(np.minimum(lengths, 300 / 8).mean()), rel=0.15)
    assert sum(item.estimated_seconds for item in sample) == pytest.approx(300.0, rel=0.2)


def test_of_long_recordings_only_the_beginning_is_taken() -> None:
    (first, *_) = sample = sample_items(listing([36_000.0] * 40), audio_seconds=400.0, seed=0)
    assert len(sample) == 8
    assert (first.start_seconds, first.duration_seconds, first.estimated_seconds) == (0.0, 50.0, 50.0)


def test_what_is_less_than_the_budget_is_taken_whole() -> None:
    table = listing([10.0, 200.0])
    assert sample_items(table, audio_seconds=1e6, seed=0) == tuple(table)


def test_a_list_of_prices_is_validated(tmp_path: Path) -> None:
    assert len(PriceList.load(REPOSITORY / "examples" / "prices.yaml").machines) == 3
    kind = "{name: a, cores: 4, price_per_hour: 1, currency: EUR}"
    for content, message in (
        ("machines: []", "machines"),
        ("machines: [{name: a, core: 4, price_per_hour: 1, currency: EUR}]", "did you mean cores"),
        (f"machines: [{kind}, {kind}]", "a is there more than once"),
        ("machines: [{name: a, cores: 4, price_per_hour: -1, currency: EUR}]", "price_per_hour"),
        ("machines: [{name: a, cores: 4, price_per_hour: 1}]", "currency is missing"),
    ):
        path = tmp_path / "prices.yaml"
        path.write_text(content)
        with pytest.raises(ConfigError, match=message):
            PriceList.load(path)


def test_costs_are_hours_times_prices() -> None:
    kinds = [
        {"name": "here", "cores": 4, "price_per_hour": 0.5, "currency": "EUR"},
        {"name": "gpu", "cores": 8, "gpus": 1, "price_per_hour": 2, "currency": "USD"},
    ]
    prices = PriceList.model_validate({"machines": kinds})
    here, gpu = machine_costs(prices, cores=4, gpus=0, seconds_on=lambda cores, gpus: None if gpus else 7200.0)
    assert (here.is_this_machine, here.cost, here.currency) == (True, 1.0, "EUR")
    assert (gpu.is_this_machine, gpu.cost, gpu.seconds) == (False, None, None)


def test_a_part_of_the_real_job_is_done_and_leaves_nothing_behind(tmp_path: Path) -> None:
    config = JobConfig.parse(
        {
            "output": str(tmp_path / "out"),
            "recipe": {"codec": {"model": "demo"}},
            "selection": {"source": {"kind": "demo"}, "limit": 12, "shards": {"unit_minutes": 0.1}},
            "runtime": {"executor": "inline", "encoders": 1},
        },
        origin="test",
    )
    prices = PriceList.load(REPOSITORY / "examples" / "prices.yaml")
    result = plan(config, prices=prices)
    found = result.calibration
    assert found is not None
    assert (found.items, found.rejects, found.device, found.lanes) == (12, 0, "cpu", 1)
    assert found.audio_seconds == pytest.approx(result.hours * 3600)
    assert found.predicted_seconds > found.startup_seconds > 0
    assert found.gpus_seconds[0] < found.predicted_seconds
    assert found.twice_cores_seconds < found.predicted_seconds
    assert found.cpu_seconds > 0
    assert {"decode_wait", "encode", "write", "commit"} <= found.stages.keys()
    assert [cost.name for cost in result.costs] == ["small", "large", "one-gpu"]
    assert not (tmp_path / "out").exists()


def test_cpu_seconds_count_children_and_not_waiting() -> None:
    program = "import time\nwhile time.process_time() < 0.3: pass"
    begin = cpu_clock()
    time.sleep(0.2)
    waited = cpu_clock() - begin
    subprocess.run([sys.executable, "-c", program], check=True)
    assert waited < 0.15
    assert cpu_clock() - begin > 0.25  # children's time comes in ticks of a hundredth


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    config = JobConfig.parse(
        {
            "output": str(tmp_path / "out"),
            "recipe": {"codec": {"model": str(tmp_path / "nowhere")}},
            "selection": {"source": {"kind": "demo"}},
        },
        origin="test",
    )
    with pytest.raises(ConfigError, match=r"nowhere.*doctor"):
        command_spent(config, folder=tmp_path)


def test_a_sample_is_opened_without_torch() -> None:
    program = f"import sys, {SampledItems.__module__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
