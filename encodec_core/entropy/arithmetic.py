"""The range coder of the EnCodec paper (section 3.3), bit for bit Meta's.

The encoder keeps a range [low, high] of binary numbers and cuts it down to the share of each symbol. Leading bits on
which low and high agree are final and go out; whenever fewer than 2**24 numbers are left, both grow by a bit:

    low   0.1011|0010...          out: 1011, kept: 0010..., 1100...
    high  0.1011|1100...

All arithmetic is on Python's integers and on products and quotients of float64, which every machine rounds alike.
"""

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encodec_core.entropy.errors import EcdcError, EcdcTruncatedError

__all__ = ["MIN_RANGE", "RANGE_BITS", "ArithmeticDecoder", "ArithmeticEncoder", "quantised_cdf"]

RANGE_BITS = 24
MIN_RANGE = 2
"""Of 2**24: the least share of a symbol, so that an unlikely one can be coded too."""
ROUNDOFF = 1e-8
"""Probabilities are cut to multiples of this, as Meta's code does; the paper says 1e-6."""
_RANGE = 2**RANGE_BITS


def quantised_cdf(probabilities: Tensor) -> NDArray[np.int64]:
    """Share 2**24 out among symbols, to the bit as Meta's `build_stable_quantized_cdf`.

    Args:
        probabilities: float32 `[..., E]`, summing to 1 over E.

    Returns:
        int64 `[..., E]`: the end of each symbol's share; it starts where the one before ends, the first at 0. Shares
        are at least 2.
    """
    num_symbols = probabilities.shape[-1]
    rounded = (probabilities / ROUNDOFF).floor() * ROUNDOFF
    left = (1 - MIN_RANGE * num_symbols / _RANGE) * _RANGE
    shares = (left * rounded).floor().long() + MIN_RANGE
    ends: NDArray[np.int64] = torch.cumsum(shares, dim=-1).cpu().numpy()
    return ends


class _Range:
    """The range [low, high], as the integers of its last `num_bits` bits; the bits before have gone out."""

    def __init__(self) -> None:
        self.low = 0
        self.high = 0
        self.ceiling = 0
        """The lowest `high` so far: numbers above are another symbol's. `high` is above only where shares add up to
        more than 2**24."""
        self.num_bits = 0

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    def missing_bits(self) -> int:
        """Bits by which the range has to grow to hold 2**24 numbers."""
        return max(0, RANGE_BITS + 1 - self.width.bit_length())

    def grow(self, bits: int) -> None:
        self.low <<= bits
        self.high = ((self.high + 1) << bits) - 1
        self.ceiling = ((self.ceiling + 1) << bits) - 1
        self.num_bits += bits

    def narrow(self, start: int, end: int) -> None:
        """Cut the range to the share [start, end) of 2**24."""
        scale = self.width / _RANGE
        self.low, self.high = self.low + math.ceil(start * scale), self.low + math.floor((end - 1) * scale)
        self.ceiling = min(self.ceiling, self.high)

    def drop_prefix(self) -> tuple[int, int]:
        """Remove the leading bits that low and high share; return them and their number."""
        kept = (self.low ^ self.high).bit_length()
        bits, num_bits = self.low >> kept, self.num_bits - kept
        self.low -= bits << kept
        self.high -= bits << kept
        self.ceiling -= bits << kept
        self.num_bits = kept
        return bits, num_bits


class ArithmeticEncoder:
    """Codes symbols, each by a distribution of its own.

    Args:
        write: is given the bytes as they come.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._range = _Range()
        self._byte = 0
        self._num_bits = 0

    def push(self, start: int, end: int) -> None:
        """Code a symbol whose share of 2**24 is [start, end).

        Raises:
            ValueError: what is left of the range belongs to other symbols. float32 shares of a nearly certain symbol
                can add up to a few more than 2**24, and the last symbol's then ends where an earlier choice begins; a
                decoder would find that one, or none. Meta's coder stops at an assertion, or writes it.
        """
        self._range.grow(self._range.missing_bits())
        self._range.narrow(start, end)
        if self._range.low > self._range.ceiling or self._range.high >> self._range.num_bits:
            raise ValueError(
                f"these codes cannot be coded in floating point: probabilities were rounded up, beyond {_RANGE} shares "
                f"(up to {end} here). Use FixedPointLanguageModel (--fixed-point on the command line), which has no "
                "such case"
            )
        self._send(*self._range.drop_prefix())

    def flush(self) -> None:
        """Send what makes the symbols so far decodable, filled with zeros to a whole byte."""
        self._send(self._range.low, self._range.num_bits)
        if self._num_bits:
            self._write(bytes([self._byte]))
        self._range = _Range()
        self._byte = self._num_bits = 0

    def _send(self, bits: int, num_bits: int) -> None:
        for place in reversed(range(num_bits)):
            self._byte |= (bits >> place & 1) << self._num_bits
            self._num_bits += 1
            if self._num_bits == 8:
                self._write(bytes([self._byte]))
                self._byte = self._num_bits = 0


class ArithmeticDecoder:
    """Finds the symbols again. It reads no byte that the encoder did not write, so that other data may follow.

    Args:
        file: is read byte by byte.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._range = _Range()
        self._current = 0
        """The bits read, less those that the range has dropped."""
        self._byte = 0
        self._num_bits = 0

    def pull(self, ends: NDArray[np.int64]) -> int:
        """Return the next symbol.

        Args:
            ends: int64 `[E]`, exactly what the encoder used; see `quantised_cdf`.

        Raises:
            EcdcTruncatedError: the stream ended.
            EcdcError: no symbol has such bits.
        """
        missing = self._range.missing_bits()
        for _ in range(missing):
            self._current = self._current << 1 | self._next_bit()
        self._range.grow(missing)
        scale = self._range.width / _RANGE
        offset = self._current - self._range.low
        symbol = bisect_right(ends, offset, key=lambda end: math.ceil(int(end) * scale))
        start = int(ends[symbol - 1]) if symbol else 0
        if symbol == len(ends) or offset > math.floor((int(ends[symbol]) - 1) * scale):
            raise EcdcError(
                "no code has the bits that come next: the stream is damaged, or was made by another language model or "
                "on another kind of machine. Use the fixed-point coder for files that travel"
            )
        self._range.narrow(start, int(ends[symbol]))
        if self._range.high >> self._range.num_bits:
            raise EcdcError(
                f"the share from {start} to {int(ends[symbol])} lies beyond {_RANGE}: the stream is damaged. Copy the "
                "file again"
            )
        bits, _ = self._range.drop_prefix()
        self._current -= bits << self._range.num_bits
        return int(symbol)

    def _next_bit(self) -> int:
        if self._num_bits == 0:
            byte = self._file.read(1)
            if not byte:
                raise EcdcTruncatedError("the stream ended sooner than its header says; copy the file again")
            self._byte, self._num_bits = byte[0], 8
        self._num_bits -= 1
        bit = self._byte & 1
        self._byte >>= 1
        return bit
