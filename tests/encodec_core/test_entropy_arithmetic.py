"""The range coder: Meta's shares and bytes, round trips at chunk borders, and streams that are damaged."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from encodec_core.entropy.arithmetic import ArithmeticDecoder, ArithmeticEncoder, quantised_cdf
from encodec_core.entropy.errors import EcdcError, EcdcTruncatedError
from tests.encodec_core.models import meta_package


def distributions(num_steps: int, num_symbols: int, *, sharpness: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(sharpness * torch.randn(num_steps, num_symbols, generator=generator), -1)


def encoded(symbols: list[int], ends: NDArray[np.int64]) -> bytes:
    file = io.BytesIO()
    encoder = ArithmeticEncoder(file.write)
    for symbol, shares in zip(symbols, ends.tolist(), strict=True):
        encoder.push(shares[symbol - 1] if symbol else 0, shares[symbol])
    encoder.flush()
    return file.getvalue()


def mostly_likely(probabilities: Tensor, *, seed: int = 0) -> list[int]:
    """Symbols as they are distributed, with one of the unlikeliest now and then."""
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
    symbols[::17] = probabilities[::17].argmin(-1).tolist()
    return symbols


@pytest.mark.parametrize("num_symbols", [1, 2, 300, 1024])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 3.0])
def test_shares_and_bytes_are_the_references(num_symbols: int, sharpness: float) -> None:
    probabilities = distributions(200, num_symbols, sharpness=sharpness)
    symbols, ends = mostly_likely(probabilities), quantised_cdf(probabilities)
    file = io.BytesIO()
    with meta_package() as encodec:
        coder = encodec.quantization.ac.ArithmeticCoder(file)
        build = encodec.quantization.ac.build_stable_quantized_cdf
    for symbol, row, shares in zip(symbols, probabilities, ends, strict=True):
        theirs = build(row, coder.total_range_bits, check=False)
        assert theirs.tolist() == shares.tolist()
        coder.push(symbol, theirs)
    coder.flush()
    assert encoded(symbols, ends) == file.getvalue()


@st.composite
def streams(draw: st.DrawFn) -> list[tuple[list[int], NDArray[np.int64]]]:
    """Several streams, one behind the other, with any shares of at least 2."""
    chunks = []
    for _ in range(draw(st.integers(1, 3))):
        num_steps, num_symbols = draw(st.integers(0, 30)), draw(st.integers(1, 12))
        generator = np.random.default_rng(draw(st.integers(0, 99)))
        weights = generator.random((num_steps, num_symbols)) ** draw(st.sampled_from([1, 4, 200])) + 1e-30
        shares = weights / weights.sum(-1, keepdims=True) * (2**24 - 3 * num_symbols)
        ends = (np.floor(shares).astype(np.int64) + 2).cumsum(-1)
        symbols = st.integers(0, num_symbols - 1)
        chunks.append((draw(st.lists(symbols, min_size=num_steps, max_size=num_steps)), ends))
    return chunks


@settings(deadline=None)
@given(streams())
def test_streams_behind_one_another_are_read_to_the_byte(chunks: list[tuple[list[int], NDArray[np.int64]]]) -> None:
    file = io.BytesIO(b"".join(encoded(symbols, ends) for symbols, ends in chunks) + b"rest")
    for symbols, ends in chunks:
        decoder = ArithmeticDecoder(file)
        assert [decoder.pull(shares) for shares in ends] == symbols
    assert file.read() == b"rest"


def test_the_size_is_the_entropy() -> None:
    probabilities = distributions(3000, 1024, sharpness=3.0)
    symbols = torch.multinomial(probabilities, 1, generator=torch.Generator().manual_seed(1))[:, 0]
    bits = -probabilities.gather(1, symbols[:, None]).log2().sum().item()
    num_bytes = len(encoded(symbols.tolist(), quantised_cdf(probabilities)))
    # 25 bits tell where in the last range the number lies, and up to 7 fill the byte. Shares of at least 2 of 2**24 for
    # 1,024 entries cost log2(1 + 2**-13) a symbol, half a bit in all.
    assert bits - 1 < 8 * num_bytes < bits + 34


def test_a_stream_that_ends_raises_whatever_it_says() -> None:
    # One symbol is all but certain: 4,000 of them take a bit, and a reader that took zeros for bits would never end.
    ends = quantised_cdf(torch.tensor([[1.0, 0.0]])).repeat(10**5, 0)
    stream = encoded([0] * 10**5, ends)
    assert len(stream) < 20
    decoder = ArithmeticDecoder(io.BytesIO(stream[:-4]))
    with pytest.raises(EcdcTruncatedError, match="ended"):
        list(map(decoder.pull, ends))


def test_shares_that_round_up_beyond_their_range_are_refused() -> None:
    # Where one symbol is nearly certain, float32 can round the shares to a few too many; the reference's coder stops at
    # an assertion then.
    ends = quantised_cdf(distributions(1000, 6, sharpness=30.0))
    too_far = ends[ends[:, -1] > 2**24][0]
    with pytest.raises(ValueError, match=r"cannot be coded in floating point.*FixedPointLanguageModel"):
        encoded([5], too_far[None])


@pytest.mark.parametrize("num_symbols", [64, 256])
def test_what_is_written_can_be_read_though_shares_round_up(num_symbols: int) -> None:
    """An unlikely last symbol, where its share reaches beyond 2**24: what follows may lie where nothing can be."""
    refused = 0
    for seed in range(10):
        probabilities = distributions(40, num_symbols, sharpness=30.0 if num_symbols == 64 else 60.0, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        symbols = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
        ends = quantised_cdf(probabilities)
        (beyond,) = np.nonzero(ends[:-1, -1] > 2**24)
        if len(beyond) > 0:
            symbols[beyond[0]] = num_symbols - 1
        try:
            stream = encoded(symbols, ends)
        except ValueError:
            refused += 1
            continue
        decoder = ArithmeticDecoder(io.BytesIO(stream))
        assert [decoder.pull(shares) for shares in ends] == symbols
    assert 0 < refused < 10


def test_bits_that_are_no_symbols_are_refused() -> None:
    ends = np.array([2, 4])  # all but 4 of 2**24 are nobody's
    with pytest.raises(EcdcError, match="damaged"):
        ArithmeticDecoder(io.BytesIO(b"\xff" * 8)).pull(ends)
