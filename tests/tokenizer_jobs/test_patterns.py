"""Laws of patterns: inverses, causality, numpy = torch, batch = one by one; and equality with the published ones."""

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer_jobs.training import (
    CoarseFirstPattern,
    DelayPattern,
    FlattenPattern,
    ParallelPattern,
    Pattern,
    ValleArPattern,
    ValleNarPattern,
)
from tokenizer_jobs.training.patterns import NEXT_FREE_ID

SIZE = 16
IntArray = npt.NDArray[np.int64]
NAR_SEED = 7


@st.composite
def delays(draw: st.DrawFn, num_codebooks: int) -> Pattern:
    late = draw(st.lists(st.integers(0, 5), min_size=num_codebooks, max_size=num_codebooks))
    chosen = draw(st.sampled_from([None, tuple(late)]))
    return DelayPattern(pad_id=SIZE, delays=chosen, eos_id=draw(st.sampled_from([None, SIZE + 1])))


@st.composite
def streams(draw: st.DrawFn, num_codebooks: int) -> Pattern:
    bos_id, eos_id = (draw(st.sampled_from([None, NEXT_FREE_ID])) for _ in range(2))
    num_coarse = draw(st.integers(1, num_codebooks))
    made: list[FlattenPattern | CoarseFirstPattern | ValleArPattern] = [
        FlattenPattern(num_codebooks=num_codebooks, codebook_size=SIZE, bos_id=bos_id, eos_id=eos_id),
        CoarseFirstPattern(
            num_codebooks=num_codebooks, num_coarse=num_coarse, codebook_size=SIZE, bos_id=bos_id, eos_id=eos_id
        ),
        ValleArPattern(codebook_size=SIZE, bos_id=bos_id, eos_id=eos_id),
    ]
    return draw(st.sampled_from(made))


@st.composite
def next_token_patterns(draw: st.DrawFn, num_codebooks: int) -> Pattern:
    parallel = ParallelPattern(pad_id=SIZE + 1, codebook_size=SIZE, eos_id=draw(st.sampled_from([None, SIZE])))
    return draw(st.one_of(delays(num_codebooks), streams(num_codebooks), st.just(parallel)))


@st.composite
def patterns(draw: st.DrawFn, num_codebooks: int) -> Pattern:
    levels: list[int | None] = [None, *range(1, num_codebooks)]
    nar = st.sampled_from(levels).map(lambda level: ValleNarPattern(pad_id=SIZE, level=level))
    return draw(st.one_of(next_token_patterns(num_codebooks), nar) if num_codebooks > 1 else next_token_patterns(1))


def random_codes(*shape: int, seed: int) -> npt.NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, SIZE, shape).astype(np.uint16)


def inverted(pattern: Pattern, codes: npt.NDArray[Any], tokens: IntArray) -> npt.NDArray[Any]:
    """What the inverse promises: all codebooks, or the one that a pattern of VALL-E holds."""
    if isinstance(pattern, ValleArPattern):
        return codes[:1]
    if isinstance(pattern, ValleNarPattern):
        level = int(pattern.levels(tokens))
        return codes[level : level + 1] if level > 0 else codes[:1]  # without frames there is no level to see
    return codes


CODEBOOKS, FRAMES, SEEDS = st.integers(1, 9), st.integers(0, 40), st.integers(0, 1000)


@given(st.data(), CODEBOOKS, FRAMES, SEEDS)
@settings(max_examples=200, deadline=None)
def test_the_inverse_gives_the_codes(data: st.DataObject, num_codebooks: int, num_frames: int, seed: int) -> None:
    pattern, codes = data.draw(patterns(num_codebooks)), random_codes(num_codebooks, num_frames, seed=seed)
    tokens = pattern.apply(codes, seed=NAR_SEED)
    assert tokens.dtype == np.int64
    assert tokens.shape[-1] == pattern.num_tokens(num_frames, num_codebooks=num_codebooks)
    back = pattern.invert(tokens)
    assert back.dtype == np.int64
    assert np.array_equal(back, inverted(pattern, codes, tokens))


