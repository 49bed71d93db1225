"""Convolutions over items of different lengths in one padded batch, exactly.

Letters in shapes: B batch, C channels, T time steps at the layer's rate, P time steps of padding of all items.

Padding an item on the right changes its latents in three ways only: a convolution reflects an item at its own end (the
causal one to fill up its last stride, the other always), the rule for small inputs depends on the item's own length,
and a norm over time counts the item's own steps. So lengths go through the layers with the items, and before each
convolution every item gets its own padding, at its own ends. What lies further right is never read.

    item of 5, left 2, right 1, extra 1          x x x | garbage
    padded                            . . | a b c d e | . . | garbage
    time steps written                2 1               3 2

Where that padding is depends on the lengths alone. It is written down once for a batch, on the CPU, and sent to the
device in one piece (`lay_out`): no layer waits for the device to answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.fast.layers import FoldedBlock, FoldedConv, FoldedEncoder, Stage, normalise, stage_convs
from encodec_core.modules.conv import conv_output_length, extra_padding

__all__ = ["Layout", "can_share_batches", "lay_out", "reflected_steps", "run_padded"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Padding:
    """The padding that one convolution needs in one batch. On the batch's device, int64 `[P]` each."""

    rows: Tensor
    steps: Tensor
    """Time steps of the padded batch."""
    sources: Tensor
    """Time steps of the padded batch that are repeated there."""
    is_audio: Tensor | None
    """1, or 0 where there is zero instead; None: 1 everywhere."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """Lengths of a batch's items at every layer of a chain of convolutions, and where their padding is."""

    lengths: tuple[tuple[int, ...], ...]
    """Time steps of each item, before the first layer and after each convolution with a stride."""
    device_lengths: Tensor
    """The same on the batch's device, int64 `[levels, B]`."""
    paddings: dict[tuple[int, int, int, int], _Padding]
    """By level, left, right and stride of the convolution."""


def can_share_batches(encoder: FoldedEncoder) -> bool:
    """Whether items of different lengths can share a batch: every layer reflects, and every norm is over all."""
    convs = [conv for stage in (*encoder.front, *encoder.back) for conv in stage_convs(stage)]
    return all(conv.pad_mode == "reflect" and (conv.norm is None or conv.norm.num_groups == 1) for conv in convs)


def lay_out(lengths: Sequence[int], stages: Sequence[Stage], *, upload: Callable[[Tensor], Tensor]) -> Layout:
    """Write down where the padding of a batch is.

    Args:
        lengths: time steps of each item before the first stage, each > 0; equal unless every stage can be padded.
        stages: the chain.
        upload: sends a tensor on the CPU to the batch's device.
    """
    levels = [tuple(lengths)]
    pieces: dict[tuple[int, int, int, int], list[Tensor]] = {}
    for stage in stages:
        for conv in stage_convs(stage):
            key = _key(conv, level=len(levels) - 1)
            if key not in pieces and conv.pad_mode == "reflect" and conv.span > 1:
                pieces[key] = _padding_places(levels[-1], conv)
        if isinstance(stage, FoldedConv) and stage.stride > 1:
            levels.append(tuple(conv_output_length(length, stride=stage.stride) for length in levels[-1]))
    numbers = [torch.tensor(levels), *(piece for places in pieces.values() for piece in places)]
    there = torch.split(upload(torch.cat([piece.flatten() for piece in numbers])), [piece.numel() for piece in numbers])
    rest = iter(there[1:])
    paddings = {}
    for key, places in pieces.items():
        rows, steps, sources = next(rest), next(rest), next(rest)
        is_audio = next(rest) if len(places) == 4 else None
        paddings[key] = _Padding(rows=rows, steps=steps, sources=sources, is_audio=is_audio)
    return Layout(lengths=tuple(levels), device_lengths=there[0].view(len(levels), len(lengths)), paddings=paddings)


def run_padded(x: Tensor, stages: Sequence[Stage], layout: Layout) -> Tensor:
    """Send a padded batch through a chain of convolutions.

    Args:
        x: `[B, C, T]`, T the longest item's; what is right of an item's end does not matter.
        stages: the chain.
        layout: of these lengths and stages.

    Returns:
        `[B, out_channels, T']`, of which each item has its `layout.lengths[-1]`.
    """
    level = 0
    for stage in stages:
        if isinstance(stage, FoldedBlock):
            x = _run_block(x, stage, layout, level=level)
        else:
            x = _run_conv(x, stage, layout, level=level)
            level += stage.stride > 1
    return x


