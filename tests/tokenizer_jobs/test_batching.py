from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokenizer_jobs.batching import ENOUGH_ITEMS, MAX_BATCH_BYTES, MAX_BATCH_ITEMS, form_batches
from tokenizer_jobs.errors import RejectReason, Stage
from tokenizer_jobs.records import AudioFacts, Batch, Decoded, DecodedItem, DecodedStretch, RejectedItem, RowPlace

RATE = 100


def decoded(position: int, num_samples: int) -> Decoded:
    if num_samples == 0:
        return RejectedItem(position=position, stage=Stage.DECODE, reason=RejectReason.EMPTY, message="no samples")
    facts = AudioFacts(
        num_samples=num_samples,
        sample_rate=RATE,
        source_sample_rate=RATE,
        source_channels=1,
        source_format="WAV/PCM_16",
        channel=-1,
        rms_db=-20.0,
        peak=0.5,
        clipped_fraction=0.0,
        silent_fraction=0.0,
        truncated=False,
    )
    return DecodedItem(position=position, waveform=np.zeros((1, num_samples), dtype=np.float32), facts=facts)


lengths = st.lists(st.integers(0, 5 * RATE), max_size=60)
budgets = st.floats(0.5, 20.0)


def steps(lengths: list[int], *, batch_seconds: float) -> list[Batch | DecodedStretch | RejectedItem]:
    items = (decoded(position, length) for position, length in enumerate(lengths))
    return list(form_batches(items, batch_seconds=batch_seconds))


@given(lengths, budgets)
def test_every_item_is_in_one_batch_and_batches_keep_plan_order(lengths: list[int], budget: float) -> None:
    made = steps(lengths, batch_seconds=budget)
    batched = [item.position for batch in made if isinstance(batch, Batch) for item in batch.items]
    rejected = [step.position for step in made if isinstance(step, RejectedItem)]
    assert batched == [position for position, length in enumerate(lengths) if length]
    assert rejected == [position for position, length in enumerate(lengths) if not length]


@given(lengths, budgets)
def test_only_few_items_exceed_the_budget(lengths: list[int], budget: float) -> None:
    for batch in steps(lengths, batch_seconds=budget):
        if isinstance(batch, Batch) and len(batch.items) > ENOUGH_ITEMS:
            assert batch.num_samples <= budget * RATE + 1e-6


@given(lengths, budgets)
def test_a_batch_that_another_follows_holds_the_budget_or_enough_items(lengths: list[int], budget: float) -> None:
    batches = [step for step in steps(lengths, batch_seconds=budget) if isinstance(step, Batch)]
    for batch, following in pairwise(batches):
        assert len(batch.items) >= ENOUGH_ITEMS
        assert batch.num_samples + following.items[0].facts.num_samples > budget * RATE - 1e-6


def test_long_items_share_a_batch_up_to_a_bound_on_memory() -> None:
    half = MAX_BATCH_BYTES // 4 // 2
    made = steps([half, half, 3 * half, half], batch_seconds=1.0)
    assert [len(batch.items) for batch in made if isinstance(batch, Batch)] == [2, 1, 1]


def test_many_items_share_a_batch_up_to_a_bound_on_memory() -> None:
    """However much audio a batch may be."""
    most = 4 * ENOUGH_ITEMS
    made = steps([MAX_BATCH_BYTES // 4 // most] * (2 * most + 1), batch_seconds=1e9)
    assert [len(batch.items) for batch in made if isinstance(batch, Batch)] == [most, most, 1]


@given(lengths, budgets)
def test_rejects_between_items_do_not_change_the_batches(lengths: list[int], budget: float) -> None:
    def shapes(lengths: list[int]) -> list[list[int]]:
        made = steps(lengths, batch_seconds=budget)
        return [[item.facts.num_samples for item in batch.items] for batch in made if isinstance(batch, Batch)]

    assert shapes(lengths) == shapes([length for length in lengths if length])


def test_tiny_clips_do_not_pile_up_without_bound() -> None:
    made = [step for step in steps([1] * (2 * MAX_BATCH_ITEMS + 1), batch_seconds=1e6) if isinstance(step, Batch)]
    assert [len(batch.items) for batch in made] == [MAX_BATCH_ITEMS, MAX_BATCH_ITEMS, 1]
    assert len(set(chain.from_iterable((item.position for item in batch.items) for batch in made))) == 513


@given(lengths, budgets, st.integers(1, 8))
def test_slices_share_batches_as_items_do(lengths: list[int], budget: float, num_slices: int) -> None:
    def shapes(rows: list[Decoded]) -> list[list[int]]:
        made = form_batches(rows, batch_seconds=budget)
        return [[item.facts.num_samples for item in batch.items] for batch in made if isinstance(batch, Batch)]

    items = [decoded(position, length) for position, length in enumerate(lengths) if length]
    slices = [
        replace(item, position=number // num_slices, place=RowPlace(slice_index=number % num_slices), is_last=False)
        for number, item in enumerate(items)
        if isinstance(item, DecodedItem)
    ]
    assert shapes([*slices]) == shapes(items)


def test_a_stretch_comes_after_what_waited_and_before_what_follows() -> None:
    waveform = np.zeros((1, RATE), np.float32)
    stretch = DecodedStretch(position=2, waveform=waveform, place=RowPlace(), facts=None, is_last=False)
    rows = [decoded(0, RATE), decoded(1, RATE), stretch, stretch, decoded(3, RATE)]
    made = list(form_batches(rows, batch_seconds=60.0))
    assert [len(step.items) if isinstance(step, Batch) else step for step in made] == [2, stretch, stretch, 1]