@given(st.data(), CODEBOOKS, FRAMES, SEEDS)
@settings(max_examples=100, deadline=None)
def test_torch_gives_what_numpy_gives(data: st.DataObject, num_codebooks: int, num_frames: int, seed: int) -> None:
    pattern, codes = data.draw(patterns(num_codebooks)), random_codes(2, num_codebooks, num_frames, seed=seed)
    lengths = data.draw(st.one_of(st.none(), st.lists(st.integers(0, num_frames), min_size=2, max_size=2)))
    of_numpy = pattern.apply(codes, lengths=lengths, seed=NAR_SEED)
    dtype = data.draw(st.sampled_from([torch.uint16, torch.int32, torch.int64]))
    given_lengths = None if lengths is None else torch.tensor(lengths)
    of_torch = pattern.apply(torch.from_numpy(codes).to(dtype), lengths=given_lengths, seed=NAR_SEED)
    assert of_torch.dtype == torch.int64
    assert of_torch.is_contiguous()
    assert np.array_equal(of_torch.numpy(), of_numpy)
    if lengths is not None or not isinstance(pattern, ValleNarPattern):
        assert np.array_equal(
            pattern.invert(of_torch, lengths=lengths).numpy(), pattern.invert(of_numpy, lengths=lengths)
        )
    for name in ("inputs", "targets", "loss_weights"):
        torchs, numpys = getattr(pattern.supervise(of_torch), name), getattr(pattern.supervise(of_numpy), name)
        assert str(torchs.dtype) == f"torch.{numpys.dtype}"
        assert np.array_equal(torchs.numpy(), numpys)


@given(st.data(), CODEBOOKS, FRAMES, SEEDS)
@settings(max_examples=150, deadline=None)
def test_a_batch_holds_each_items_own_tokens_padded_on_the_right(
    data: st.DataObject, num_codebooks: int, num_frames: int, seed: int
) -> None:
    pattern = data.draw(patterns(num_codebooks))
    if isinstance(pattern, ValleNarPattern) and pattern.level is None:
        pattern = replace(pattern, level=1)  # a batch draws a level for each
    codes = random_codes(3, num_codebooks, num_frames, seed=seed).astype(np.int64)
    lengths = data.draw(st.lists(st.integers(0, num_frames), min_size=3, max_size=3))
    for item, length in zip(codes, lengths, strict=True):
        item[:, length:] = -77  # what stands past an item's end does not matter
    tokens = pattern.apply(codes, lengths=lengths)
    back = pattern.invert(tokens, lengths=lengths)
    for row, item, restored, length in zip(tokens, codes, back, lengths, strict=True):
        alone = pattern.apply(item[:, :length])
        assert np.array_equal(row[..., : alone.shape[-1]], alone)
        assert (row[..., alone.shape[-1] :] == pattern.pad_id).all()
        assert np.array_equal(restored[:, :length], inverted(pattern, item[:, :length], alone))
        assert (restored[:, length:] == 0).all()


@given(st.data(), CODEBOOKS, st.integers(1, 40), SEEDS)
@settings(max_examples=100, deadline=None)
def test_every_code_and_every_end_is_a_target_once_and_nothing_else_is(
    data: st.DataObject, num_codebooks: int, num_frames: int, seed: int
) -> None:
    pattern = data.draw(next_token_patterns(num_codebooks))
    codes = random_codes(2, num_codebooks, num_frames, seed=seed)
    lengths = np.array([num_frames, data.draw(st.integers(0, num_frames))])
    tokens = pattern.apply(codes, lengths=lengths)
    has_eos = getattr(pattern, "eos_id", None) is not None
    is_stream = tokens.ndim == 2
    num_streamed = 1 if isinstance(pattern, ValleArPattern) else num_codebooks
    ends = has_eos * (1 if is_stream else num_codebooks)
    assert pattern.mask(tokens).sum() == num_streamed * lengths.sum()
    assert pattern.loss_weights(tokens).sum() == num_streamed * lengths.sum() + 2 * ends
    # Shifted, a code that nothing stands before is given, not predicted: that is the first of a stream without a start.
    unseen = int(((pattern.loss_weights(tokens)[..., 0]) > 0).sum())
    step = pattern.supervise(tokens)
    assert step.loss_weights.sum() == pattern.loss_weights(tokens).sum() - unseen
    assert unseen == 0 or (is_stream and getattr(pattern, "bos_id", None) is None)
    assert step.inputs.shape == step.targets.shape == step.loss_weights.shape
    assert np.array_equal(step.inputs[..., 1:], step.targets[..., :-1])
    assert (tokens < pattern.vocabulary_size).all()


