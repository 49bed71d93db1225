"""Windows and their overlap-add."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encodec_core.spans import window_spans
from encodec_core.windows import linear_overlap_add


@settings(deadline=None)
@given(num_samples=st.integers(1, 500), length=st.integers(2, 50), data=st.data())
def test_windows_of_one_recording_add_up_to_it(num_samples: int, length: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, length))
    recording = torch.arange(num_samples, dtype=torch.float64) + 1
    windows = [recording[span] for span in window_spans(num_samples, length=length, stride=stride)]
    whole = linear_overlap_add(windows, stride=stride)
    torch.testing.assert_close(whole[:num_samples], recording)


def test_without_windows_a_recording_is_one() -> None:
    assert window_spans(70_001, length=None, stride=None) == [slice(0, 70_001)]


def test_a_recording_of_the_48_khz_codec_can_end_in_two_part_filled_windows() -> None:
    spans = window_spans(95_140, length=48_000, stride=47_520)
    assert [span.stop - span.start for span in spans] == [48_000, 47_620, 100]


def test_an_overlap_is_a_linear_fade() -> None:
    faded = linear_overlap_add([torch.zeros(1000).double(), torch.ones(1000).double()], stride=800)[800:1000]
    steps = faded.diff()
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    torch.testing.assert_close(faded[0] + faded[-1], torch.ones(()).double())


def test_gaps_between_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="gaps"):
        linear_overlap_add([torch.ones(10), torch.ones(10)], stride=11)


def test_no_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="no windows"):
        linear_overlap_add([], stride=1)
