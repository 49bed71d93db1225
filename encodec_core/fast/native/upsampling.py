"""Transposed convolutions of blocked tensors, with the bits of torch's.

Letters in shapes: N blocks of channels, T time steps of the inputs, S stride.

A transposed convolution of stride S is S convolutions whose outputs take turns: inputs are never spread out, and no
product is stored.

    inputs              a        b        c                kernel 4, stride 2: two taps
    raw outputs         a0  a1   a2  a3
                                 b0  b1   b2  b3
                                          c0  c1  c2  c3   b's turns: b0 + a2, b1 + a3
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.fast.layers import FoldedUpsampling
from encodec_core.fast.native.blocked import BlockedNorm, num_blocks, pack, places
from encodec_core.fast.native.inlet import Arena, Inlet, Intake
from encodec_core.fast.native.shared_object import loaded_kernels, pointer
from encodec_core.fast.native.terms import BLOCK, tap_terms

__all__ = ["BlockedUpsampling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turns:
    """The inputs that one turn of outputs is made of."""

    span: int
    left: int
    right: int
    stride: int = 1
    pad_mode: str = "constant"


class BlockedUpsampling:
    """A transposed convolution, the norm after it, if it has one, and the trimming.

    Args:
        stage: float32, on the CPU. With a norm, a push is a whole item.
    """

    width = BLOCK
    """W of its input."""
    out_width = BLOCK
    """W of its output."""

    def __init__(self, stage: FoldedUpsampling) -> None:
        out_channels, in_channels = stage.bias.shape[0], stage.products.weight.shape[1]
        self._stage = stage
        self._norm = None if stage.norm is None else BlockedNorm(stage.norm)
        self.elu_before = stage.products.elu_before
        self.in_blocks, self.out_blocks = num_blocks(in_channels), num_blocks(out_channels)
        self._num_before = stage.taps - 1
        # A norm counts what the trimming cuts away: it needs all turns that any input reaches, from the raw first one.
        num_beyond = -(-stage.trim_left // stage.stride)
        self._raw_trim = 0 if stage.norm else stage.trim_left
        self._turns = _Turns(
            span=stage.taps + (0 if stage.norm else num_beyond),
            left=self._num_before,
            right=self._num_before if stage.norm else num_beyond,
        )
        self._bias = functional.pad(stage.bias, (0, self.out_blocks * BLOCK - out_channels))
        by_tap = stage.products.weight.view(out_channels, stage.taps, stage.stride, in_channels)
        terms = tap_terms(in_channels, stage.taps)
        packed = [
            # The latest input is the last under the kernel, and the first tap is its.
            pack(by_tap[:, :, (turn + self._raw_trim) % stage.stride].flip(1).transpose(1, 2), terms)
            for turn in range(stage.stride)
        ]
        self._packed, self._weights = packed[0], torch.cat([turn.weights for turn in packed])

    def start(self, num_steps: int | None) -> tuple[Inlet, int | None]:
        """Return the state before an item of so many time steps (None: not known), and how many come out."""
        return Inlet(conv=self._turns, item_steps=None), None if num_steps is None else num_steps * self._stage.stride

    def num_outputs(self, intake: Intake) -> int:
        """Return how many outputs the next inputs make ready."""
        num_cut = self._num_before if self._norm else 0
        return max(0, intake.num_ready - num_cut) * self._stage.stride

    def run_on(
        self,
        x: Tensor,
        item_steps: int | None,  # noqa: ARG002 - the face of all that a stage can be
        norms: Arena,
        *,
        raw: Tensor | None = None,
        activated: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> None:
        """Compute.

        Args:
            x: `[N, T', 16]`: what T turns of outputs are made of.
            item_steps: of the whole item, of no account here.
            norms: memory for the norm.
            raw, activated: `[N', T * S, 16]` that take the output and its ELU; or None.
            residual: None.
        """
        assert residual is None, "nothing is added to an upsampling"
        num_turns = x.shape[1] - self._turns.span + 1
        if self._norm is None:
            self._convolve(x, num_turns=num_turns, raw=raw, activated=activated)
            return
        num_raw = num_turns * self._stage.stride
        norms.reset(2 * self.out_blocks * num_raw * BLOCK)
        convolved, scratch = (norms.take(self.out_blocks, num_raw, BLOCK) for _ in range(2))
        self._convolve(x, num_turns=num_turns, raw=convolved)
        first, num_wanted = self._stage.trim_left, num_raw - self._num_before * self._stage.stride
        wanted = slice(first, first + num_wanted)
        self._norm.run(convolved, scratch=scratch, raw=raw, activated=activated, wanted=wanted)

    def _convolve(
        self, x: Tensor, *, num_turns: int, raw: Tensor | None = None, activated: Tensor | None = None
    ) -> None:
        failed = loaded_kernels().encodec_upsample(
            pointer(x),
            x.stride(0),
            pointer(self._packed.blocks),
            pointer(self._packed.places),
            pointer(self._packed.chain_ends),
            self._packed.chain_ends.numel(),
            pointer(self._weights),
            pointer(self._bias),
            self._stage.stride,
            self._raw_trim,
            num_turns,
            self.out_blocks,
            *places(raw, activated),
        )
        if failed:
            raise MemoryError("no memory for the offsets of a convolution's terms")
