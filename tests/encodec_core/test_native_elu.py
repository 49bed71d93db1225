"""The ELU in C has torch's bits for every kind of float32."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from encodec_core.fast.native.blocked import activate
from tests.encodec_core.native_parts import needs_kernels, needs_torch_on_avx512, normal, num_unequal_bits

pytestmark = needs_kernels

MINUS_ONE_BELOW = -16.635532333438687
"""From here on Sleef's exponential minus one is -1."""
LEAST_NORMAL = 2.0**-126


def activated(x: Tensor) -> Tensor:
    numbers = x.clone()
    activate(numbers)
    return numbers


def whole_vectors(x: Tensor) -> Tensor:
    """Fill up to a multiple of 32 numbers: torch's loop computes what is left over in another way."""
    return functional.pad(x, (0, -len(x) % 32))


def from_bits(bits: Tensor) -> Tensor:
    return whole_vectors(bits.to(torch.int32).view(torch.float32))


def neighbours(x: float, *, reach: int = 500) -> Tensor:
    """Return the float32 next to a number that is not 0, some below and some above."""
    middle = int(torch.tensor(x).view(torch.int32))
    return from_bits(torch.arange(middle - reach, middle + reach))


@needs_torch_on_avx512
def test_all_exponents_have_the_bits_of_torch() -> None:
    """A sample of all 2**32 patterns: both signs, every exponent, subnormal numbers, NaNs of many kinds."""
    x = from_bits(torch.arange(-(2**31), 2**31, 8191))
    assert len(torch.unique(x.view(torch.int32) >> 23)) == 512, "both signs of 256 exponents"
    assert num_unequal_bits(activated(x), functional.elu(x)) == 0


@needs_torch_on_avx512
@pytest.mark.parametrize(
    "x", [MINUS_ONE_BELOW, -math.log(2) / 2, -math.log(2), -1.0, -(2.0**-24), -LEAST_NORMAL, -104.0, -88.7, 1.0]
)
def test_numbers_around_a_threshold_have_the_bits_of_torch(x: float) -> None:
    numbers = neighbours(x)
    assert num_unequal_bits(activated(numbers), functional.elu(numbers)) == 0


@needs_torch_on_avx512
@pytest.mark.parametrize("scale", [1e-40, 1e-6, 0.1, 1.0, 5.0, 30.0])
def test_numbers_of_any_size_have_the_bits_of_torch(scale: float) -> None:
    numbers = scale * normal(32_000, seed=1)
    assert num_unequal_bits(activated(numbers), functional.elu(numbers)) == 0


def test_special_numbers() -> None:
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -200.0, 3e38] * 4)
    expected = torch.tensor([0.0, -0.0, math.inf, -1.0, math.nan, 1.0, -1.0, 3e38] * 4)
    found = activated(x)
    assert torch.equal(found.isnan(), expected.isnan())
    assert num_unequal_bits(found[~x.isnan()], expected[~x.isnan()]) == 0


def test_it_is_the_exponential_minus_one_to_one_unit_in_the_last_place() -> None:
    x = -torch.logspace(-38, 2, 32_000)
    exact = torch.expm1(x.double())
    unit = torch.nextafter(exact.float(), torch.zeros(())).sub(exact.float()).abs().clamp(min=2.0**-149)
    assert ((activated(x).double() - exact).abs() / unit).max() < 2.0
