"""Encoding on a GPU: items of different lengths in one padded batch, exactly.

Letters in shapes: B batch, C channels, T time steps at the layer's rate.

Padding an item on the right changes its latents in two ways only: a convolution reflects an item at its own end (the
causal one to fill up its last stride, the other always), and the rule for small inputs depends on the item's own
length. So lengths go through the layers with the items, and before each convolution every item gets its own padding,
at its own ends. What lies further right is never read.

    item of 5, left 2, right 1, extra 1          x x x | garbage
    padded                            . . | a b c d e | . . | garbage
    time steps written                2 1               3 2
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.fast.lanes import Finish
from encodec_core.fast.layers import FoldedBlock, FoldedConv, FoldedEncoder, Stage, convolve, elu, normalise
from encodec_core.modules.conv import conv_output_length, extra_padding

__all__ = ["PaddedEncoder", "reflected_steps"]

BATCH_SAMPLES = 8_000_000
"""Samples in a padded batch, at most: the widest activations of the 24 kHz model then take 1 GB. Not measured on a GPU
yet."""
MAX_WASTE = 0.1
"""Share of a batch that may be padding."""
MAX_BATCH_ITEMS = 256


class PaddedEncoder:
    """Runs a folded encoder over padded batches; equal, up to rounding, to encoding each item alone.

    Args:
        encoder: the encoder.
        convolution_dtype: what its convolutions compute in.
        filler: what padding is filled with. No latent depends on it, which a test shows.
    """

    def __init__(self, encoder: FoldedEncoder, *, convolution_dtype: torch.dtype, filler: float = 0.0) -> None:
        self._encoder = encoder
        self._convolution_dtype = convolution_dtype
        self._filler = filler

    def groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return the items of each batch: alike in length, and of equal length where a norm would see the padding."""
        by_length = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        groups: list[list[int]] = []
        for index in by_length:
            longest = lengths[groups[-1][0]] if groups else 0
            shortest_allowed = longest * (1 - MAX_WASTE) if self._encoder.can_be_padded else longest
            is_full = not groups or len(groups[-1]) == max(1, min(MAX_BATCH_ITEMS, BATCH_SAMPLES // longest))
            if is_full or lengths[index] < shortest_allowed:
                groups.append([])
            groups[-1].append(index)
        return groups

    @torch.no_grad()
    def encode(self, waveforms: Sequence[Tensor], *, finish: Finish) -> list[Tensor]:
        """Encode one group of waveforms `[C, n]`, n > 0, to what `finish` makes of their latents."""
        lengths = [waveform.shape[-1] for waveform in waveforms]
        first = waveforms[0]
        batch = first.new_full(
            (len(waveforms), first.shape[0], max(lengths)), self._filler, dtype=self._convolution_dtype
        )
        for row, waveform in zip(batch, waveforms, strict=True):
            row[:, : waveform.shape[-1]] = waveform
        x, lengths = self._run(batch, lengths, self._encoder.front)
        steps = x.permute(2, 0, 1).to(self._encoder.dtype)
        # Causal: what padding there is comes after an item's last frame.
        steps = self._encoder.lstm(steps)[0] + steps
        x, lengths = self._run(steps.permute(1, 2, 0).to(self._convolution_dtype), lengths, self._encoder.back)
        return finish([row[:, :length].to(steps.dtype) for row, length in zip(x, lengths, strict=True)])

    def _run(self, x: Tensor, lengths: list[int], stages: Sequence[Stage]) -> tuple[Tensor, list[int]]:
        for stage in stages:
            if isinstance(stage, FoldedBlock):
                x = _run_block(x, lengths, stage)
            else:
                x = _run_conv(x, lengths, stage)
                lengths = [conv_output_length(length, stride=stage.stride) for length in lengths]
        return x, lengths


def reflected_steps(lengths: Tensor, *, left: int, right: int, stride: int) -> tuple[Tensor, Tensor]:
    """Say where each item's padding is, and what is reflected there; the rule for small inputs (see `pad1d`) included.

    Args:
        lengths: int64 `[B]`, of the items, each > 0.
        left, right: padding of whole strides.
        stride: up to which each item is filled on the right.

    Returns:
        Two int64 tensors `[B, P]`, P = left + right + stride - 1: time steps of the padding, counted from the item's
        first; and the time steps that they repeat, -1 for zero. Where an item needs less on the right, the rest names
        time steps that are never read.
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


def _run_block(x: Tensor, lengths: list[int], block: FoldedBlock) -> Tensor:
    shortcut = x if block.shortcut is None else _run_conv(x, lengths, block.shortcut)
    for conv in block.convs:
        x = _run_conv(x, lengths, conv)
    return x + shortcut


def _run_conv(x: Tensor, lengths: list[int], conv: FoldedConv) -> Tensor:
    if conv.elu_before:
        x = elu(x)
    return normalise(convolve(_padded(x, lengths, conv), conv), conv)


def _padded(x: Tensor, lengths: list[int], conv: FoldedConv) -> Tensor:
    longest = x.shape[-1]
    if min(lengths) == longest > max(conv.left, conv.right + conv.stride - 1) or conv.pad_mode != "reflect":
        extra = extra_padding(longest, stride=conv.stride)
        return functional.pad(x, (conv.left, conv.right + extra), conv.pad_mode)
    # Rounded up to whole strides, so that every row has the outputs of the longest.
    padded = functional.pad(x, (conv.left, conv.right + conv.stride - 1))
    steps, sources = reflected_steps(torch.tensor(lengths), left=conv.left, right=conv.right, stride=conv.stride)
    is_zero = (sources < 0).to(x.device)[..., None]
    rows = torch.arange(len(lengths), device=x.device)[:, None]
    reflected = x[rows, :, sources.clamp(min=0).to(x.device)]
    padded[rows, :, (steps + conv.left).to(x.device)] = torch.where(is_zero, torch.zeros_like(reflected), reflected)
    num_outputs = conv_output_length(longest, stride=conv.stride)
    return padded[..., : (num_outputs - 1) * conv.stride + conv.span]
