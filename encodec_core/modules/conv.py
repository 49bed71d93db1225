"""Convolutions that pad themselves, and the integer arithmetic of their padding.

Letters in shapes: B batch, C channels, T time steps at the layer's rate.

    causal       [ kernel - stride | x ............ | extra ]
    not causal   [ ceil(total/2)   | x ............ | floor(total/2) + extra ]     total = kernel - stride
"""

import logging
import math

from torch import Tensor, nn
from torch.nn import functional

from encodec_core.config import NormType
from encodec_core.modules.norm import time_group_norm, weight_norm

__all__ = [
    "PaddedConv1d",
    "TrimmedConvTranspose1d",
    "conv_output_length",
    "conv_padding",
    "effective_kernel_size",
    "extra_padding",
    "pad1d",
]

logger = logging.getLogger(__name__)


def effective_kernel_size(kernel_size: int, *, dilation: int = 1) -> int:
    """Return how many time steps a dilated kernel spans."""
    return (kernel_size - 1) * dilation + 1


def conv_output_length(length: int, *, stride: int) -> int:
    """Return the time steps that a padded convolution makes of `length`: ceil(length / stride), in exact integers."""
    return -(-length // stride)


def extra_padding(length: int, *, stride: int) -> int:
    """Return the time steps to add on the right so that the last stride is whole, in exact integers.

    Both references write this as ceil((length - kernel + total) / stride + 1) frames and back; with total = kernel -
    stride the kernel cancels and -length mod stride is left. transformers divides int64 tensors, which rounds to
    float32 and is wrong for most lengths above 2**24.
    """
    return -length % stride


def conv_padding(length: int, *, kernel_size: int, stride: int, dilation: int, causal: bool) -> tuple[int, int]:
    """Return the (left, right) padding in time steps of a convolution over `length` time steps.

    The split follows the SEANet layers of both references; an odd total of a non-causal layer has its larger half on
    the left.
    """
    total = effective_kernel_size(kernel_size, dilation=dilation) - stride
    extra = extra_padding(length, stride=stride)
    if causal:
        return total, extra
    right = total // 2
    return total - right, right + extra


def pad1d(x: Tensor, padding: tuple[int, int], *, mode: str) -> Tensor:
    """Pad the last dimension, also where a reflection needs more time steps than there are.

    Args:
        x: `[..., T]`, any floating dtype.
        padding: time steps on the left and on the right, neither negative.
        mode: a mode of `torch.nn.functional.pad`. Under "reflect" an input of T <= max(padding) is first filled with
            zeros on the right until the reflection is defined, and those zeros are cut from the right of the result
            (the references' rule for small inputs):

                T = 2, padding (3, 1):   a b  ->  a b 0 0  ->  0 0 b a b 0 0 0  ->  0 0 b a b 0

    Returns:
        `[..., left + T + right]`.
    """
    if mode != "reflect":
        return functional.pad(x, padding, mode)
    fill = max(0, max(padding) - x.shape[-1] + 1)
    if fill == 0:
        return functional.pad(x, padding, mode)
    padded = functional.pad(functional.pad(x, (0, fill)), padding, mode)
    return padded[..., : padded.shape[-1] - fill]


class PaddedConv1d(nn.Module):
    """A 1-d convolution that returns ceil(T / stride) time steps, normalised as the codec's `norm_type` says.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation: as of `torch.nn.Conv1d`.
        causal: all padding but the last stride's goes to the left.
        pad_mode: see `pad1d`.
        norm_type: "weight_norm" or "time_group_norm".

    The layer of the EnCodec paper's section 3.1; submodules are named as in transformers' `EncodecConv1d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        causal: bool,
        pad_mode: str,
        norm_type: NormType,
    ) -> None:
        super().__init__()
        if stride > 1 and dilation > 1:
            logger.warning("stride %d together with dilation %d skips samples; use one of them", stride, dilation)
        self.kernel_size = kernel_size
        self.stride = stride
        self.dilation = dilation
        self.causal = causal
        self.pad_mode = pad_mode
        conv = nn.Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.conv = weight_norm(conv) if norm_type == "weight_norm" else conv
        self.norm = time_group_norm(out_channels) if norm_type == "time_group_norm" else None

    @property
    def effective_weight(self) -> Tensor:
        """`[out_channels, in_channels, kernel_size]`: the weight that is convolved with, weight norm folded in."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor:
        """`[out_channels]`."""
        bias = self.conv.bias
        assert bias is not None
        return bias

    def padding(self, length: int) -> tuple[int, int]:
        """Return the (left, right) padding for an input of `length` time steps."""
        return conv_padding(
            length, kernel_size=self.kernel_size, stride=self.stride, dilation=self.dilation, causal=self.causal
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, out_channels, ceil(T / stride)]`."""
        x = self.conv(pad1d(x, self.padding(x.shape[-1]), mode=self.pad_mode))
        return x if self.norm is None else self.norm(x)


class TrimmedConvTranspose1d(nn.Module):
    """A transposed convolution whose overhang of kernel - stride time steps is cut away.

    Args:
        in_channels, out_channels, kernel_size, stride: as of `torch.nn.ConvTranspose1d`.
        causal: the share `trim_right_ratio` of the overhang is cut on the right; not causal: half on each side, the
            larger half on the left.
        trim_right_ratio: in [0, 1]; other than 1 only where causal.
        norm_type: "weight_norm" or "time_group_norm".

    Raises:
        ValueError: `trim_right_ratio` is not 1 although the layer is not causal.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int,
        causal: bool,
        trim_right_ratio: float,
        norm_type: NormType,
    ) -> None:
        super().__init__()
        if not causal and trim_right_ratio != 1.0:
            raise ValueError(
                f"trim_right_ratio = {trim_right_ratio} needs a causal model; set it to 1.0 or use_causal_conv to True"
            )
        self.kernel_size = kernel_size
        self.stride = stride
        self.causal = causal
        self.trim_right_ratio = trim_right_ratio
        conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride)
        self.conv = weight_norm(conv) if norm_type == "weight_norm" else conv
        self.norm = time_group_norm(out_channels) if norm_type == "time_group_norm" else None

    @property
    def effective_weight(self) -> Tensor:
        """`[in_channels, out_channels, kernel_size]`: the weight that is convolved with, weight norm folded in."""
        return self.conv.weight

    @property
    def bias(self) -> Tensor:
        """`[out_channels]`."""
        bias = self.conv.bias
        assert bias is not None
        return bias

    @property
    def trim(self) -> tuple[int, int]:
        """Time steps cut from the left and from the right of the raw result."""
        total = self.kernel_size - self.stride
        right = math.ceil(total * self.trim_right_ratio) if self.causal else total // 2
        return total - right, right

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T]` -> `[B, out_channels, T * stride]`."""
        x = self.conv(x)
        # The overhang counts in the statistics of the norm: both references normalise before they trim.
        if self.norm is not None:
            x = self.norm(x)
        left, right = self.trim
        return x[..., left : x.shape[-1] - right]
