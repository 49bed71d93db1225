"""The resampler of EnCodec's own conversion: its formula, blocks of any size, and what a header may claim."""

import itertools
import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encodec_core import resample
from encodec_core.resample import ReferenceResampler, convert_blocks

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000]

Samples = npt.NDArray[np.float32]


def noise(num_samples: int, *, channels: int = 1) -> Samples:
    return np.random.default_rng(num_samples).uniform(-1, 1, (num_samples, channels)).astype(np.float32)


def streamed(a: int, b: int, waveform: Samples, cuts: list[int]) -> npt.NDArray[np.generic]:
    resampler = ReferenceResampler(source_rate=a, target_rate=b, channels=waveform.shape[1])
    places = [0, *sorted(cut % (len(waveform) + 1) for cut in cuts), len(waveform)]
    blocks = [resampler.push(waveform[start:end]) for start, end in itertools.pairwise(places)]
    return np.concatenate([*blocks, resampler.flush()])


def converted(blocks: list[Samples], a: int, b: int, *, num_channels: int = 1) -> Samples:
    channels = blocks[0].shape[1]
    return convert_blocks(blocks, source_rate=a, target_rate=b, source_channels=channels, num_channels=num_channels)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([*RATES, 44101]),
    st.sampled_from(RATES),
    st.one_of(st.integers(1, 40), st.integers(1, 6000)),
    st.lists(st.integers(0, 6000), max_size=5),
    st.integers(1, 2),
)
def test_blocks_give_what_the_whole_gives(a: int, b: int, length: int, cuts: list[int], channels: int) -> None:
    waveform = noise(length, channels=channels)
    whole = streamed(a, b, waveform, [])
    np.testing.assert_array_equal(streamed(a, b, waveform, cuts), whole)
    assert whole.shape == (math.ceil(length * b / a), channels)
    assert whole.dtype == np.float32


@pytest.mark.parametrize(("a", "b"), [(44100, 24000), (8000, 24000), (48000, 24000), (22050, 48000), (16000, 32000)])
def test_it_is_the_formula(a: int, b: int) -> None:
    """Against the interpolation formula, written out for each output sample in double precision."""
    waveform = noise(500)
    made = streamed(a, b, waveform, [])[:, 0]
    cutoff = min(a, b) * 0.99  # in Hz, twice the highest frequency that passes
    for output in range(len(made)):
        distance = (np.arange(len(waveform)) / a - output / b) * cutoff
        kernel = np.where(np.abs(distance) < 6, np.sinc(distance) * np.cos(np.pi * distance / 12) ** 2, 0) * cutoff / a
        # float32 rounds taps and products of noise, some 20 of up to 1, by 6e-8 each.
        assert made[output] == pytest.approx(float(kernel @ waveform[:, 0].astype(np.float64)), abs=1e-6)


@pytest.mark.parametrize("rates", [(44_100, 24_000), (24_000, 44_100), (16_000, 16_000)], ids=str)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_conversion_does_not_depend_on_the_size_of_blocks(
    rates: tuple[int, int], num_channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = noise(5000, channels=2)
    whole = converted([waveform], *rates, num_channels=num_channels)
    for size in (97, 700, 4999):
        blocks = [waveform[start : start + size] for start in range(0, 5000, size)]
        np.testing.assert_array_equal(converted(blocks, *rates, num_channels=num_channels), whole)
    monkeypatch.setattr(resample, "MAX_PRODUCTS", 700)
    np.testing.assert_array_equal(converted([waveform], *rates, num_channels=num_channels), whole)


def test_a_tone_stays_the_tone() -> None:
    seconds = np.arange(30_001) / 44_100
    tone = np.sin(2 * np.pi * 440 * seconds).astype(np.float32)
    made = converted([tone[:, None]], 44_100, 24_000, num_channels=2)
    assert made.shape == (2, -(-30_001 * 24_000 // 44_100))
    expected = np.sin(2 * np.pi * 440 * np.arange(made.shape[1]) / 24_000)
    # The kernel of six zero crossings ripples by 1e-3 in the passband; both ends hang over silence.
    np.testing.assert_allclose(made[:, 100:-100], [expected[100:-100]] * 2, rtol=0, atol=2e-3)


@pytest.mark.parametrize(("channels", "expected"), [(1, [0.5, 0.25]), (2, [0.5, 0.25])])
def test_channels_are_mixed_or_doubled(channels: int, expected: list[float]) -> None:
    audio = np.array([[0.5] * channels, [0.25] * channels], np.float32)
    for target in (1, 2):
        assert converted([audio], 8_000, 8_000, num_channels=target).tolist() == [expected] * target
    assert converted([np.array([[1, 0]], np.float32)], 8_000, 8_000).tolist() == [[0.5]]


def test_no_samples_stay_none() -> None:
    for source_rate in (8_000, 24_000):
        assert converted([np.empty((0, 2), np.float32)], source_rate, 24_000).shape == (1, 0)


@pytest.mark.parametrize("rate", [0, 1, 999, 768_001, 2**31 - 1])
def test_rates_that_no_recording_has_are_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=f"{rate} samples per second; expected 1000 to 768000"):
        converted([noise(10)], rate, 24_000)
    with pytest.raises(ValueError, match="taps; expected at most"):
        ReferenceResampler(source_rate=2**31 - 1, target_rate=24_000, channels=1)


def test_memory_is_bounded_at_the_oddest_rates() -> None:
    blocks = [noise(20_000)]
    tracemalloc.start()
    try:
        made = converted(blocks, 1_001, 48_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The result and what it is joined from; 16 bytes for each of 2**20 products, and as much for the arrays between. At
    # once, the products would take 245 MB.
    assert peak < 4 * made.nbytes + 64 * 2**20
