"""Convolutions over an item that arrives in tiles: equal to convolving it whole, in bounded memory.

Letters in shapes: B batch (items in lockstep), C channels, T time steps at the layer's rate.

A convolution computes an output as soon as its last input is there, and keeps the inputs that later outputs need.
Reflections happen at the item's own start and end only.

    inputs so far     [ left | a b c d e f g h ]                 kernel 4, stride 2, no right padding
    outputs so far    |--0-|
                          |--1-|    ...   |--last-|
    kept                                [ g h ]

A transposed convolution adds an input to the outputs of its own stride and of later ones; a stride is complete as soon
as its own input is there, and what that input adds to later strides is kept.

    inputs so far     a   b   c
    outputs so far    aa  ab  bc                                 kernel 4, stride 2
    kept                          c
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.fast.layers import DecoderStage, FoldedBlock, FoldedConv, FoldedUpsampling, convolve, elu, normalise
from encodec_core.modules.conv import extra_padding, pad1d

__all__ = ["BlockState", "ConvState", "StageState", "UpsamplingState", "initial_state", "push"]


@dataclass(slots=True)
class ConvState:
    """What one convolution knows of the items so far."""

    kept: Tensor | None = None
    """`[B, C, T]`: the latest inputs, after the ELU; with the left padding before them once the first output was
    due."""
    num_used: int = 0
    """Time steps of `kept` before the first one under the kernel of the next output."""
    num_inputs: int = 0
    """Time steps received, without padding."""
    has_started: bool = False
    """Whether the left padding is in place."""


@dataclass(slots=True)
class BlockState:
    """What one residual block knows of the items so far."""

    convs: tuple[ConvState, ...]
    shortcut: Tensor | None = None
    """`[B, C, T]`: results of the shortcut that wait for the convolutions, which look ahead unless they are causal."""


@dataclass(slots=True)
class UpsamplingState:
    """What one transposed convolution knows of the items so far."""

    kept: Tensor | None = None
    """`[B, out_channels, taps, stride, taps - 1]`: products of the latest inputs."""
    num_trimmed: int = 0
    """Time steps cut from the start so far."""


StageState: TypeAlias = ConvState | BlockState | UpsamplingState


def initial_state(stages: Sequence[DecoderStage]) -> list[StageState]:
    """Return the state before an item's first tile."""
    return [_initial_state(stage) for stage in stages]


def _initial_state(stage: DecoderStage) -> StageState:
    if isinstance(stage, FoldedConv):
        return ConvState()
    if isinstance(stage, FoldedUpsampling):
        return UpsamplingState()
    return BlockState(convs=tuple(ConvState() for _ in stage.convs))


def push(x: Tensor, stages: Sequence[DecoderStage], states: Sequence[StageState], *, is_last: bool) -> Tensor:
    """Send one tile through a chain of convolutions.

    Args:
        x: `[B, C, T]`, the next time steps of each item; T may be 0.
        stages: the chain.
        states: what `initial_state` returned, changed in place.
        is_last: whether the items end with this tile. A chain with norms takes an item as one tile, its last.

    Returns:
        `[B, out_channels, T']`: what could be computed now. All tiles of an item together give what the whole gives.
    """
    for stage, state in zip(stages, states, strict=True):
        if isinstance(stage, FoldedConv):
            assert isinstance(state, ConvState)
            x = _push_conv(x, stage, state, is_last=is_last)
        elif isinstance(stage, FoldedUpsampling):
            assert isinstance(state, UpsamplingState)
            x = _push_upsampling(x, stage, state, is_last=is_last)
        else:
            assert isinstance(state, BlockState)
            x = _push_block(x, stage, state, is_last=is_last)
    return x


def _push_block(x: Tensor, block: FoldedBlock, state: BlockState, *, is_last: bool) -> Tensor:
    shortcut = x if block.shortcut is None else _convolve_whole(x, block.shortcut)
    for conv, conv_state in zip(block.convs, state.convs, strict=True):
        x = _push_conv(x, conv, conv_state, is_last=is_last)
    if state.shortcut is not None:
        shortcut = torch.cat([state.shortcut, shortcut], -1)
    num_ready = x.shape[-1]
    state.shortcut = shortcut[..., num_ready:].clone() if shortcut.shape[-1] > num_ready else None
    return x.add_(shortcut[..., :num_ready])