@given(st.data(), CODEBOOKS, st.integers(1, 40), SEEDS)
@settings(max_examples=100, deadline=None)
def test_a_delayed_column_holds_nothing_of_later_frames(
    data: st.DataObject, num_codebooks: int, num_frames: int, seed: int
) -> None:
    late = tuple(data.draw(st.lists(st.integers(0, 4), min_size=num_codebooks, max_size=num_codebooks)))
    pattern = DelayPattern(pad_id=SIZE, delays=data.draw(st.sampled_from([None, late])))
    frame = data.draw(st.integers(0, num_frames - 1))
    codes = random_codes(num_codebooks, num_frames, seed=seed)
    changed = codes.copy()
    changed[:, frame:] = (changed[:, frame:] + 1) % SIZE
    differs = pattern.apply(codes) != pattern.apply(changed)
    for codebook, delay in enumerate(pattern.delays_of(num_codebooks)):
        assert not differs[codebook, : frame + delay + 1].any()
        assert differs[codebook, frame + delay + 1 : num_frames + delay + 1].all()


@given(CODEBOOKS, st.integers(1, 9), st.integers(1, 40))
@settings(max_examples=50, deadline=None)
def test_no_two_codebooks_of_a_stream_share_an_id(num_codebooks: int, num_coarse: int, codebook_size: int) -> None:
    each = np.tile(np.arange(codebook_size), (num_codebooks, 1))  # every code of every codebook once
    pattern = CoarseFirstPattern(
        num_codebooks=num_codebooks,
        num_coarse=min(num_coarse, num_codebooks),
        codebook_size=codebook_size,
        bos_id=NEXT_FREE_ID,
        eos_id=NEXT_FREE_ID,
    )
    tokens = pattern.apply(each)
    assert sorted(tokens[pattern.mask(tokens)]) == list(range(num_codebooks * codebook_size))
    assert sorted([pattern.pad_id, pattern.bos_id or 0, pattern.eos_id or 0])[0] == num_codebooks * codebook_size
    assert len({pattern.pad_id, pattern.bos_id, pattern.eos_id}) == 3
    assert pattern.vocabulary_size == num_codebooks * codebook_size + 3


@given(CODEBOOKS, st.integers(0, 20), st.integers(1, 9), SEEDS)
@settings(max_examples=50, deadline=None)
def test_streams_are_those_of_the_papers_loops(num_codebooks: int, num_frames: int, coarse: int, seed: int) -> None:
    codes, coarse = random_codes(num_codebooks, num_frames, seed=seed), min(coarse, num_codebooks)
    flat, halves = list[int](), list[int]()
    for frame in range(num_frames):
        flat += [codebook * SIZE + int(codes[codebook, frame]) for codebook in range(num_codebooks)]
    for section in (range(coarse), range(coarse, num_codebooks)):
        for frame in range(num_frames):
            halves += [codebook * SIZE + int(codes[codebook, frame]) for codebook in section]
    assert FlattenPattern(num_codebooks=num_codebooks, codebook_size=SIZE).apply(codes).tolist() == flat
    pattern = CoarseFirstPattern(num_codebooks=num_codebooks, num_coarse=coarse, codebook_size=SIZE)
    assert pattern.apply(codes).tolist() == halves


