"""In which order a convolution adds up: the orders of torch's two kernels on one thread of an x86 CPU with AVX-512.

A term is an input channel and a place under the kernel. Terms are multiplied and added in chains, each from zero, and
the chains are added to the bias one after the other. Found by comparing bits with torch 2.13 (oneDNN 3.12, MKL 2024.2)
on AMD EPYC:

    oneDNN     a chain for every 16 input channels; within it place by place, and for each the channels
    product    channel by channel, and for each its places; chains of 192 terms, of half of them all up to 384 terms

oneDNN's bits were those for 1 to 256 channels, kernels of 3 to 16, strides up to 8 and dilations up to 4. Not those of
torch, though no less exact, are

    products of fewer than 12 outputs in time or of fewer than 4 output channels, for which MKL has other kernels:
    recordings and windows of fewer than 12 frames, and codecs of fewer than 8 filters
    kernels of one time step with a dilation, of which torch gives large inputs to oneDNN; no published codec has them
    ELUs of the last C * T % 32 numbers of an activation, which torch computes one by one: they reach the last frames of
    a codec without norms, and all frames of a window of one with norms
"""

from dataclasses import dataclass

import torch

__all__ = ["BLOCK", "Terms", "onednn_terms", "product_terms", "tap_terms", "torch_takes_product"]

BLOCK = 16
"""Channels side by side in a blocked tensor, and floats in a vector of AVX-512."""
PRODUCT_CHAIN = 192
PRODUCT_NUMBERS = 20_480
"""torch convolves an input of at most this many numbers, padding included, as a matrix product
(`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Terms in the order in which they are added."""

    channels: torch.Tensor
    """int64 `[num_terms]`."""
    places: torch.Tensor
    """int64 `[num_terms]`."""
    chain_ends: torch.Tensor
    """int32: one past the last term of each chain."""


def onednn_terms(channels: int, kernel_size: int) -> Terms:
    """Return the terms of oneDNN's direct convolution."""
    order = [
        (channel, place)
        for first in range(0, channels, BLOCK)
        for place in range(kernel_size)
        for channel in range(first, min(first + BLOCK, channels))
    ]
    ends = [min(last, channels) * kernel_size for last in range(BLOCK, channels + BLOCK, BLOCK)]
    return _terms(order, ends)


def product_terms(channels: int, kernel_size: int) -> Terms:
    """Return the terms of MKL's product of a weight matrix and a matrix of inputs."""
    order = [(channel, place) for channel in range(channels) for place in range(kernel_size)]
    num_terms = len(order)
    if num_terms <= PRODUCT_CHAIN:
        ends = [num_terms]
    elif num_terms <= 2 * PRODUCT_CHAIN:
        ends = [-(-num_terms // 2), num_terms]
    else:
        ends = [*range(PRODUCT_CHAIN, num_terms, PRODUCT_CHAIN), num_terms]
    return _terms(order, ends)


def tap_terms(channels: int, taps: int) -> Terms:
    """Return the terms of torch's transposed convolution: a chain for every tap, the latest input's first."""
    order = [(channel, place) for place in reversed(range(taps)) for channel in range(channels)]
    return _terms(order, [channels * tap for tap in range(1, taps + 1)])


def torch_takes_product(num_numbers: int, *, kernel_size: int, stride: int) -> bool:
    """Whether torch convolves one item of so many numbers as a matrix product and not with oneDNN."""
    return (kernel_size == 1 and stride == 1) or num_numbers <= PRODUCT_NUMBERS


def _terms(order: list[tuple[int, int]], ends: list[int]) -> Terms:
    channels, places = torch.tensor(order, dtype=torch.int64, device="cpu").unbind(1)
    return Terms(channels=channels, places=places, chain_ends=torch.tensor(ends, dtype=torch.int32, device="cpu"))