def _push_conv(x: Tensor, conv: FoldedConv, state: ConvState, *, is_last: bool) -> Tensor:
    if conv.elu_before:
        x = elu(x)
    if conv.span == conv.stride == 1:
        return _convolve_whole(x, conv)
    state.num_inputs += x.shape[-1]
    if state.kept is not None:
        x = torch.cat([state.kept, x], -1)
    if is_last and not state.has_started:
        return _convolve_whole(x, conv)
    if not state.has_started:
        # Held back until both ends can be reflected within what is there, whatever comes next.
        num_held_back = max(conv.left, conv.right + conv.stride) if conv.pad_mode == "reflect" else 0
        if x.shape[-1] <= num_held_back:
            state.kept = x.clone()
            return _nothing(x, conv)
        x = functional.pad(x, (conv.left, 0), conv.pad_mode)
        state.has_started = True
    if is_last:
        extra = extra_padding(state.num_inputs, stride=conv.stride)
        x = _padded(x, (0, conv.right + extra), conv.pad_mode)
    return _convolve_ready(x, conv, state)


def _push_upsampling(x: Tensor, stage: FoldedUpsampling, state: UpsamplingState, *, is_last: bool) -> Tensor:
    assert stage.norm is None, "a norm over time needs the whole item"
    x = _push_conv(x, stage.products, ConvState(), is_last=False)
    out_channels = x.shape[1] // (stage.taps * stage.stride)
    products = x.view(x.shape[0], out_channels, stage.taps, stage.stride, x.shape[-1])
    if state.kept is not None:
        products = torch.cat([state.kept, products], -1)
    elif x.shape[-1] == 0:
        return x.new_empty(x.shape[0], out_channels, 0)
    else:
        products = functional.pad(products, (stage.taps - 1, 0))
    # Only what is cut from the start makes room for outputs after the last input's stride.
    num_beyond = -(-stage.trim_left // stage.stride) if is_last else 0
    products = functional.pad(products, (0, num_beyond)) if num_beyond else products
    state.kept = products[..., products.shape[-1] - stage.taps + 1 :].clone()
    y = _summed(products) + stage.bias[:, None]
    num_to_trim = min(y.shape[-1], stage.trim_left - state.num_trimmed)
    state.num_trimmed += num_to_trim
    excess = num_beyond * stage.stride - stage.trim_left if is_last else 0
    return y[..., num_to_trim : y.shape[-1] - excess].contiguous()


def _summed(products: Tensor) -> Tensor:
    """Sum products `[B, C, taps, stride, taps - 1 + T]` where they meet, to `[B, C, T * stride]`."""
    _, _, taps, stride, num_columns = products.shape
    num_steps = num_columns - taps + 1
    total = products[:, :, 0, :, taps - 1 :]
    for tap in range(1, taps):
        first = taps - 1 - tap
        total = total + products[:, :, tap, :, first : first + num_steps]
    return total.transpose(2, 3).reshape(*products.shape[:2], num_steps * stride)


def _convolve_whole(x: Tensor, conv: FoldedConv) -> Tensor:
    if x.shape[-1] == 0:
        return _nothing(x, conv)
    extra = extra_padding(x.shape[-1], stride=conv.stride)
    return normalise(convolve(_padded(x, (conv.left, conv.right + extra), conv.pad_mode), conv), conv)


def _convolve_ready(x: Tensor, conv: FoldedConv, state: ConvState) -> Tensor:
    assert conv.norm is None, "a norm over time needs the whole item"
    num_ready = max(0, (x.shape[-1] - state.num_used - conv.span) // conv.stride + 1)
    next_start = state.num_used + num_ready * conv.stride
    # The reflection at the item's end reads up to right + stride time steps back.
    first_kept = max(0, min(next_start, x.shape[-1] - conv.right - conv.stride))
    state.kept = x[..., first_kept:].clone()
    ready = x[..., state.num_used : next_start - conv.stride + conv.span]
    state.num_used = next_start - first_kept
    return convolve(ready.contiguous(), conv) if num_ready else _nothing(x, conv)


def _padded(x: Tensor, padding: tuple[int, int], mode: str) -> Tensor:
    # Padding by nothing copies all the same, a twelfth of the time of encoding.
    return pad1d(x, padding, mode=mode) if any(padding) else x


def _nothing(x: Tensor, conv: FoldedConv) -> Tensor:
    return x.new_empty(x.shape[0], conv.weight.shape[0], 0)
