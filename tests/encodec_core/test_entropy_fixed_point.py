"""The language model in whole numbers: nothing about a machine changes its shares, and it costs no bits."""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from encodec_core.entropy import (
    FixedPointLanguageModel,
    LanguageModel,
    LanguageModelConfig,
    fixed_point,
    previous_codes,
)
from encodec_core.entropy.tables import Integers, exp_tables, gelu_table, rotations
from tests.encodec_core.language_models import SMALL, make_language_model, random_codes, small_language_model

WIDE = replace(SMALL, dim=96, feed_forward_dim=256, n_q=3, codebook_size=128)
DIGEST = "a05bdda7bd237a1536a761c59c53ff02b299045f29d6494215174d146b8a1942"
"""Of the shares of fixed weights for fixed codes, on every machine."""
NUM_FRAMES = 150
"""More than a block of frames predicted at once, and than two caches."""


def codes_of(config: LanguageModelConfig) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = random_codes(config.n_q, NUM_FRAMES, entries=config.codebook_size)[0].numpy()
    return codes


def shares_of(model: LanguageModel, codes: NDArray[np.int64], *, block: int = 64) -> NDArray[np.int64]:
    previous = previous_codes(torch.from_numpy(codes)).numpy()
    predictor = FixedPointLanguageModel(model).predictor()
    blocks = [predictor.ends(previous[:, start : start + block]) for start in range(0, codes.shape[1], block)]
    return np.concatenate(blocks)


def in_whole_numbers(a: Integers, b: Integers) -> Integers:
    """Multiply int64 matrices: no rounding can hide here."""
    assert np.array_equal(a, np.rint(a))
    assert np.array_equal(b, np.rint(b))
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float64)


def in_another_order(a: Integers, b: Integers) -> Integers:
    order = np.random.default_rng(0).permutation(a.shape[-1])
    total = np.zeros((*a.shape[:-1], b.shape[-1]))
    for terms in np.array_split(order, 7):
        total = total + a[..., terms] @ b[..., terms, :]
    return total


def by_torch(a: Integers, b: Integers) -> Integers:
    product: Integers = (torch.from_numpy(np.ascontiguousarray(a)) @ torch.from_numpy(np.ascontiguousarray(b))).numpy()
    return product


def transposed(a: Integers, b: Integers) -> Integers:
    product: Integers = np.matmul(b.swapaxes(-1, -2), a.swapaxes(-1, -2)).swapaxes(-1, -2)
    return product


