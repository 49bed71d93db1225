"""The convolution at the end of a decoder, from blocked tensors to audio.

Letters in shapes: N blocks of channels, C audio channels, T time steps.
"""

from torch import Tensor

from encodec_core.fast.layers import FoldedConv
from encodec_core.fast.native.blocked import num_blocks
from encodec_core.fast.native.inlet import Arena, Inlet, Intake, start_inlet
from encodec_core.fast.native.shared_object import loaded_kernels, pointer
from encodec_core.fast.native.terms import BLOCK, onednn_terms, product_terms, torch_takes_product

__all__ = ["AudioConv"]


class AudioConv:
    """A convolution to few channels, and the norm after it, if it has one; nothing comes after them.

    Args:
        conv: float32, on the CPU, of stride 1. With a norm, a push is a whole item.
    """

    width = BLOCK
    """W of its input."""
    out_width = 1
    """W of its output."""

    def __init__(self, conv: FoldedConv) -> None:
        assert conv.stride == 1, "audio has the rate of what it is made of"
        self._conv = conv
        self.elu_before = conv.elu_before
        self.out_blocks, self._in_channels, self._kernel_size = conv.weight.shape
        self.in_blocks = num_blocks(self._in_channels)
        self._orders = [terms(self._in_channels, self._kernel_size) for terms in (onednn_terms, product_terms)]
        self._weights = [conv.weight[:, terms.channels, terms.places].contiguous() for terms in self._orders]
        self._channels = [terms.channels.int() for terms in self._orders]
        self._steps = [(terms.places * conv.dilation).int() for terms in self._orders]

    def start(self, num_steps: int | None) -> tuple[Inlet, int | None]:
        """Return the state before an item of so many time steps (None: not known), and how many come out."""
        return start_inlet(self._conv, num_steps)

    def num_outputs(self, intake: Intake) -> int:
        """Return how many outputs the next inputs make ready."""
        return intake.num_ready

    def run_on(
        self,
        x: Tensor,
        item_steps: int | None,
        norms: Arena,  # noqa: ARG002 - the face of all that a stage can be
        *,
        raw: Tensor | None = None,
        activated: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> None:
        """Compute.

        Args:
            x: `[N, T + span - 1, 16]`.
            item_steps: as of `BlockedConv.run`.
            norms: of no account.
            raw: `[C, T, 1]` that takes the output.
            activated, residual: None.
        """
        assert raw is not None, "audio is kept"
        assert activated is None, "nothing comes after audio"
        assert residual is None, "nothing is added to audio"
        num_numbers = 2**62 if item_steps is None else self._in_channels * item_steps
        order = int(torch_takes_product(num_numbers, kernel_size=self._kernel_size, stride=1))
        chain_ends = self._orders[order].chain_ends
        failed = loaded_kernels().encodec_convolve_to_audio(
            pointer(x),
            x.stride(0),
            self.in_blocks,
            pointer(self._channels[order]),
            pointer(self._steps[order]),
            pointer(chain_ends),
            chain_ends.numel(),
            pointer(self._weights[order]),
            pointer(self._conv.bias),
            self._conv.span,
            x.shape[1] - self._conv.span + 1,
            self.out_blocks,
            pointer(raw),
            raw.stride(0),
        )
        if failed:
            raise MemoryError(f"no memory for {x.shape[0] * BLOCK} channels of some time steps")
        if self._conv.norm is not None:
            raw[..., 0] = self._conv.norm(raw[None, ..., 0])[0]
