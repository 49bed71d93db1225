"""Encoder and decoder as lists of convolutions with their weights folded once, and the one function that convolves.

Letters in shapes: B batch, C channels, T time steps at the layer's rate.

Bits. On a CPU an item's latents must not depend on how many time steps, items or threads a call has. Measured with
torch 2.13 on an AMD EPYC (Zen 4; all layers of the 24 kHz codec, 70 lengths from 1 to 24,000, batches of 1, 3 and 16,
one and two threads):

    torch.conv1d            changes, because it chooses between oneDNN and a matrix product by size, batch and threads
    oneDNN, kernel > 1      never changes
    oneDNN, kernel = 1      changes where T is a multiple of 512, and is slower than the product
    product, kernel = 1     changes where a thread's share is below 12 columns; never for multiples of 16 columns
    ELU                     changes for what is left over when a thread's share is cut into vectors

Products were tried with up to 32 threads. For items of a few tiles, the convolutions of one thread have the very bits
of torch.conv1d, so that latents differ from the plain model's in the LSTM alone (see `lstm`).
"""

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from encodec_core.modules.conv import PaddedConv1d, TrimmedConvTranspose1d, conv_padding, effective_kernel_size
from encodec_core.modules.lstm import ResidualLSTM
from encodec_core.modules.seanet import ResidualBlock, SEANetDecoder, SEANetEncoder

__all__ = [
    "DecoderStage",
    "FoldedBlock",
    "FoldedConv",
    "FoldedDecoder",
    "FoldedEncoder",
    "FoldedUpsampling",
    "Stage",
    "convolve",
    "elu",
    "fold_decoder",
    "fold_encoder",
    "normalise",
    "stage_convs",
]

COLUMNS = 16
"""Matrix products have a multiple of this many columns, filled up with zeros (see the table above)."""
VECTOR_LENGTH = 32
"""Numbers that torch's elementwise loops take at once on AVX-512, and a multiple of what they take elsewhere."""
THREAD_SHARE = 32_768
"""torch gives no thread fewer numbers than this (`at::internal::GRAIN_SIZE`)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedConv:
    """A padded convolution, ready to compute."""

    weight: Tensor
    """`[out_channels, in_channels, kernel_size]`."""
    bias: Tensor
    """`[out_channels]`."""
    stride: int
    dilation: int
    left: int
    """Time steps of padding before the first one."""
    right: int
    """Time steps of padding after the last one, not counting what fills its stride."""
    pad_mode: str
    norm: nn.GroupNorm | None
    """Applied to the result over all of an item's time steps."""
    elu_before: bool
    """Whether the input goes through an ELU first."""

    @property
    def span(self) -> int:
        """Time steps under the kernel."""
        return effective_kernel_size(self.weight.shape[2], dilation=self.dilation)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedBlock:
    """A residual block: shortcut(x) plus a chain of convolutions."""

    convs: tuple[FoldedConv, ...]
    shortcut: FoldedConv | None
    """A convolution of one time step, or None: the input as it is."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedUpsampling:
    """A trimmed transposed convolution: a product for every input, and a sum where the products of several meet."""

    products: FoldedConv
    """A convolution of one time step to `out_channels * taps * stride` channels: what an input adds to the outputs of
    its own stride, of the next one, and so on, one tap each. Its bias is zero."""
    bias: Tensor
    """`[out_channels]`: added to the sums, for an output gets it once."""
    stride: int
    taps: int
    """Strides that an input reaches."""
    trim_left: int
    """Time steps cut from the start of the raw result; its end is cut to the inputs' strides."""
    norm: nn.GroupNorm | None
    """Applied to the raw result, before the cut, over all of an item's time steps."""


Stage: TypeAlias = FoldedConv | FoldedBlock
DecoderStage: TypeAlias = Stage | FoldedUpsampling


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedEncoder:
    """A SEANet encoder, cut where its LSTM is."""

    front: tuple[Stage, ...]
    lstm: nn.LSTM
    back: tuple[Stage, ...]

    @property
    def dtype(self) -> torch.dtype:
        """What the LSTM computes in, and the latents have."""
        return next(self.lstm.parameters()).dtype

    @property
    def convolution_dtype(self) -> torch.dtype:
        """What the convolutions compute in."""
        return stage_convs(self.front[0])[0].weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.lstm.parameters()).device

    @property
    def can_be_tiled(self) -> bool:
        """Whether no output needs the whole item: no norm over time, no padding from the other end."""
        convs = [conv for stage in self.front + self.back for conv in stage_convs(stage)]
        return all(conv.norm is None and conv.pad_mode != "circular" for conv in convs)

    @property
    def can_be_padded(self) -> bool:
        """Whether items of different lengths can share a batch."""
        convs = [conv for stage in self.front + self.back for conv in stage_convs(stage)]
        return all(conv.norm is None and conv.pad_mode == "reflect" for conv in convs)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FoldedDecoder:
    """A SEANet decoder, cut where its LSTM is."""

    front: tuple[DecoderStage, ...]
    lstm: nn.LSTM
    back: tuple[DecoderStage, ...]

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.lstm.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(self.lstm.parameters()).dtype

    @property
    def can_be_tiled(self) -> bool:
        """As of `FoldedEncoder`."""
        convs = [conv for stage in self.front + self.back for conv in stage_convs(stage)]
        norms = [conv.norm for conv in convs]
        norms += [stage.norm for stage in self.back if isinstance(stage, FoldedUpsampling)]
        return all(norm is None for norm in norms) and all(conv.pad_mode != "circular" for conv in convs)


