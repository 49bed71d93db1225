"""Integer arithmetic of padding, and reflection of small inputs."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from encodec_core.modules import PaddedConv1d, TrimmedConvTranspose1d
from encodec_core.modules.conv import conv_output_length, conv_padding, effective_kernel_size, extra_padding, pad1d

lengths = st.integers(min_value=1, max_value=2**40)
strides = st.integers(min_value=1, max_value=16)


@given(length=lengths, stride=strides, kernel_size=st.integers(1, 32), dilation=st.integers(1, 9))
def test_extra_padding_is_the_papers_formula_in_exact_arithmetic(
    length: int, stride: int, kernel_size: int, dilation: int
) -> None:
    kernel = effective_kernel_size(kernel_size, dilation=dilation)
    total = kernel - stride
    num_frames = math.ceil(Fraction(length - kernel + total, stride) + 1)
    ideal_length = (num_frames - 1) * stride + kernel - total
    assert extra_padding(length, stride=stride) == ideal_length - length
    assert conv_output_length(length, stride=stride) == num_frames


@pytest.mark.parametrize("length", [2**24 - 1, 2**24, 2**24 + 1, 16_777_217, 2**25 + 3, 3_600 * 24_000 + 1])
def test_padding_is_exact_where_float32_is_not(length: int) -> None:
    for stride in (1, 2, 4, 5, 8):
        extra = extra_padding(length, stride=stride)
        assert 0 <= extra < stride
        assert (length + extra) % stride == 0


def test_number_of_frames_of_hours_of_audio_is_exact() -> None:
    length = 12 * 3_600 * 24_000 + 1
    for ratio in (2, 4, 5, 8):
        length = conv_output_length(length, stride=ratio)
    assert length == 12 * 3_600 * 75 + 1


@given(length=st.integers(1, 12), left=st.integers(0, 12), right=st.integers(0, 12))
def test_reflection_of_small_inputs_fills_with_zeros_first(length: int, left: int, right: int) -> None:
    values = list(range(1, length + 1))
    fill = max(0, max(left, right) - length + 1)
    filled = values + [0] * fill
    period = max(1, 2 * (len(filled) - 1))

    def reflected(index: int) -> int:
        index = abs(index) % period
        return filled[min(index, period - index) if len(filled) > 1 else 0]

    expected = [reflected(index) for index in range(-left, len(filled) + right)]
    expected = expected[: len(expected) - fill]
    padded = pad1d(torch.tensor([[values]], dtype=torch.float64), (left, right), mode="reflect")
    assert padded[0, 0].tolist() == expected


@given(length=st.integers(1, 40), stride=st.integers(1, 5), causal=st.booleans(), dilation=st.integers(1, 3))
def test_convolutions_return_whole_strides(length: int, stride: int, causal: bool, dilation: int) -> None:
    left, right = conv_padding(length, kernel_size=2 * stride, stride=stride, dilation=dilation, causal=causal)
    kernel = effective_kernel_size(2 * stride, dilation=dilation)
    assert (left + length + right - kernel) // stride + 1 == conv_output_length(length, stride=stride)
    if causal:
        assert right < stride


@pytest.mark.parametrize("norm_type", ["weight_norm", "time_group_norm"])
@pytest.mark.parametrize("causal", [True, False])
def test_effective_weight_is_what_is_convolved_with(norm_type: str, causal: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        conv = PaddedConv1d(3, 5, 4, stride=2, causal=causal, pad_mode="reflect", norm_type=norm_type)  # type: ignore[arg-type]
        transposed = TrimmedConvTranspose1d(3, 5, 4, stride=2, causal=causal, trim_right_ratio=1.0, norm_type=norm_type)  # type: ignore[arg-type]
        x = torch.randn(2, 3, 11)
    folded = functional.conv1d(pad1d(x, conv.padding(11), mode="reflect"), conv.effective_weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(x), folded if conv.norm is None else conv.norm(folded))
    raw = functional.conv_transpose1d(x, transposed.effective_weight, transposed.bias, stride=2)
    raw = raw if transposed.norm is None else transposed.norm(raw)
    torch.testing.assert_close(transposed(x), raw[..., transposed.trim[0] : raw.shape[-1] - transposed.trim[1]])
    assert transposed(x).shape[-1] == 22
