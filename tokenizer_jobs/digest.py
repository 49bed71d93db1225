"""The digest: one order-independent hash over (id, codes_sha256, recipe id) of all rows.

Each row is hashed; the hashes are added modulo 2**256. Addition forgets the order and the grouping, and, unlike
exclusive or, does not lose a row that is there twice.
"""

import hashlib
from collections.abc import Iterable
from typing import Self

import numpy as np
import numpy.typing as npt

from tokenizer_jobs.errors import IntegrityError

__all__ = ["Digest", "codes_sha256", "row_digest"]

_MODULUS = 1 << 256
_HEX_DIGITS = 64


def codes_sha256(codes: npt.NDArray[np.uint16]) -> str:
    """Hex sha256 of codes [K, T] as a C-order little-endian uint16 array."""
    return hashlib.sha256(np.ascontiguousarray(codes, dtype="<u2").data).hexdigest()


def row_digest(row_id: str, *, codes_sha256: str, recipe_id: str) -> int:
    """Hash one row to a number below 2**256.

    The two hashes have a fixed length and come first, so that no other row gives the same bytes.
    """
    if len(codes_sha256) != _HEX_DIGITS or len(recipe_id) != _HEX_DIGITS:
        raise IntegrityError(
            f"row {row_id!r}: codes_sha256 = {codes_sha256!r} and recipe id = {recipe_id!r} must be 64 hex digits"
        )
    return int.from_bytes(hashlib.sha256(f"{recipe_id}{codes_sha256}{row_id}".encode()).digest(), "big")


class Digest:
    """A sum of row digests; sums of parts add up to the sum of the whole.

    Args:
        value: Hex form of a sum to start from; None starts from no rows.
    """

    def __init__(self, value: str | None = None) -> None:
        self._sum = 0 if value is None else int(value, 16)

    def add_row(self, row_id: str, *, codes_sha256: str, recipe_id: str) -> None:
        """Add one row."""
        self._sum = (self._sum + row_digest(row_id, codes_sha256=codes_sha256, recipe_id=recipe_id)) % _MODULUS

    def add(self, part: str) -> None:
        """Add the digest of a part, given as hex."""
        self._sum = (self._sum + int(part, 16)) % _MODULUS

    @classmethod
    def total(cls, parts: Iterable[str]) -> Self:
        """Add up the digests of parts, given as hex."""
        whole = cls()
        whole._sum = sum(int(part, 16) for part in parts) % _MODULUS
        return whole

    @property
    def hex(self) -> str:
        """64 hex digits; all zero for no rows."""
        return f"{self._sum:064x}"