def test_delay_is_drawn_as_documented() -> None:
    codes = np.arange(12).reshape(3, 4)
    tokens = DelayPattern(pad_id=99, eos_id=98, codebook_size=12).apply(codes)
    assert tokens.tolist() == [
        [99, 0, 1, 2, 3, 98, 99, 99],
        [99, 99, 4, 5, 6, 7, 98, 99],
        [99, 99, 99, 8, 9, 10, 11, 98],
    ]


# VALL-E


@given(st.integers(2, 9), st.integers(1, 20), SEEDS)
@settings(max_examples=50, deadline=None)
def test_nar_reads_the_codebooks_below_its_level_and_predicts_the_levels(
    num_codebooks: int, num_frames: int, seed: int
) -> None:
    codes = random_codes(num_codebooks, num_frames, seed=seed)
    pattern = ValleNarPattern(pad_id=SIZE)
    tokens = pattern.apply(codes, seed=seed)
    level = int(pattern.levels(tokens))
    step = pattern.supervise(tokens)
    assert np.array_equal(step.inputs[:level], codes[:level])
    assert (step.inputs[level:] == SIZE).all()
    assert np.array_equal(step.targets, codes[level])
    assert (step.loss_weights == 1).all()
    weights = pattern.loss_weights(tokens)
    assert (weights[level] == 1).all()
    assert weights.sum() == num_frames
    assert np.array_equal(replace(pattern, level=level).apply(codes), tokens)


def test_nar_levels_are_drawn_by_the_seed_each_as_often() -> None:
    pattern = ValleNarPattern(pad_id=SIZE)
    codes = random_codes(4000, 5, 3, seed=0)
    levels = pattern.levels(pattern.apply(codes, seed=11))
    assert np.array_equal(levels, pattern.levels(pattern.apply(codes, seed=11)))
    assert not np.array_equal(levels, pattern.levels(pattern.apply(codes, seed=12)))
    counts = np.bincount(levels, minlength=5)
    assert counts[0] == 0
    # 1,000 each are expected, with a standard deviation of 27.
    assert (abs(counts[1:] - 1000) < 150).all()
    generator = np.random.default_rng(11)
    drawn = [pattern.levels(pattern.apply(codes, seed=generator)) for _ in range(2)]
    assert np.array_equal(drawn[0], levels)
    assert not np.array_equal(drawn[0], drawn[1])


def test_an_item_without_frames_weighs_nothing_in_a_batch_of_nar() -> None:
    codes = random_codes(2, 4, 3, seed=0)
    pattern = ValleNarPattern(pad_id=SIZE, level=2)
    step = pattern.supervise(pattern.apply(codes, lengths=[3, 0]))
    assert step.loss_weights.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert (step.targets[1] == SIZE).all()


def test_patterns_travel_between_processes() -> None:
    for pattern in (
        DelayPattern(delays=(0, 1)),
        ParallelPattern(eos_id=1025),
        FlattenPattern(num_codebooks=4, eos_id=NEXT_FREE_ID),
        CoarseFirstPattern(num_codebooks=4, num_coarse=1),
        ValleArPattern(),
        ValleNarPattern(level=1),
    ):
        assert pickle.loads(pickle.dumps(pattern)) == pattern
        assert isinstance(pattern, Pattern)


CODES = np.zeros((4, 3), dtype=np.int64)
ALL: list[Pattern] = [
    DelayPattern(),
    ParallelPattern(),
    FlattenPattern(num_codebooks=4),
    CoarseFirstPattern(num_codebooks=4, num_coarse=2),
    ValleArPattern(),
    ValleNarPattern(level=1),
]


def test_tokens_stay_on_the_gpu(gpu: Any) -> None:
    for pattern in ALL:
        tokens = pattern.apply(torch.from_numpy(CODES).to(gpu))
        step = pattern.supervise(tokens)
        assert {tokens.device, pattern.invert(tokens).device, step.targets.device, step.loss_weights.device} == {gpu}
        assert np.array_equal(tokens.cpu().numpy(), pattern.apply(CODES))
