"""Tables of exp, of GELU and of rotations in whole numbers, the same on every machine.

They are computed with `decimal`, whose every operation is specified to the last digit; the mathematical library of the
machine, which rounds as it likes, takes no part. Tables are float64 arrays that hold integers.
"""

from collections.abc import Iterable
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COARSE_STEP_BITS",
    "EXP_BITS",
    "EXP_LIMIT",
    "FINE_STEP_BITS",
    "GELU_LIMIT",
    "GELU_STEP_BITS",
    "Integers",
    "exp_tables",
    "gelu_table",
    "rotations",
]

Integers = NDArray[np.float64]
"""Whole numbers below 2**53, which float64 holds exactly."""

EXP_BITS = 26
"""Entries of the tables of exp are multiples of 2**-26, so that the product of two is an integer of at most 2**52."""
EXP_LIMIT = 32
"""exp(-x) is tabulated for 0 ≤ x < 32, as the product of a coarse table and a fine one."""
COARSE_STEP_BITS = 6
FINE_STEP_BITS = 16
GELU_LIMIT = 8
"""max(x, 0) - GELU(x) is below 2**-47 where |x| is above."""
GELU_STEP_BITS = 12

_DIGITS = Context(prec=40, rounding=ROUND_HALF_EVEN)


def _rounded(values: Iterable[Decimal], *, bits: int) -> Integers:
    return np.array([int((value * 2**bits).to_integral_value()) for value in values], np.float64)


@cache
def exp_tables() -> tuple[Integers, Integers]:
    """Return 2**26 exp(-i / 2**6) for i < 2**11, and 2**26 exp(-j / 2**16) for j < 2**10."""
    with localcontext(_DIGITS):
        coarse = [(Decimal(-i) / 2**COARSE_STEP_BITS).exp() for i in range(EXP_LIMIT << COARSE_STEP_BITS)]
        fine = [(Decimal(-j) / 2**FINE_STEP_BITS).exp() for j in range(1 << (FINE_STEP_BITS - COARSE_STEP_BITS))]
        return _rounded(coarse, bits=EXP_BITS), _rounded(fine, bits=EXP_BITS)


@cache
def gelu_table(value_bits: int) -> Integers:
    """Return 2**value_bits u (1 - Φ(u)) at u = i / 2**12 for i ≤ 2**15: what GELU takes from max(x, 0) at |x| = u.

    Φ is summed from the normal density between points where it is nearly straight, and one density follows from the
    other by φ(u + h) = φ(u) exp(-uh - h²/2).
    """
    num_steps = GELU_LIMIT << GELU_STEP_BITS
    with localcontext(_DIGITS):
        step = Decimal(1) / 2**GELU_STEP_BITS
        ratio, shrink = (-step * step / 2).exp(), (-step * step).exp()
        density, area, areas = Decimal(1), Decimal(0), [Decimal(0)]
        for _ in range(num_steps):
            following = density * ratio
            area += density + following
            density, ratio = following, ratio * shrink
            areas.append(area)
        tails = ((area - covered) / (2 * area) for covered in areas)
        return _rounded((index * step * tail for index, tail in enumerate(tails)), bits=value_bits)


def rotations(num_channels: int, *, max_period: int, num_doublings: int, value_bits: int) -> tuple[Integers, Integers]:
    """Return cos and sin of the angles 2**b max_period**(-c / (num_channels - 1)), for b < num_doublings.

    Returns:
        2**value_bits times each, `[num_doublings, num_channels]`.
    """
    cosines, sines = [], []
    with localcontext(_DIGITS):
        exponent = -Decimal(max_period).ln() / (num_channels - 1)
        pairs = [_cos_sin((channel * exponent).exp()) for channel in range(num_channels)]
        for _ in range(num_doublings):
            cosines.append(_rounded((cos for cos, _ in pairs), bits=value_bits))
            sines.append(_rounded((sin for _, sin in pairs), bits=value_bits))
            pairs = [(cos * cos - sin * sin, 2 * cos * sin) for cos, sin in pairs]
    return np.stack(cosines), np.stack(sines)


def _cos_sin(angle: Decimal) -> tuple[Decimal, Decimal]:
    """Sum the series of cos and sin for an angle in (0, 1]."""
    sums, term = [Decimal(0), Decimal(0)], Decimal(1)
    for power in range(40):
        sums[power % 2] += -term if power % 4 > 1 else term
        term = term * angle / (power + 1)
    return sums[0], sums[1]