def reflected_steps(lengths: Tensor, *, left: int, right: int, stride: int) -> tuple[Tensor, Tensor]:
    """Say where each item's padding is, and what is reflected there; the rule for small inputs (see `pad1d`) included.

    Args:
        lengths: int64 `[B]`, of the items, each > 0.
        left, right: padding of whole strides.
        stride: up to which each item is filled on the right.

    Returns:
        Two int64 tensors `[B, left + right + stride - 1]`: time steps of the padding, counted from the item's first;
        and the time steps that they repeat, -1 for zero. Where an item needs less on the right, the rest names time
        steps that are never read.
    """
    before = torch.arange(-left, 0).expand(len(lengths), left)
    after = lengths[:, None] + torch.arange(right + stride - 1)
    steps = torch.cat([before, after], 1)
    needed = (right + -lengths % stride).clamp(min=left)
    # Zeros on the right make a small input as long as its reflection needs.
    filled = torch.maximum(lengths, needed + 1)[:, None]
    sources = steps.abs()
    sources = torch.where(sources >= filled, 2 * (filled - 1) - sources, sources)
    is_audio = (sources >= 0) & (sources < lengths[:, None])
    return steps, torch.where(is_audio, sources, -1)


def _key(conv: FoldedConv, *, level: int) -> tuple[int, int, int, int]:
    return level, conv.left, conv.right, conv.stride


def _padding_places(lengths: Sequence[int], conv: FoldedConv) -> list[Tensor]:
    """Return rows, steps, sources and, where there is any zero, what is no zero: int64 `[P]` each."""
    steps, sources = reflected_steps(torch.tensor(lengths), left=conv.left, right=conv.right, stride=conv.stride)
    rows = torch.arange(len(lengths))[:, None].expand_as(steps)
    is_inside = steps + conv.left < _padded_length(max(lengths), conv)
    rows, steps, sources = rows[is_inside], steps[is_inside] + conv.left, sources[is_inside]
    places = [rows, steps, sources.clamp(min=0) + conv.left]
    is_audio = sources >= 0
    return places if bool(is_audio.all()) else [*places, is_audio.long()]


def _padded_length(length: int, conv: FoldedConv) -> int:
    return conv.left + length + conv.right + extra_padding(length, stride=conv.stride)


def _run_block(x: Tensor, block: FoldedBlock, layout: Layout, *, level: int) -> Tensor:
    shortcut = x if block.shortcut is None else _run_conv(x, block.shortcut, layout, level=level)
    for conv in block.convs:
        x = _run_conv(x, conv, layout, level=level)
    return x.add_(shortcut)


def _run_conv(x: Tensor, conv: FoldedConv, layout: Layout, *, level: int) -> Tensor:
    padded = _padded(x, conv, layout, level=level)
    y = functional.conv1d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation)
    after = layout.lengths[level + (conv.stride > 1)]
    if conv.norm is None or min(after) == max(after):
        return normalise(y, conv)
    return _normalise_ragged(y, conv.norm, layout.device_lengths[level + (conv.stride > 1)])


def _padded(x: Tensor, conv: FoldedConv, layout: Layout, *, level: int) -> Tensor:
    """Return the input of a convolution: after its ELU, with its padding."""
    num_steps = x.shape[-1]
    if conv.span == 1 or conv.pad_mode != "reflect":
        x = functional.elu(x) if conv.elu_before else x
        padding = (conv.left, _padded_length(num_steps, conv) - conv.left - num_steps)
        return functional.pad(x, padding, conv.pad_mode) if any(padding) else x
    # The ELU writes where the convolution reads: one copy of the activations less.
    padded = x.new_empty(*x.shape[:2], _padded_length(num_steps, conv))
    inner = padded[..., conv.left : conv.left + num_steps]
    if conv.elu_before:
        torch.ops.aten.elu.out(x, out=inner)
    else:
        inner.copy_(x)
    padded[..., conv.left + num_steps :] = 0
    padding_of = layout.paddings[_key(conv, level=level)]
    repeated = padded[padding_of.rows, :, padding_of.sources]
    if padding_of.is_audio is not None:
        repeated = repeated.where(padding_of.is_audio[:, None] != 0, torch.zeros_like(repeated))
    padded[padding_of.rows, :, padding_of.steps] = repeated
    return padded


def _normalise_ragged(x: Tensor, norm: torch.nn.GroupNorm, lengths: Tensor) -> Tensor:
    """Group norm of `[B, C, T]` in one group, over each item's own time steps, in the dtype of the norm's weights."""
    values = x.to(norm.weight.dtype)
    is_audio = (torch.arange(x.shape[-1], device=x.device) < lengths[:, None])[:, None]
    zero = values.new_zeros(())
    count = (lengths * x.shape[1]).to(values.dtype)[:, None, None]
    mean = values.where(is_audio, zero).sum((1, 2), keepdim=True) / count
    values = values - mean
    variance = values.square().where(is_audio, zero).sum((1, 2), keepdim=True) / count
    normalised = values * (variance + norm.eps).rsqrt() * norm.weight[:, None] + norm.bias[:, None]
    return normalised.to(x.dtype)
