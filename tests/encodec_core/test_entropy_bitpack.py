"""Packing: round trip for any number of bits, and Meta's bytes."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encodec_core.entropy.bitpack import pack_bits, packed_size, unpack_bits
from encodec_core.entropy.coding import BLOCK_VALUES, pack_window, unpack_window
from encodec_core.entropy.errors import EcdcTruncatedError
from tests.encodec_core.models import meta_package


@st.composite
def values_of_some_bits(draw: st.DrawFn) -> tuple[int, list[int]]:
    bits = draw(st.integers(1, 32))
    return bits, draw(st.lists(st.integers(0, 2**bits - 1), max_size=50))


@given(values_of_some_bits())
def test_round_trip(case: tuple[int, list[int]]) -> None:
    bits, values = case
    packed = pack_bits(np.array(values, np.int64), bits=bits)
    assert len(packed) == packed_size(len(values), bits=bits)
    assert unpack_bits(packed, bits=bits, num_values=len(values)).tolist() == values


@settings(deadline=None)  # the reference is slow to import
@given(values_of_some_bits())
def test_bytes_are_the_references(case: tuple[int, list[int]]) -> None:
    bits, values = case
    file = io.BytesIO()
    with meta_package() as encodec:
        packer = encodec.binary.BitPacker(bits, file)
    for value in values:
        packer.push(value)
    packer.flush()
    assert pack_bits(np.array(values, np.int64), bits=bits) == file.getvalue()


@pytest.mark.parametrize("bits", [1, 10, 11])
@pytest.mark.parametrize("num_frames", [1, BLOCK_VALUES // 3, BLOCK_VALUES // 3 + 1, BLOCK_VALUES])
def test_windows_of_several_blocks(bits: int, num_frames: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, num_frames))
    file = io.BytesIO()
    pack_window(codes, bits=bits, file=file)
    assert file.getvalue() == pack_bits(codes.T, bits=bits)
    file.seek(0)
    assert np.array_equal(unpack_window(file, num_codebooks=3, num_frames=num_frames, bits=bits), codes)
    assert file.read() == b""


def test_a_claim_of_more_codes_than_there_are_allocates_nothing() -> None:
    with pytest.raises(EcdcTruncatedError, match="ended"):
        unpack_window(io.BytesIO(bytes(1000)), num_codebooks=32, num_frames=2**48, bits=10)


def test_values_that_do_not_fit_are_refused() -> None:
    for values in ([0, 1024], [-1, 0]):
        with pytest.raises(ValueError, match="do not fit 10 bits"):
            pack_bits(np.array(values), bits=10)
    with pytest.raises(ValueError, match="bits = 33"):
        pack_bits(np.array([0]), bits=33)
    with pytest.raises(ValueError, match="expected 2 bytes"):
        unpack_bits(b"\0", bits=10, num_values=1)
