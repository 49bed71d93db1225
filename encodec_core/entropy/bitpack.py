"""Packing codes of any number of bits into bytes, lowest bits first, as Meta's `BitPacker`.

values (10 bits)  | a9 ........ a0 | b9 ........ b0 |
bytes             a7..a0 | b5..b0 a9 a8 | 0..0 b9..b6         what is left of the last byte is zeros
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_BITS", "pack_bits", "packed_size", "unpack_bits"]

MAX_BITS = 32


def packed_size(num_values: int, *, bits: int) -> int:
    """Return the bytes that `num_values` values of `bits` bits take."""
    return -(-num_values * bits // 8)


def pack_bits(values: NDArray[np.integer], *, bits: int) -> bytes:
    """Pack integers in [0, 2**bits), in C order.

    Raises:
        ValueError: a value is out of range, or `bits` is not 1 to 32.
    """
    _check_bits(bits)
    flat = values.ravel()
    if flat.size and (int(flat.min()) < 0 or int(flat.max()) >> bits):
        raise ValueError(
            f"values from {flat.min()} to {flat.max()} do not fit {bits} bits; expected 0 to {2**bits - 1}"
        )
    as_bytes = flat.astype("<u4").view(np.uint8).reshape(-1, 4)
    as_bits = np.unpackbits(as_bytes, axis=1, count=bits, bitorder="little")
    return np.packbits(as_bits, bitorder="little").tobytes()


def unpack_bits(packed: bytes, *, bits: int, num_values: int) -> NDArray[np.int64]:
    """Unpack the first `num_values` values.

    Returns:
        int64 `[num_values]` in [0, 2**bits).

    Raises:
        ValueError: there are fewer bytes than that, or `bits` is not 1 to 32.
    """
    _check_bits(bits)
    if len(packed) < packed_size(num_values, bits=bits):
        raise ValueError(
            f"{len(packed)} bytes hold fewer than {num_values} values of {bits} bits; expected "
            f"{packed_size(num_values, bits=bits)} bytes"
        )
    as_bits = np.unpackbits(np.frombuffer(packed, np.uint8), count=num_values * bits, bitorder="little")
    as_bytes = np.packbits(as_bits.reshape(num_values, bits), axis=1, bitorder="little")
    padded = np.pad(as_bytes, ((0, 0), (0, 4 - as_bytes.shape[1])))
    return padded.view("<u4")[:, 0].astype(np.int64)


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= MAX_BITS:
        raise ValueError(f"bits = {bits}; expected 1 to {MAX_BITS}")
