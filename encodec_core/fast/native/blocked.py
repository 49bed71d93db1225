"""Blocked tensors, and convolutions and norms for them.

Letters in shapes: N blocks of channels, C channels, T time steps, W channels of a block (16; 1 for audio).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.fast.layers import FoldedConv
from encodec_core.fast.native.shared_object import loaded_kernels, pointer
from encodec_core.fast.native.terms import BLOCK, Terms, onednn_terms, product_terms, torch_takes_product

__all__ = ["BlockedConv", "BlockedNorm", "PackedTerms", "activate", "block", "num_blocks", "pack", "places", "unblock"]

MAX_NUMBERS = 2**31
"""Offsets into a convolution's input are int32: those of 64 bits would take 2 % longer. Tiles, and windows of a second,
have 1/1,000 of it."""


def num_blocks(channels: int) -> int:
    """Return how many blocks hold so many channels."""
    return -(-channels // BLOCK)


def block(x: Tensor) -> Tensor:
    """`[C, T]` -> contiguous `[N, T, 16]`, channels filled up with zeros."""
    channels, num_steps = x.shape
    filled = functional.pad(x, (0, 0, 0, -channels % BLOCK))
    return filled.view(num_blocks(channels), BLOCK, num_steps).transpose(1, 2).contiguous()


def unblock(x: Tensor) -> Tensor:
    """`[N, T, W]` -> `[N * W, T]`."""
    return x.transpose(1, 2).flatten(0, 1)


def activate(x: Tensor) -> None:
    """Replace the numbers of a contiguous blocked tensor by their ELU."""
    loaded_kernels().encodec_elu(pointer(x), pointer(x), x.numel())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackedTerms:
    """Weights in one order of terms."""

    blocks: Tensor
    """int32 `[num_terms]`: the block of each term's channel."""
    places: Tensor
    """int32 `[num_terms]`: floats from a row's first input of the block to the term's."""
    chain_ends: Tensor
    weights: Tensor
    """Panels of two blocks of output channels, `[num_terms, 32]` each; the last of one, if it is left over."""


def pack(weight: Tensor, terms: Terms, *, dilation: int = 1, width: int = BLOCK) -> PackedTerms:
    """Bring weights `[out_channels, in_channels, kernel_size]` into the order of terms, for an input of such W."""
    num_filled = -weight.shape[0] % BLOCK
    by_term = functional.pad(weight, (0, 0, 0, 0, 0, num_filled))[:, terms.channels, terms.places].t()
    return PackedTerms(
        blocks=(terms.channels // width).int(),
        places=(terms.places * dilation * width + terms.channels % width).int(),
        chain_ends=terms.chain_ends,
        weights=torch.cat([panel.reshape(-1) for panel in torch.split(by_term, 2 * BLOCK, dim=1)]),
    )


class BlockedConv:
    """A convolution without padding, of blocked tensors.

    Args:
        conv: float32, on the CPU.
        is_audio: whether its input is audio `[channels, T, 1]`, not blocked.
    """

    def __init__(self, conv: FoldedConv, *, is_audio: bool = False) -> None:
        self.conv = conv
        out_channels, self._in_channels, self._kernel_size = conv.weight.shape
        self._width = 1 if is_audio else BLOCK
        self.in_blocks = self._in_channels if is_audio else num_blocks(self._in_channels)
        self.out_blocks = num_blocks(out_channels)
        self.bias = functional.pad(conv.bias, (0, self.out_blocks * BLOCK - out_channels))
        self._packed = [
            pack(conv.weight, terms(self._in_channels, self._kernel_size), dilation=conv.dilation, width=self._width)
            for terms in (onednn_terms, product_terms)
        ]

    @property
    def width(self) -> int:
        """W of its input."""
        return self._width

    def run(
        self,
        x: Tensor,
        *,
        item_steps: int | None,
        raw: Tensor | None = None,
        activated: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> None:
        """Convolve.

        Args:
            x: `[N, T', W]`, its time steps one after the other in memory, as in all of these.
            item_steps: time steps of the whole padded item, of which `x` may be a part; torch chooses a kernel by it,
                and so do we. None: many.
            raw: `[N', T, 16]` that takes the output, T = (T' - span) // stride + 1; or None.
            activated: `[N', T, 16]` that takes the ELU of the output; or None.
            residual: `[N', T or more, 16]`, added to the output; or None.

        Raises:
            ValueError: `x` has 2**31 numbers or more.
        """
        if x.shape[0] * x.stride(0) >= MAX_NUMBERS:
            raise ValueError(
                f"{x.shape[1]} time steps of {self._in_channels} channels cannot be convolved at once; expected fewer "
                f"than {MAX_NUMBERS // (x.shape[0] * self._width)}: this codec normalises over a whole recording, so "
                "cut long recordings, or give the config a chunk_length_s"
            )
        num_rows = (x.shape[1] - self.conv.span) // self.conv.stride + 1
        packed = self.packed(item_steps)
        failed = loaded_kernels().encodec_convolve(
            pointer(x),
            x.stride(0),
            pointer(packed.blocks),
            pointer(packed.places),
            pointer(packed.chain_ends),
            packed.chain_ends.numel(),
            pointer(packed.weights),
            pointer(self.bias),
            self.conv.stride * self._width,
            num_rows,
            self.out_blocks,
            *places(residual, raw, activated),
        )
        if failed:
            raise MemoryError("no memory for the offsets of a convolution's terms")

    def packed(self, item_steps: int | None) -> PackedTerms:
        """Return the weights in the order in which torch adds for an item of so many time steps; None: many."""
        return self._packed[self.takes_product(item_steps)]

    def takes_product(self, item_steps: int | None) -> bool:
        """Whether torch convolves such an item as a matrix product."""
        num_numbers = 2**62 if item_steps is None else self._in_channels * item_steps
        return torch_takes_product(num_numbers, kernel_size=self._kernel_size, stride=self.conv.stride)


class BlockedNorm:
    """A norm of all channels and time steps of an item together.

    Args:
        norm: of one group and a multiple of 16 channels, float32, on the CPU.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        assert (norm.num_groups, norm.num_channels % BLOCK) == (1, 0), "one group of whole blocks"
        self._norm = norm

    def run(
        self,
        x: Tensor,
        *,
        scratch: Tensor,
        raw: Tensor | None = None,
        activated: Tensor | None = None,
        residual: Tensor | None = None,
        wanted: slice | None = None,
    ) -> None:
        """Normalise.

        Args:
            x: `[N, T, 16]`, a whole item.
            scratch: as many numbers as `x` has.
            raw: as of `BlockedConv.run`, and may be `x`.
            activated, residual: as of `BlockedConv.run`.
            wanted: the time steps that are put out, though all are counted; None: all.
        """
        first, end, _ = (wanted or slice(None)).indices(x.shape[1])
        loaded_kernels().encodec_normalise(
            pointer(x),
            x.stride(0),
            self._norm.num_channels,
            x.shape[1],
            self._norm.eps,
            pointer(self._norm.weight),
            pointer(self._norm.bias),
            pointer(scratch),
            first,
            end - first,
            *places(residual, raw, activated),
        )


def places(*tensors: Tensor | None) -> list[int | None]:
    """Return where each tensor begins, and the floats between its blocks."""
    return [place for x in tensors for place in ((None, 0) if x is None else (pointer(x), x.stride(0)))]