def stage_convs(stage: DecoderStage) -> tuple[FoldedConv, ...]:
    """Return the convolutions of a stage."""
    if isinstance(stage, FoldedConv):
        return (stage,)
    if isinstance(stage, FoldedUpsampling):
        return (stage.products,)
    return stage.convs if stage.shortcut is None else (*stage.convs, stage.shortcut)


def fold_encoder(encoder: SEANetEncoder, *, device: torch.device, convolution_dtype: torch.dtype) -> FoldedEncoder:
    """Copy the weights of `encoder` to `device`, weight norm folded in; later changes to `encoder` do not matter."""
    front: list[Stage] = []
    stages, elu, lstm = front, False, None
    for layer in encoder.layers:
        if isinstance(layer, nn.ELU):
            elu = True
        elif isinstance(layer, ResidualLSTM):
            lstm, stages = _copy_lstm(layer.lstm, device=device), []
        elif isinstance(layer, ResidualBlock):
            stages.append(_fold_block(layer, device=device, dtype=convolution_dtype))
        elif isinstance(layer, PaddedConv1d):
            stages.append(_fold_conv(layer, device=device, dtype=convolution_dtype, elu_before=elu))
            elu = False
    assert lstm is not None
    return FoldedEncoder(front=tuple(front), lstm=lstm, back=tuple(stages))


def fold_decoder(decoder: SEANetDecoder, *, device: torch.device) -> FoldedDecoder:
    """Copy the weights of `decoder` to `device`, like `fold_encoder`."""
    dtype = next(decoder.parameters()).dtype
    front: list[DecoderStage] = []
    stages, elu, lstm = front, False, None
    for layer in decoder.layers:
        if isinstance(layer, nn.ELU):
            elu = True
        elif isinstance(layer, ResidualLSTM):
            lstm, stages = _copy_lstm(layer.lstm, device=device), []
        elif isinstance(layer, ResidualBlock):
            stages.append(_fold_block(layer, device=device, dtype=dtype))
        elif isinstance(layer, TrimmedConvTranspose1d):
            stages.append(_fold_upsampling(layer, device=device, elu_before=elu))
            elu = False
        elif isinstance(layer, PaddedConv1d):
            stages.append(_fold_conv(layer, device=device, dtype=dtype, elu_before=elu))
            elu = False
    assert lstm is not None
    return FoldedDecoder(front=tuple(front), lstm=lstm, back=tuple(stages))


def convolve(x: Tensor, conv: FoldedConv) -> Tensor:
    """Convolve without any padding.

    Args:
        x: `[B, in_channels, T]`, contiguous, T >= `conv.span`.

    Returns:
        `[B, out_channels, (T - span) // stride + 1]`.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return functional.conv1d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation)
    if conv.span == 1 and conv.stride == 1:
        return _convolve_one_step(x, conv)
    if x.dtype == torch.float32 and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        result: Tensor = torch.ops.aten.mkldnn_convolution(
            x.unsqueeze(2), conv.weight.unsqueeze(2), conv.bias, [0, 0], [1, conv.stride], [1, conv.dilation], 1
        )
        return result.squeeze(2)
    return functional.conv1d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation)


def elu(x: Tensor) -> Tensor:
    """Return the ELU of a tensor; a number's bits depend neither on where it stands nor on how many threads there are.

    Vectors and what is left over go through different exponentials. Here every thread's share is whole vectors.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return functional.elu(x)
    numbers, result = x.reshape(-1), x.new_empty(x.shape)
    places = result.view(-1)
    num_whole = numbers.shape[0] // VECTOR_LENGTH * VECTOR_LENGTH
    # Whole shares for every thread, one share at a time once they are fewer, then what is left over as a vector of its
    # own.
    step = THREAD_SHARE * torch.get_num_threads() if torch.get_num_threads() > 1 else max(1, num_whole)
    start = 0
    while start < num_whole:
        end = start + step if start + step <= num_whole else min(start + THREAD_SHARE, num_whole)
        torch.ops.aten.elu.out(numbers[start:end], out=places[start:end])
        start = end
    if num_whole < numbers.shape[0]:
        rest = functional.pad(numbers[num_whole:], (0, num_whole + VECTOR_LENGTH - numbers.shape[0]))
        places[num_whole:] = functional.elu(rest)[: numbers.shape[0] - num_whole]
    return result