@pytest.mark.parametrize("multiply", [in_whole_numbers, in_another_order, by_torch, transposed])
def test_shares_do_not_depend_on_how_a_machine_multiplies(
    multiply: Callable[[Integers, Integers], Integers], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, codes = make_language_model(WIDE, sharpness=4.0), codes_of(WIDE)
    expected = shares_of(model, codes)
    monkeypatch.setattr(fixed_point, "_matmul", multiply)
    assert np.array_equal(shares_of(model, codes), expected)


def test_sums_stay_exact_at_the_largest_weights_and_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(WIDE, dim=512, feed_forward_dim=4095, past_context=60, num_layers=1)
    model = make_language_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(64 * parameter.sign())
    codes = codes_of(config)[:, :8]
    largest = 0.0

    def checked(a: Integers, b: Integers) -> Integers:
        nonlocal largest
        largest = max(largest, float((np.abs(a) @ np.abs(b)).max()))
        return in_whole_numbers(a, b)

    expected = shares_of(model, codes)
    monkeypatch.setattr(fixed_point, "_matmul", checked)
    assert np.array_equal(shares_of(model, codes), expected)
    assert 2**50 < largest < 2**53


def test_sums_of_attention_stay_exact_at_the_longest_context_and_the_largest_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights that are all 1, values that are all clipped at 128: 2**20 * 2**21 * 4,095 keys."""
    config = replace(SMALL, n_q=1, dim=4, num_heads=1, num_layers=1, feed_forward_dim=4, past_context=4094)
    model = make_language_model(config)
    with torch.no_grad():
        attention = model.transformer.layers[0].self_attn
        assert isinstance(attention, torch.nn.MultiheadAttention)
        attention.in_proj_weight[: 2 * config.dim].zero_()
        attention.in_proj_weight[2 * config.dim :].fill_(64)
        attention.in_proj_bias.copy_(torch.zeros_like(attention.in_proj_bias))
        model.transformer.norm_in.weight.zero_()
        model.transformer.norm_in.bias.fill_(64)
    previous = np.ones((1, 65 * 64), np.int64)
    predictor = FixedPointLanguageModel(model).predictor()
    for start in range(0, 64 * 64, 64):
        predictor.ends(previous[:, start : start + 64])
    expected = copy.deepcopy(predictor).ends(previous[:, -64:])
    largest = 0.0

    def checked(a: Integers, b: Integers) -> Integers:
        nonlocal largest
        product = in_whole_numbers(a, b)
        largest = max(largest, float(np.abs(product).max()))
        return product

    monkeypatch.setattr(fixed_point, "_matmul", checked)
    assert np.array_equal(predictor.ends(previous[:, -64:]), expected)
    assert largest == 4095 * 2**41


@pytest.mark.parametrize("block", [1, 3, 63])
def test_shares_do_not_depend_on_how_many_frames_are_predicted_at_once(block: int) -> None:
    model, codes = small_language_model(), codes_of(SMALL)
    assert np.array_equal(shares_of(model, codes, block=block), shares_of(model, codes))


def test_two_streams_of_one_model_do_not_disturb_each_other() -> None:
    model = FixedPointLanguageModel(small_language_model())
    codes = codes_of(SMALL)
    previous = previous_codes(torch.from_numpy(codes)).numpy()
    early, late = model.predictor(), model.predictor()
    for start in range(0, 300, 50):  # one is two blocks of positions ahead
        late.ends(np.zeros((4, 50), np.int64) + start % 7)
    together = [(early.ends(previous[:, [frame]]), late.ends(previous[:, [frame]]))[0] for frame in range(20)]
    assert np.array_equal(np.concatenate(together), shares_of(small_language_model(), codes)[:20])


def test_shares_are_those_of_every_other_machine() -> None:
    """The weights follow from whole numbers, so nothing but the arithmetic under test can change the digest."""
    model = make_language_model(SMALL)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            places = torch.arange(parameter.numel(), dtype=torch.int64)
            mixed = (places * 2_654_435_761 + 40_503 * index) % 2**16
            parameter.copy_(((mixed - 2**15).double() / 2**16).view_as(parameter))
    codes = (np.arange(4 * 300).reshape(4, 300) ** 2 * 7 + 3) % SMALL.codebook_size
    digest = hashlib.sha256(shares_of(model, codes).astype("<i8").tobytes()).hexdigest()
    assert digest == DIGEST, "another digest means streams that no other version reads: raise FIXED_POINT_VERSION"


@pytest.mark.parametrize("sharpness", [1.0, 6.0])
def test_the_cost_beside_floating_point(sharpness: float) -> None:
    """Codes drawn from the float model itself, so that its own cost is the least there is."""
    config = replace(WIDE, num_layers=5, past_context=50)
    model, generator = make_language_model(config, sharpness=sharpness), torch.Generator().manual_seed(0)
    frames, state, float_bits = [torch.zeros(1, config.n_q, 1, dtype=torch.int64)], None, 0.0
    for _ in range(NUM_FRAMES):
        probabilities, state = model.probabilities(frames[-1], state)
        rows = probabilities[0, :, :, 0].T
        chosen = torch.multinomial(rows, 1, generator=generator)
        float_bits -= rows.gather(1, chosen).log2().sum().item()
        frames.append(chosen[None] + 1)
    codes = torch.cat(frames[1:], -1)[0].numpy() - 1
    ends = shares_of(model, codes)
    shares = np.diff(ends, axis=-1, prepend=0)
    chosen_shares = np.take_along_axis(shares, codes.T[..., None], axis=-1)
    fixed_bits = -np.log2(chosen_shares / 2**24).sum()
    # 2 of 2**24 go to every entry whatever it is worth: 128 entries cost 2e-5 bits a code; the rest is rounding.
    assert fixed_bits < 1.0005 * float_bits


def test_shares_are_probabilities_and_fit_their_range() -> None:
    ends = shares_of(make_language_model(WIDE, sharpness=50.0), codes_of(WIDE))
    assert np.diff(ends, axis=-1, prepend=0).min() >= 2
    assert 2**24 - 2 * WIDE.codebook_size <= ends[..., -1].min()
    assert ends[..., -1].max() <= 2**24


def test_tables_are_the_functions() -> None:
    coarse, fine = exp_tables()
    assert np.abs(coarse - 2**26 * np.exp(-np.arange(2048) / 2**6)).max() <= 0.5 + 1e-6
    assert np.abs(fine - 2**26 * np.exp(-np.arange(1024) / 2**16)).max() <= 0.5 + 1e-6
    places = np.arange(2**15 + 1) / 2**12
    tails = np.array([place * math.erfc(place / math.sqrt(2)) / 2 for place in places])
    assert np.abs(gelu_table(14) - 2**14 * tails).max() <= 0.5 + 1e-6
    cosines, sines = rotations(8, max_period=10_000, num_doublings=10, value_bits=30)
    angles = 2.0 ** np.arange(10)[:, None] * 10_000 ** (-np.arange(8) / 7)
    assert np.abs(cosines - 2**30 * np.cos(angles)).max() <= 0.5 + 1e-3
    assert np.abs(sines - 2**30 * np.sin(angles)).max() <= 0.5 + 1e-3


def test_tables_do_not_depend_on_the_programs_decimal_context() -> None:
    expected = rotations(4, max_period=10_000, num_doublings=3, value_bits=30)
    with localcontext(prec=5, rounding="ROUND_UP"):
        assert Decimal(1) / 3 == Decimal("0.33334")
        assert all(map(np.array_equal, rotations(4, max_period=10_000, num_doublings=3, value_bits=30), expected))


def test_models_beyond_the_bounds_are_refused() -> None:
    for too_wide in (
        replace(SMALL, dim=520),
        replace(SMALL, feed_forward_dim=4096),
        replace(SMALL, past_context=4095),
    ):
        with pytest.raises(ValueError, match="too wide"):
            FixedPointLanguageModel(make_language_model(too_wide))
    for bad in (65.0, math.nan):
        model = make_language_model(SMALL)
        with torch.no_grad():
            model.state_dict()["linears.1.weight"][0, 0] = bad
        with pytest.raises(ValueError, match="above 64"):
            FixedPointLanguageModel(model)
