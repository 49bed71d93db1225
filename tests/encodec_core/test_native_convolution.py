"""Convolutions in C have the bits of torch's, and chains of them give the same wherever an item is cut.

Letters in shapes: C channels, T time steps, N blocks of 16 channels.
"""

import copy
from dataclasses import dataclass
from itertools import accumulate
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.fast.layers import FoldedBlock, FoldedConv, Stage
from encodec_core.fast.native import programs
from encodec_core.fast.native.blocked import BlockedConv, activate
from encodec_core.fast.native.chain import Chain, Workspace, can_be_blocked
from encodec_core.fast.native.program import Program
from encodec_core.fast.native.terms import PRODUCT_NUMBERS
from encodec_core.modules.conv import extra_padding, pad1d
from tests.encodec_core.native_parts import (
    folded_conv,
    from_blocked,
    needs_kernels,
    needs_mkl_on_amd,
    needs_torch_on_avx512,
    normal,
    num_unequal_bits,
    to_blocked,
)

pytestmark = needs_kernels

SHAPES = ((1, 1, 1), (3, 1, 1), (3, 1, 2), (3, 1, 4), (4, 2, 1), (7, 1, 1), (8, 4, 1), (10, 5, 1), (16, 8, 1))
"""Kernel size, stride and dilation."""
CHANNELS = (1, 2, 4, 8, 16, 24, 32, 64, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    raw: Tensor
    activated: Tensor


def run(conv: FoldedConv, x: Tensor, *, residual: Tensor | None = None, is_audio: bool = False) -> Outputs:
    blocked = BlockedConv(conv, is_audio=is_audio)
    num_rows, out_channels = (x.shape[1] - conv.span) // conv.stride + 1, conv.weight.shape[0]
    raw, activated = (torch.full((blocked.out_blocks, num_rows, 16), torch.nan) for _ in range(2))
    blocked.run(
        x[..., None].contiguous() if is_audio else to_blocked(x),
        item_steps=x.shape[1],
        raw=raw,
        activated=activated,
        residual=None if residual is None else to_blocked(residual),
    )
    return Outputs(raw=from_blocked(raw, out_channels), activated=from_blocked(activated, out_channels))


def in_torch(conv: FoldedConv, x: Tensor) -> Tensor:
    return functional.conv1d(x[None], conv.weight, conv.bias, conv.stride, 0, conv.dilation)[0]


def above_the_switch(channels: int) -> int:
    """Return the fewest time steps that torch does not convolve as a matrix product."""
    return PRODUCT_NUMBERS // channels + 1


@needs_torch_on_avx512
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), SHAPES[1:])
def test_large_inputs_have_the_bits_of_onednn(channels: int, kernel_size: int, stride: int, dilation: int) -> None:
    for out_channels in (1, 2, max(1, channels // 2), min(96, 2 * channels)):
        conv = folded_conv(channels, out_channels, kernel_size, stride=stride, dilation=dilation)
        for num_steps in (above_the_switch(channels) + extra for extra in (0, 1, 2, 129)):
            x = normal(channels, num_steps, seed=num_steps)
            found = run(conv, x, is_audio=channels <= 2)
            assert num_unequal_bits(found.raw, in_torch(conv, x)) == 0, f"{out_channels} channels, {num_steps} steps"


@needs_mkl_on_amd
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), SHAPES)
def test_small_inputs_have_the_bits_of_a_matrix_product(
    channels: int, kernel_size: int, stride: int, dilation: int
) -> None:
    """And so have all of one time step, dilation 1: from 4 channels of 12 outputs on, see `terms`."""
    for out_channels in (4, 9, max(4, channels // 2), min(96, max(4, 2 * channels))):
        conv = folded_conv(channels, out_channels, kernel_size, stride=stride, dilation=dilation)
        largest = above_the_switch(channels) - 1 + (100 if kernel_size == 1 else 0)
        for num_outputs in (12, 13, 14, 15, 27, 75, 200):
            num_steps = (num_outputs - 1) * stride + conv.span
            if num_steps <= largest:
                x = normal(channels, num_steps, seed=num_steps)
                found = run(conv, x, is_audio=channels <= 2)
                assert num_unequal_bits(found.raw, in_torch(conv, x)) == 0, f"{out_channels}, {num_outputs} outputs"
        if (largest - conv.span) // stride >= 11:
            x = normal(channels, largest, seed=largest)
            assert num_unequal_bits(run(conv, x).raw, in_torch(conv, x)) == 0, f"{out_channels}, {largest} steps"


@needs_mkl_on_amd
@pytest.mark.parametrize(("in_channels", "kernel_size"), [(512, 7), (1024, 1), (32, 12), (32, 13)])
def test_products_of_many_terms_have_the_bits_of_torch(in_channels: int, kernel_size: int) -> None:
    conv = folded_conv(in_channels, 128, kernel_size)
    x = normal(in_channels, 30, seed=1)
    assert num_unequal_bits(run(conv, x).raw, in_torch(conv, x)) == 0


@pytest.mark.parametrize(
    ("channels", "kernel_size", "dilation", "num_steps"),
    [(32, 3, 1, 13), (32, 1, 1, 11), (2, 7, 1, 17), (16, 1, 2, 1281)],
    ids=["11 outputs", "11 products", "3 channels", "one step, dilated"],
)
def test_what_is_rounded_otherwise_than_in_torch_is_as_exact(
    channels: int, kernel_size: int, dilation: int, num_steps: int
) -> None:
    conv = folded_conv(channels, 3 if channels == 2 else channels, kernel_size, dilation=dilation)
    x = normal(channels, num_steps, seed=7)
    exact = functional.conv1d(x[None].double(), conv.weight.double(), conv.bias.double(), 1, 0, dilation)[0]
    ours, theirs = ((out.double() - exact).square().mean() for out in (run(conv, x).raw, in_torch(conv, x)))
    assert ours < 2 * theirs
    assert ours < 1e-13


@pytest.mark.parametrize("num_steps", [17, 90, 2000])
def test_activation_and_residual(num_steps: int) -> None:
    conv, x = folded_conv(40, 72, 3), normal(40, num_steps + 2, seed=1)
    residual = normal(72, num_steps, seed=2)
    plain, found = run(conv, x), run(conv, x, residual=residual)
    assert num_unequal_bits(found.raw, plain.raw + residual) == 0
    expected = to_blocked(found.raw)
    activate(expected)
    assert num_unequal_bits(found.activated, from_blocked(expected, 72)) == 0


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("out_channels", [16, 32])
def test_an_output_is_the_same_in_any_company(stride: int, out_channels: int) -> None:
    """One row at a time, and any number of them at once."""
    conv = folded_conv(32, out_channels, 8, stride=stride)
    x = normal(32, 60 * stride + 8, seed=stride)
    whole = run_as_part(conv, x)
    for num_outputs in range(1, 31):
        part = run_as_part(conv, x[:, : (num_outputs - 1) * stride + conv.span])
        assert num_unequal_bits(part, whole[:, :num_outputs]) == 0
    for start in range(0, 60, 7):
        assert num_unequal_bits(run_as_part(conv, x[:, start * stride :]), whole[:, start:]) == 0


def run_as_part(conv: FoldedConv, x: Tensor) -> Tensor:
    blocked = BlockedConv(conv)
    raw = torch.empty(blocked.out_blocks, (x.shape[1] - conv.span) // conv.stride + 1, 16)
    blocked.run(to_blocked(x), item_steps=None, raw=raw)
    return from_blocked(raw, conv.weight.shape[0])


def test_memory_between_blocks_is_neither_read_nor_written() -> None:
    conv, x = folded_conv(32, 40, 3), normal(32, 50, seed=3)
    room = torch.full((2, 70, 16), torch.nan)
    room[:, 10:60] = to_blocked(x)
    results = torch.full((3, 70, 16), 7.0)
    blocked = BlockedConv(conv)
    blocked.run(room[:, 10:60], item_steps=50, raw=results[:, 5:53])
    assert num_unequal_bits(from_blocked(results[:, 5:53], 40), run(conv, x).raw) == 0
    assert (results[:, :5] == 7.0).all()
    assert (results[:, 53:] == 7.0).all()


def test_more_numbers_than_offsets_reach_are_refused() -> None:
    conv = BlockedConv(folded_conv(32, 32, 3))
    x = torch.empty(0).as_strided((2, 2, 0), (2**30, 16, 1))
    with pytest.raises(ValueError, match=r"2 time steps of 32 channels cannot be convolved at once.*chunk_length_s"):
        conv.run(x, item_steps=None)


# Chains


def block(channels: int, *, dilation: int, causal: bool, pad_mode: str, shortcut: bool) -> FoldedBlock:
    shape = {"causal": causal, "pad_mode": pad_mode}
    return FoldedBlock(
        convs=(
            folded_conv(channels, 16, 3, dilation=dilation, elu_before=True, causal=causal, pad_mode=pad_mode),
            folded_conv(16, channels, 1, elu_before=True, causal=causal, pad_mode=pad_mode),
        ),
        shortcut=folded_conv(channels, channels, 1, **shape) if shortcut else None,  # type: ignore[arg-type]
    )


def chain_of(*, causal: bool, pad_mode: str, shortcut: bool) -> tuple[Stage, ...]:
    def conv(in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1) -> FoldedConv:
        return folded_conv(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            causal=causal,
            pad_mode=pad_mode,
            elu_before=in_channels > 1,
        )

    def residual(channels: int, dilation: int) -> FoldedBlock:
        return block(channels, dilation=dilation, causal=causal, pad_mode=pad_mode, shortcut=shortcut)

    return (conv(1, 24, 7), residual(24, 1), residual(24, 2), conv(24, 48, 6, stride=3), conv(48, 20, 7))


def run_plainly(stages: tuple[Stage, ...], x: Tensor) -> Tensor:
    """`[C, T]` -> `[C', T']` with torch's operators, in float64."""

    def convolve(conv: FoldedConv, x: Tensor) -> Tensor:
        x = functional.elu(x) if conv.elu_before else x
        right = conv.right + extra_padding(x.shape[-1], stride=conv.stride)
        padded = pad1d(x, (conv.left, right), mode=conv.pad_mode)
        out = functional.conv1d(padded, conv.weight.double(), conv.bias.double(), conv.stride, 0, conv.dilation)
        if conv.norm is None:
            return out
        return functional.group_norm(out, 1, conv.norm.weight.double(), conv.norm.bias.double(), conv.norm.eps)

    x = x.double()[None]
    for stage in stages:
        if isinstance(stage, FoldedConv):
            x = convolve(stage, x)
            continue
        shortcut = x if stage.shortcut is None else convolve(stage.shortcut, x)
        for conv in stage.convs:
            x = convolve(conv, x)
        x = shortcut + x
    return x[0]


def push_in_pieces(chain: Chain, x: Tensor, cuts: list[int], *, num_steps: int | None) -> Tensor:
    states, workspace = chain.start(num_steps), Workspace()
    places = sorted(min(cut, x.shape[1]) for cut in cuts)
    pieces = [piece.contiguous() for piece in x[..., None].tensor_split(places, dim=1)]
    pushed = [chain.push(piece, states, workspace, is_last=place == len(places)) for place, piece in enumerate(pieces)]
    return torch.cat(pushed, 1)


any_chain = st.fixed_dictionaries(
    {"causal": st.booleans(), "pad_mode": st.sampled_from(["reflect", "constant"]), "shortcut": st.booleans()}
)


@settings(max_examples=60, deadline=None)
@given(shape=any_chain, num_steps=st.integers(1, 400), cuts=st.lists(st.integers(0, 400), max_size=8))
def test_a_chain_gives_the_same_wherever_an_item_is_cut(
    shape: dict[str, bool | str], num_steps: int, cuts: list[int]
) -> None:
    """Also into pieces of one time step, and of none."""
    stages = chain_of(**shape)  # type: ignore[arg-type]
    assert can_be_blocked(stages)
    chain, x = Chain(stages, is_audio=True), normal(1, num_steps, seed=num_steps)
    for known in (num_steps, None):
        whole = push_in_pieces(chain, x, [], num_steps=known)
        assert num_unequal_bits(push_in_pieces(chain, x, cuts, num_steps=known), whole) == 0
        expected = run_plainly(stages, x)
        assert (from_blocked(whole, 20) - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1.0)


@settings(max_examples=40, deadline=None)
@given(shape=any_chain, sizes=st.lists(st.integers(0, 5), min_size=2, max_size=5), last=st.integers(1, 30))
def test_programs_have_the_bits_of_single_calls(shape: dict[str, bool | str], sizes: list[int], last: int) -> None:
    """A push that comes again, of the first or of a later item, is a program; early stages take it in pieces."""
    with patch.object(programs, "PIECE_STEPS", 12), patch.object(programs, "MAX_EARLY_WEIGHTS", 24 * 24 * 3):
        chain = Chain(chain_of(**shape), is_audio=True)  # type: ignore[arg-type]
        cuts = list(accumulate(12 * size for size in sizes))
        x = normal(1, cuts[-1] + last, seed=last)
        whole = push_in_pieces(chain, x, [], num_steps=None)
        for _ in range(3):
            assert num_unequal_bits(push_in_pieces(chain, x, cuts, num_steps=None), whole) == 0
        copied = copy.deepcopy(chain)
        del chain
        for _ in range(3):
            assert num_unequal_bits(push_in_pieces(copied, x, cuts, num_steps=None), whole) == 0


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_push_that_comes_again_is_one_call(shortcut: bool) -> None:
    chain = Chain(chain_of(causal=True, pad_mode="reflect", shortcut=shortcut), is_audio=True)
    x, cuts = normal(1, 500, seed=1), [240, 480]
    push_in_pieces(chain, x, cuts, num_steps=None)
    with patch.object(Program, "run", autospec=True, side_effect=Program.run) as run:
        push_in_pieces(chain, x, cuts, num_steps=None)
    assert run.call_count == 2, "all but the last one"


@pytest.mark.parametrize("causal", [True, False])
def test_norms_see_the_whole_item(causal: bool) -> None:
    norm = nn.GroupNorm(1, 32).requires_grad_(False)
    norm.weight.copy_(normal(32, seed=1))
    stages = (
        folded_conv(2, 32, 7, causal=causal, norm=norm),
        FoldedBlock(
            convs=(
                folded_conv(32, 32, 3, causal=causal, norm=norm, elu_before=True),
                folded_conv(32, 32, 1, causal=causal, norm=norm, elu_before=True),
            ),
            shortcut=folded_conv(32, 32, 1, causal=causal, norm=norm),
        ),
        folded_conv(32, 32, 4, stride=2, causal=causal, norm=norm, elu_before=True),
    )
    assert can_be_blocked(stages)
    for num_steps in (1, 2, 5, 100, 333):
        x = normal(2, num_steps, seed=num_steps)
        found = push_in_pieces(Chain(stages, is_audio=True), x, [], num_steps=num_steps)
        torch.testing.assert_close(from_blocked(found, 32).double(), run_plainly(stages, x), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("pad_mode", "norm", "fits"),
    [
        ("reflect", nn.GroupNorm(1, 32), True),
        ("constant", None, True),
        ("replicate", None, False),
        ("circular", None, False),
        ("reflect", nn.GroupNorm(2, 32), False),
        ("reflect", nn.GroupNorm(1, 24), False),
    ],
)
def test_chains_that_are_left_to_torch(pad_mode: str, norm: nn.GroupNorm | None, fits: bool) -> None:
    conv = folded_conv(16, 32 if norm is None else norm.num_channels, 3, pad_mode=pad_mode, norm=norm)
    assert can_be_blocked([conv]) is fits
    assert can_be_blocked([FoldedBlock(convs=(folded_conv(16, 16, 3), conv), shortcut=None)]) is fits