def normalise(x: Tensor, conv: FoldedConv) -> Tensor:
    """Apply the norm that follows `conv`, if any, to whole items `[B, C, T]`."""
    if conv.norm is None:
        return x
    # Group norm computes in the dtype of its own weights.
    normalised: Tensor = conv.norm(x.to(conv.norm.weight.dtype))
    return normalised.to(x.dtype)


def _convolve_one_step(x: Tensor, conv: FoldedConv) -> Tensor:
    num_steps = x.shape[-1]
    # On one thread any larger number gives the same bits, without the copy.
    if num_steps < COLUMNS or torch.get_num_threads() > 1:
        x = functional.pad(x, (0, -num_steps % COLUMNS))
    # The product adds to the bias, not the bias to the product: so does conv1d on one thread, and the bits are the
    # same.
    bias = conv.bias[:, None]
    rows = [torch.addmm(bias, conv.weight[..., 0], row)[:, :num_steps] for row in x]
    return torch.stack(rows) if len(rows) > 1 else rows[0].contiguous()[None]


def _fold_conv(layer: PaddedConv1d, *, device: torch.device, dtype: torch.dtype, elu_before: bool) -> FoldedConv:
    # For a length of whole strides: what else the last stride needs depends on the item.
    left, right = conv_padding(
        0, kernel_size=layer.kernel_size, stride=layer.stride, dilation=layer.dilation, causal=layer.causal
    )
    return FoldedConv(
        weight=_copied(layer.effective_weight, device).to(dtype),
        bias=_copied(layer.bias, device).to(dtype),
        stride=layer.stride,
        dilation=layer.dilation,
        left=left,
        right=right,
        pad_mode=layer.pad_mode,
        norm=_copy_norm(layer.norm, device=device),
        elu_before=elu_before,
    )


def _fold_block(layer: ResidualBlock, *, device: torch.device, dtype: torch.dtype) -> FoldedBlock:
    convs = [conv for conv in layer.block if isinstance(conv, PaddedConv1d)]
    shortcut = layer.shortcut
    return FoldedBlock(
        convs=tuple(_fold_conv(conv, device=device, dtype=dtype, elu_before=True) for conv in convs),
        shortcut=_fold_conv(shortcut, device=device, dtype=dtype, elu_before=False)
        if isinstance(shortcut, PaddedConv1d)
        else None,
    )


def _fold_upsampling(layer: TrimmedConvTranspose1d, *, device: torch.device, elu_before: bool) -> FoldedUpsampling:
    weight, stride = _copied(layer.effective_weight, device), layer.stride
    in_channels, out_channels, kernel_size = weight.shape
    taps = -(-kernel_size // stride)
    filled = functional.pad(weight, (0, taps * stride - kernel_size))
    products = FoldedConv(
        weight=filled.reshape(in_channels, -1).t().contiguous()[..., None],
        bias=weight.new_zeros(out_channels * taps * stride),
        stride=1,
        dilation=1,
        left=0,
        right=0,
        pad_mode="constant",
        norm=None,
        elu_before=elu_before,
    )
    return FoldedUpsampling(
        products=products,
        bias=_copied(layer.bias, device),
        stride=stride,
        taps=taps,
        trim_left=layer.trim[0],
        norm=_copy_norm(layer.norm, device=device),
    )


def _copy_norm(norm: nn.GroupNorm | None, *, device: torch.device) -> nn.GroupNorm | None:
    if norm is None:
        return None
    copy = nn.GroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, device="meta")
    copy.load_state_dict({name: _copied(tensor, device) for name, tensor in norm.state_dict().items()}, assign=True)
    return copy.requires_grad_(False)


def _copy_lstm(lstm: nn.LSTM, *, device: torch.device) -> nn.LSTM:
    copy = nn.LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers, device="meta")
    copy.load_state_dict({name: _copied(tensor, device) for name, tensor in lstm.state_dict().items()}, assign=True)
    copy.flatten_parameters()
    return copy.requires_grad_(False)


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.detach().to(device, copy=True).contiguous()
